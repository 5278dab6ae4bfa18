"""The halo of a tensor: zeros around its spatial axes, written by whatever kernel makes the tensor.

    for n, c in parallel: rows above and below, then columns left and right, each a vector loop over what is contiguous
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..tensor import Tensor

if TYPE_CHECKING:
    from ..lowering import Lowering


def zero_halo(lowering: Lowering, tensor: Tensor, buffer: ir.Buffer) -> None:
    """Emits loops that store zeros to the halo of ``tensor``, if it has one."""
    b = lowering.builder
    extents = lowering.extents.shape(tensor)
    buffer = replace(buffer, shape=extents, strides=ir.contiguous(extents), base=buffer, start=None)
    zero = ir.wrap(0, tensor.dtype)
    outer = [lowering.extents(e) for e in tensor.physical[:2]]
    lanes = [ir.Const(tensor.layout.block)] if tensor.layout.block else []
    for axis, (before, after) in enumerate(tensor.layout.halo):
        extent = lowering.extents(tensor.shape[2 + axis])
        for count, start in ((before, ir.ZERO), (after, extent + before)):
            if not count:
                continue
            shape: list[ir.Expr] = [ir.Const(count) if i == axis else e for i, e in enumerate(_slab(lowering, tensor, axis))]
            with b.loops("z", outer, "parallel") as place, b.collect() as inner:
                inside = [ir.Var(f"s{i}", extent=e) for i, e in enumerate([*shape, *lanes])]
                index = [v + start if i == axis else v + _skip(tensor, axis, i) for i, v in enumerate(inside)]
                b.store(buffer, (*place, *index), zero)
            _wrap(lowering, inside, tuple(inner))


def _slab(lowering: Lowering, tensor: Tensor, axis: int) -> list[ir.Expr]:
    """The extents of a slab across ``axis``: earlier axes without their halo (done already), later ones with it."""
    sizes = zip(tensor.shape[2:], tensor.layout.halo, strict=True)
    return [lowering.extents(n if i < axis else n + p + q) for i, (n, (p, q)) in enumerate(sizes)]


def _skip(tensor: Tensor, axis: int, i: int) -> int:
    return tensor.layout.halo[i][0] if i < axis else 0


def _wrap(lowering: Lowering, variables: list[ir.Var], body: ir.Body) -> None:
    """Puts ``body`` into serial loops, the last one a vector loop, inside the parallel loops emitted last."""
    for depth, var in reversed(list(enumerate(variables))):
        assert var.extent is not None
        body = (ir.For(var, var.extent, body, "vector" if depth == len(variables) - 1 else "serial"),)
    statements = lowering.builder.body
    outer = statements.pop()
    statements.append(_inside(outer, body))


def _inside(outer: ir.Stmt, body: ir.Body) -> ir.Stmt:
    assert isinstance(outer, ir.For)
    inner = (_inside(outer.body[0], body),) if outer.body else body
    return ir.For(outer.var, outer.extent, inner, outer.kind)
