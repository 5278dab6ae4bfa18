"""MaxUnpool (ONNX operator specification, opset 22): the inverse of MaxPool with positions."""

from __future__ import annotations

from math import prod

from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op
from .infer import InferContext
from .registry import nest


def _inverse_shape(context: InferContext) -> tuple[int, ...]:
    """The shape of what was pooled, as the attributes tell."""
    shape = context.shape(0)
    rank = len(shape) - 2
    kernel: list[int] = context.attr("kernel_shape", [])
    strides, pads = context.attr("strides", [1] * rank), context.attr("pads", [0] * (2 * rank))
    if rank < 1 or len(kernel) != rank or len(strides) != rank or len(pads) != 2 * rank:
        raise context.fail(f"kernel_shape {kernel}, strides {strides} and pads {pads} do not suit an input of shape {shape}")
    sizes = zip(shape[2:], kernel, strides, pads[:rank], pads[rank:], strict=True)
    return (*shape[:2], *((extent - 1) * s - p - q + k for extent, k, s, p, q in sizes))


def _infer(context: InferContext) -> TensorType:
    if context.shape(1) != context.shape(0):
        raise context.fail(f"input 1 has shape {context.shape(1)}; the shape of input 0, {context.shape(0)}, is required")
    inner, wanted = _inverse_shape(context), context.ints(2)
    if min(inner) < 0 or (wanted is not None and (len(wanted) != len(inner) or any(w < i for w, i in zip(wanted, inner)))):  # noqa: B905
        raise context.fail(f"what was pooled has shape {inner}; an output of shape {wanted} does not hold it")
    return TensorType(context.dtype(0), wanted or inner)


@nest("MaxUnpool", infer=_infer, values=(2,))
def max_unpool(op: Op, b: Builder) -> None:
    """Each element at the position it was taken from (input 1, counted through the tensor that was pooled), zeros elsewhere."""
    x, positions, y = op.input(0), op.input(1), op.output(0)
    inner = _inverse_shape(op)
    with b.loops("z", y.shape) as place:
        y.store(place, ir.wrap(0, y.dtype))
    with b.loops("i", x.shape) as place:
        at = b.let("at", ir.cast(positions(*place), ir.INDEX))
        last = prod(inner) - 1
        message = f"position {{value}} is outside [0, {last}] of what was pooled into {x.name!r}"
        b.fail_if((at < 0) | (at > ir.Const(last)), message, at)
        target: list[ir.Expr] = []
        for extent in reversed(inner):
            target.append(at % ir.Const(extent))
            at = b.let("at", at // ir.Const(extent))
        y.store(tuple(reversed(target)), x(*place))
