"""The loops of a sum of products over what is summed: channels in blocks, and long sums in parts."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

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
    length: ir.Expr | None = None
    """Iterations of the first loop at most, where the last part may be shorter."""

    def extent(self, var: ir.Var) -> ir.Expr:
        """The memory that ``var``, one of ``loops``, needs."""
        if self.length is not None and var is self.loops[0]:
            return self.length
        assert var.extent is not None
        return var.extent


def sum_loops(a: Contraction, most: int) -> Sum:
    """The loops of ``a``, in parts of at most ``most`` products."""
    loops, values = _reduce_loops(a.reduce, a)
    if len(loops) == 1 and isinstance(loops[0].extent, ir.Param) and loops[0].extent.hint > most:
        return _uneven(loops[0], values, most)
    loops, values, parts = in_parts(loops, values, most)
    return Sum(tuple(loops[:parts]), tuple(loops[parts:]), tuple(values))


def _uneven(var: ir.Var, values: list[ir.Expr], most: int) -> Sum:
    """Parts of a sum whose length only the plan knows: the last one takes what is left."""
    assert var.extent is not None
    part = ir.Var(f"{var.name}_part", extent=(var.extent + (most - 1)) // most)
    inner = ir.Var(var.name, extent=ir.minimum(ir.Const(most), var.extent - part * most))
    return Sum((part,), (inner,), tuple(ir.substitute(v, {var: part * most + inner}) for v in values), ir.Const(most))


def _reduce_loops(reduce: Reduce, a: Contraction) -> tuple[list[ir.Var], list[ir.Expr]]:
    """Loops over the reduced axes and the axes' values. In a blocked layout the channels come as blocks outside and lanes innermost; around
    two taps as the largest equal parts of blocks, where these are not all whole: such a loop, innermost, is unrolled, and what the taps
    share is kept in registers that there are not."""
    loops: list[ir.Var] = []
    values: list[ir.Expr] = []
    innermost: list[ir.Var] = []
    buffers = {load.buffer for load in a.loads()}
    block = max((a.lowering.tensors[name].layout.block for name, b in a.lowering.buffers.items() if b in buffers), default=0)
    two_taps = len(reduce.axes) > 1 and ir.is_const(ir.index(reduce.axes[-1][1]), 2)
    for name, extent in reduce.axes:
        bound = ir.index(extent)
        unit = gcd(ir.hint(bound), block) if isinstance(bound, ir.Const) else 1
        if ir.is_const(bound, 1):
            values.append(ir.ZERO)
        elif not loops and not values and unit > 1 and (two_taps or unit == block):
            outer = ir.Var(f"{name}_o", extent=ir.Const(ir.hint(bound) // unit))
            lane = ir.Var(f"{name}_i", extent=ir.Const(unit))
            if ir.hint(bound) > unit:
                loops.append(outer)
                values.append(outer * unit + lane)
            else:
                values.append(lane)
            innermost.append(lane)
        else:
            var = ir.Var(name, extent=bound)
            loops.append(var)
            values.append(var)
    return [*loops, *innermost], values
