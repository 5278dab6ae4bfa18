"""The loops of a sum of products over what is summed: channels in blocks, and long sums in parts."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import loops as ir
from ..ops.context import Reduce
from .contraction import Contraction
from .register_tile import in_parts


@dataclass(frozen=True)
class Sum:
    """Loops over parts (none or one), loops over a part, and the values of the reduced axes in them."""

    parts: tuple[ir.Var, ...]
    loops: tuple[ir.Var, ...]
    values: tuple[ir.Expr, ...]


def sum_loops(a: Contraction, most: int) -> Sum:
    """The loops of ``a``, in parts of at most ``most`` products."""
    loops, values = _reduce_loops(a.reduce, a)
    loops, values, parts = in_parts(loops, values, most)
    return Sum(tuple(loops[:parts]), tuple(loops[parts:]), tuple(values))


def _reduce_loops(reduce: Reduce, a: Contraction) -> tuple[list[ir.Var], list[ir.Expr]]:
    """Loops over the reduced axes and the axes' values. In a blocked layout the channels come as blocks outside and lanes innermost."""
    block = a.lowering.target.block
    loops: list[ir.Var] = []
    values: list[ir.Expr] = []
    innermost: list[ir.Var] = []
    blocked = any(len(load.buffer.shape) == len(a.axes) + 1 and ir.is_const(load.buffer.shape[-1], block) for load in a.loads())
    for name, extent in reduce.axes:
        bound = ir.index(extent)
        if ir.is_const(bound, 1):
            values.append(ir.ZERO)
        elif blocked and not loops and not values and isinstance(bound, ir.Const) and int(bound.value) % block == 0:  # type: ignore[arg-type]
            outer = ir.Var(f"{name}_o", extent=ir.Const(int(bound.value) // block))  # type: ignore[arg-type]
            lane = ir.Var(f"{name}_i", extent=ir.Const(block))
            if not ir.is_const(outer.extent, 1):  # type: ignore[arg-type]
                loops.append(outer)
                values.append(outer * block + lane)
            else:
                values.append(lane)
            innermost.append(lane)
        else:
            var = ir.Var(name, extent=bound)
            loops.append(var)
            values.append(var)
    return [*loops, *innermost], values
