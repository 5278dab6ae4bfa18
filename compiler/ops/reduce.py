"""Reductions over axes (ONNX operator specification, opset 13 to 28): ReduceSum, ReduceMean, ReduceMax and their family.

Input 1 holds the axes (int64, negative from the back; absent or empty: all, or none with ``noop_with_empty_axes``). The result has the
dtype of the input; the reduced axes have extent 1, or are gone without ``keepdims``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op, Reduce
from .infer import InferContext
from .lines import lines
from .registry import nest, reduction


def reduced_axes(context: InferContext) -> tuple[int, ...]:
    """The axes that are reduced, counted from the front, in order."""
    rank = context.rank(0)
    axes = context.ints(1) or ()
    if not axes:
        return () if context.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    found = {context.axis(axis, rank) for axis in axes}
    if len(found) != len(axes):
        raise context.fail(f"axes {list(axes)} name an axis twice")
    return tuple(sorted(found))


def without_axes(shape: tuple[int, ...], axes: tuple[int, ...], *, keepdims: bool) -> tuple[int, ...]:
    """``shape`` after a reduction over ``axes``."""
    if keepdims:
        return tuple(1 if i in axes else extent for i, extent in enumerate(shape))
    return tuple(extent for i, extent in enumerate(shape) if i not in axes)


def _infer(context: InferContext) -> TensorType:
    axes, keepdims = reduced_axes(context), bool(context.attr("keepdims", 1))
    return TensorType(context.dtype(0), without_axes(context.shape(0), axes, keepdims=keepdims))


Map = Callable[[ir.Expr], ir.Expr]


@dataclass(frozen=True)
class _Kind:
    """A reduction: ``op`` of ``term`` of each element, then ``finish``."""

    op: str
    term: Map = lambda x: x
    finish: Map = lambda total: total


def _in_float(function: str) -> Map:
    """A function of floats; an integer goes through float64 and is truncated."""

    def apply(x: ir.Expr) -> ir.Expr:
        wide = x if x.dtype.is_float else ir.cast(x, dtypes.float64)
        return ir.cast(ir.unary(function, wide), x.dtype)

    return apply


_KINDS = {
    "ReduceSum": _Kind("add"),
    "ReduceMean": _Kind("add"),
    "ReduceMax": _Kind("max"),
    "ReduceMin": _Kind("min"),
    "ReduceProd": _Kind("mul"),
    "ReduceL1": _Kind("add", lambda x: ir.unary("abs", x)),
    "ReduceL2": _Kind("add", lambda x: x * x, _in_float("sqrt")),
    "ReduceSumSquare": _Kind("add", lambda x: x * x),
    "ReduceLogSum": _Kind("add", finish=_in_float("log")),
}


@reduction(*_KINDS, infer=_infer, values=(1,), prologue=True)
def reduce_axes(op: Op, index: tuple[ir.Expr, ...]) -> Reduce:
    """Each element of the result from the elements of the reduced axes."""
    x, axes, kind = op.input(0), reduced_axes(op), _KINDS[op.node.op]
    kept = [axis for axis in range(x.rank) if axis not in axes]
    outer = index if len(index) == len(kept) else tuple(index[axis] for axis in kept)

    def term(*inner: ir.Expr) -> ir.Expr:
        place = dict(zip(kept, outer, strict=True)) | dict(zip(axes, inner, strict=True))
        return kind.term(x(*(place[axis] for axis in range(x.rank))))

    def mean(total: ir.Expr) -> ir.Expr:
        count: ir.Expr = ir.ONE
        for axis in axes:
            count = ir.mul(count, x.shape[axis])
        return total / ir.cast(count, total.dtype)

    reducing = tuple((f"k{axis}", x.shape[axis]) for axis in axes)
    return Reduce(_on_bool(kind.op, x.dtype), reducing, term, mean if op.node.op == "ReduceMean" else kind.finish)


def _on_bool(op: str, dtype: object) -> str:
    """False < True: the maximum is "or", the minimum "and"."""
    return {"max": "or", "min": "and"}[op] if dtype is dtypes.bool_ else op


@nest("ReduceLogSumExp", infer=_infer, values=(1,), prologue=True, epilogue=True)
def reduce_log_sum_exp(op: Op, b: Builder) -> None:
    """max + log(sum(exp(x - max))), which does not overflow; an infinite maximum is not subtracted."""
    x, y, axes = op.input(0), op.output(0), reduced_axes(op)
    with lines(b, x, axes) as line:
        read, kept = line.reader(x)
        highest = line.reduce("highest", "max", lambda k: x(*line.at(k)), keep=kept)
        shift = b.let("shift", ir.select(ir.unary("isinf", highest), ir.Const(0.0, x.dtype), highest))
        total = line.reduce("total", "add", lambda k: ir.unary("exp", read(k) - shift))
        index = line.at([0] * len(axes))
        own = index if y.rank == x.rank else tuple(i for axis, i in enumerate(index) if axis not in axes)
        y.store(own, ir.unary("log", total) + shift)
