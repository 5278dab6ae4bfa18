"""The halo of a tensor: zeros around its spatial axes, written by whatever kernel makes the tensor.

for n, c in parallel: rows above and below, then columns left and right, each a vector loop over what is contiguous

A task that makes whole rows writes the halo around them itself, while their lines are in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..ops.builder import Builder
from ..ops.context import compute_dtype
from ..tensor import Tensor

if TYPE_CHECKING:
    from ..lowering import Lowering


def zero_halo(lowering: Lowering, tensor: Tensor, buffer: ir.Buffer) -> None:
    """Emits loops that store zeros to the halo of ``tensor``."""
    b = lowering.builder
    extents = lowering.extents.shape(tensor)
    whole = replace(buffer, shape=extents, strides=ir.contiguous(extents), base=buffer, start=None)
    with b.loops("z", [lowering.extents(e) for e in tensor.physical[:2]], "parallel") as place:
        for starts, sizes in _slabs(lowering, tensor):
            _fill(b, whole, place, starts, sizes)


def zero_halo_of_rows(
    lowering: Lowering, tensor: Tensor, buffer: ir.Buffer, place: Sequence[ir.Expr], first: ir.Expr, rows: ir.Expr
) -> None:
    """Emits loops that store zeros beside ``rows`` rows of an image from ``first`` on, above the first and below the last of all; ``place``
    are the image and its block of channels."""
    b = lowering.builder
    extents = lowering.extents.shape(tensor)
    whole = replace(buffer, shape=extents, strides=ir.contiguous(extents), base=buffer, start=None)
    (above, below), (left, right) = tensor.layout.halo
    height, width = (lowering.extents(n) for n in tensor.shape[2:])
    lanes = ir.Const(tensor.layout.block)
    across = lowering.extents(tensor.physical[3])
    for count, start, condition in ((above, ir.ZERO, first.eq(0)), (below, height + above, (first + rows).eq(height))):
        if count:
            with b.when(condition):
                _fill(b, whole, place, [start, ir.ZERO, ir.ZERO], [ir.Const(count), across, lanes])
    for count, start in ((left, ir.ZERO), (right, width + left)):
        if count:
            _fill(b, whole, place, [first + above, start, ir.ZERO], [rows, ir.Const(count), lanes])


def _slabs(lowering: Lowering, tensor: Tensor) -> Iterator[tuple[list[ir.Expr], list[ir.Expr]]]:
    """First places and extents of the slabs of the halo: across each axis, without the halo of the axes before, which is done already."""
    halo, sizes = tensor.layout.halo, tensor.shape[2:]
    lanes = [ir.Const(tensor.layout.block)] if tensor.layout.block else []
    for axis, (before, after) in enumerate(halo):
        for count, start in ((before, 0), (after, before + sizes[axis])):
            if not count:
                continue
            starts = [halo[i][0] if i < axis else start if i == axis else 0 for i in range(len(halo))]
            across = [n if i < axis else count if i == axis else n + sum(halo[i]) for i, n in enumerate(sizes)]
            extents = [ir.Const(n) if i == axis and not lanes else lowering.extents(n) for i, n in enumerate(across)]
            first = [lowering.extents(n) if i == axis and n > before else ir.Const(n) for i, n in enumerate(starts)]
            yield [*first, *(ir.ZERO for _ in lanes)], [*extents, *lanes]


def _fill(b: Builder, buffer: ir.Buffer, place: Sequence[ir.Expr], starts: list[ir.Expr], sizes: list[ir.Expr]) -> None:
    variables = [ir.Var(f"s{i}", extent=size) for i, size in enumerate(sizes)]
    index = (*place, *(start + var for start, var in zip(starts, variables, strict=True)))
    body: ir.Body = (ir.Store(buffer, index, ir.cast(ir.wrap(0, compute_dtype(buffer.dtype)), buffer.dtype)),)
    for depth, (var, size) in reversed(list(enumerate(zip(variables, sizes, strict=True)))):
        body = (ir.For(var, size, body, "vector" if depth == len(sizes) - 1 else "serial"),)
    b.emit(body[0])
