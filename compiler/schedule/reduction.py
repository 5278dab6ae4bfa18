"""Reductions without a register tile: loops over the output, with the reduction inside.

Where the innermost reduced axis is the one that walks memory element by element, it is the vector loop (the lanes hold partial results);
otherwise the output's last axis is, and each lane holds the result of its own output element.

    y[i] = sum_k x[i, k]   ->   for i in parallel: for k in vector: total += x[i, k]
    y[j] = sum_k x[k, j]   ->   for j in vector: for k in range: total += x[k, j]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..ops.builder import neutral
from ..ops.context import Op, Reduce
from ..tensor import Tensor

if TYPE_CHECKING:
    from ..lowering import Lowering


def lower_reduction(lowering: Lowering, op: Op, define: Callable[..., Reduce]) -> None:
    """Emits the loops of a reduction and stores its elements."""
    b = lowering.builder
    tensor = lowering.tensors[op.node.outputs[0]]
    shape = lowering.extents.shape(tensor)
    place: list[ir.Expr] = [ir.ZERO if ir.is_const(e, 1) else ir.Var(f"i{axis}", extent=e) for axis, e in enumerate(shape)]
    index = logical_index(tensor, place)
    reduce = define(*index)
    axes = [ir.Var(name, extent=ir.index(extent)) for name, extent in reduce.axes]
    term = reduce.term(*(ir.ZERO if v.extent is not None and ir.is_const(v.extent, 1) else v for v in axes))
    axes = [v for v in axes if v.extent is not None and not ir.is_const(v.extent, 1)]
    loops = [v for v in place if isinstance(v, ir.Var)]
    inside = bool(axes) and _walks(term, axes[-1]) and not (loops and _walks(term, loops[-1]))
    first = reduce.first if reduce.first is not None else neutral(reduce.op, term.dtype)

    def body() -> None:
        total = b.scalar("total", first)
        with b.collect() as innermost:
            b.assign(total, ir.Binary(reduce.op, total, term))
        nested: ir.Body = tuple(innermost)
        for var in reversed(axes):
            assert var.extent is not None
            nested = (ir.For(var, var.extent, nested, "vector" if inside and var is axes[-1] else "serial"),)
        for stmt in nested:
            b.emit(stmt)
        lowering.write(tensor.name, index, reduce.finish(total))

    _nest(lowering, loops, body, vector=not inside)


def _nest(lowering: Lowering, loops: list[ir.Var], body: Callable[[], None], *, vector: bool) -> None:
    """``body`` inside the loops: all parallel, but the last one a vector loop where asked for."""
    b = lowering.builder
    with b.collect() as inner:
        body()
    nested: ir.Body = tuple(inner)
    for depth, var in reversed(list(enumerate(loops))):
        assert var.extent is not None
        kind: ir.LoopKind = "vector" if vector and depth == len(loops) - 1 else "parallel"
        nested = (ir.For(var, var.extent, nested, kind),)
    for stmt in nested:
        b.emit(stmt)


def logical_index(tensor: Tensor, place: Sequence[ir.Expr]) -> tuple[ir.Expr, ...]:
    """The logical index of a place in memory."""
    block = tensor.layout.block
    if not block:
        return tuple(place)
    n, c, *rest, lane = place
    return (n, c * block + lane, *rest)


def _walks(term: ir.Expr, var: ir.Var) -> bool:
    """Whether some load of ``term`` moves by one element per step of ``var``."""
    return any(isinstance(e, ir.Load) and step_of(e, var) == 1 for e in ir.walk(term))


def step_of(load: ir.Load, var: ir.Var) -> int | None:
    """How many elements a load moves when ``var`` grows by one; None where that is not one number."""
    offset = load.buffer.offset(load.index)
    at = [ir.substitute(offset, {var: ir.Const(value)}) for value in (0, 1)]
    others = {v: ir.ZERO for v in ir.walk(offset) if isinstance(v, ir.Var) and v is not var}
    try:
        zero, one = (ir.hint(ir.substitute(e, others)) for e in at)
    except ValueError:
        return None
    return one - zero
