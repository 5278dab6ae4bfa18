"""GlobalMaxPool, GlobalAveragePool and GlobalLpPool (ONNX operator specification, opset 22): one element per channel."""

from __future__ import annotations

from collections.abc import Callable

from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op, Reduce
from .infer import InferContext
from .pooling import power_root, power_term
from .registry import reduction

Map = Callable[[ir.Expr], ir.Expr]


def _infer(context: InferContext) -> TensorType:
    shape = context.shape(0)
    if len(shape) < 3:
        raise context.fail(f"the input has shape {shape}; at least one spatial axis is required")
    return TensorType(context.dtype(0), (*shape[:2], *(1 for _ in shape[2:])))


def _over_space(op: Op, index: tuple[ir.Expr, ...], kind: str, term: Map = lambda x: x, finish: Map = lambda x: x) -> Reduce:
    x = op.input(0)
    axes = tuple((f"k{i}", extent) for i, extent in enumerate(x.shape[2:]))
    return Reduce(kind, axes, lambda *place: term(x(*index[:2], *place)), finish)


@reduction("GlobalMaxPool", infer=_infer, prologue=True)
def global_max_pool(op: Op, index: tuple[ir.Expr, ...]) -> Reduce:
    return _over_space(op, index, "max")


@reduction("GlobalAveragePool", infer=_infer, prologue=True)
def global_average_pool(op: Op, index: tuple[ir.Expr, ...]) -> Reduce:
    count: ir.Expr = ir.ONE
    for extent in op.input(0).shape[2:]:
        count = ir.mul(count, extent)
    return _over_space(op, index, "add", finish=lambda total: total / ir.cast(count, total.dtype))


@reduction("GlobalLpPool", infer=_infer, prologue=True)
def global_lp_pool(op: Op, index: tuple[ir.Expr, ...]) -> Reduce:
    p = op.attr("p", 2)
    return _over_space(op, index, "add", power_term(p), lambda total: power_root(p, total))
