"""Pointwise groups on flat memory: adjacent axes along which every operand walks evenly become one.

y[n, c, h, w] = relu(x[n, c, h, w] + b[c])   ->   y[i, j] = relu(x[i, j] + b[i]),  i = n * c, j = h * w
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..tensor import Tensor
from .strided import ordered_loops

if TYPE_CHECKING:
    from ..lowering import Lowering


def lower_pointwise(lowering: Lowering, root: str) -> bool:
    """Lowers a group of pointwise nodes; False where an operand's memory does not follow the output's axes, or not in their order."""
    out = lowering.tensors[root]
    names = [n for n in lowering.group.inputs if lowering.scalar(n) is None]
    found = {name: operand_strides(lowering.tensors[name], out) for name in names}
    for name in lowering.group.outputs:
        found[name] = operand_strides(lowering.tensors[name], out)
    strides = {name: s for name, s in found.items() if s is not None}
    if len(strides) != len(found):
        return False
    extents, merged = merge_axes(out.inner, list(strides.values()))
    if any(_transposed(extents, steps) for steps in merged):
        return False
    keep_block = bool(out.layout.block) and extents[-1] == out.layout.block
    shape = tuple(ir.Const(e) if keep_block and i == len(extents) - 1 else lowering.extents(e) for i, e in enumerate(extents))
    for name, steps in zip(strides, merged, strict=True):
        scope: ir.Scope = "output" if name in lowering.group.outputs else "input"
        number = list(strides).index(name)
        lowering.buffers[name] = ir.Buffer(
            f"{'y' if scope == 'output' else 'x'}{number}",
            lowering.tensors[name].dtype,
            tuple(ir.ONE if s == 0 else e for e, s in zip(shape, steps, strict=True)),
            tuple(ir.Const(s) if s in (0, 1) else lowering.extents(s) for s in steps),
            scope,
            start=lowering.extents(lowering.tensors[name].start) if lowering.tensors[name].layout.halo else None,
        )

    def emit(place: list[ir.Expr]) -> None:
        values: dict[str, ir.Expr] = {}

        def value(name: str) -> ir.Expr:
            if name not in values:
                if name in lowering.inner:
                    values[name] = compute(name)
                else:
                    scalar = lowering.scalar(name)
                    values[name] = scalar if scalar is not None else load(name)
            return values[name]

        def load(name: str) -> ir.Expr:
            buffer = lowering.buffers[name]
            here = tuple(ir.ZERO if ir.is_const(s, 0) else i for i, s in zip(place, buffer.strides, strict=True))
            return ir.Load(buffer, here)

        def compute(name: str) -> ir.Expr:
            node = lowering.inner[name]
            return lowering.builder.let(node.op.lower(), lowering.apply(node, value))

        for name in lowering.group.outputs:
            result = ir.cast(value(name), lowering.tensors[name].dtype)
            lowering.builder.emit(ir.Store(lowering.buffers[name], tuple(place), result))

    ordered_loops(lowering.builder, shape, emit)
    return True


def operand_strides(tensor: Tensor, out: Tensor) -> tuple[int, ...] | None:
    """The element stride of ``tensor`` along each physical axis of ``out`` (0 where it is broadcast), None where there is none."""
    if tensor.layout.block:
        if tensor.layout.block != out.layout.block:
            return None
        return tuple(0 if have == 1 else s for have, s in zip(tensor.inner, tensor.strides(), strict=True))
    missing = len(out.shape) - len(tensor.shape)
    own = (0 if e == 1 else s for e, s in zip(tensor.shape, tensor.strides(), strict=True))
    strides = (*(0,) * missing, *own)
    block = out.layout.block
    if not block:
        return strides
    n, c, *rest = strides
    if c and out.shape[1] % block:
        return None
    return (n, c * block, *rest, c)


def _transposed(extents: list[int], steps: list[int]) -> bool:
    """Whether an operand jumps along the last axis and is contiguous along another: it is better read in blocks (see ``strided``)."""
    return steps[-1] > 1 and any(step == 1 and extent > 1 for step, extent in zip(steps, extents, strict=True))


def merge_axes(extents: tuple[int, ...], strides: list[tuple[int, ...]]) -> tuple[list[int], list[list[int]]]:
    """Drops axes of extent 1, and joins each pair of neighbours that all operands cross evenly."""
    shape: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, extent in enumerate(extents):
        if extent == 1:
            continue
        here = [s[axis] for s in strides]
        if shape and all(own[-1] == step * extent for own, step in zip(steps, here, strict=True)):
            shape[-1] *= extent
            for own, step in zip(steps, here, strict=True):
                own[-1] = step
        else:
            shape.append(extent)
            for own, step in zip(steps, here, strict=True):
                own.append(step)
    return (shape, steps) if shape else ([1], [[0] for _ in strides])
