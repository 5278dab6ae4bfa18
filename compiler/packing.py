"""Packing constants: a weight laid out in the order in which a kernel's loops read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..ir import loops as ir
from ..runtime.buffers import aligned_empty


def pack(array: np.ndarray, index: Sequence[ir.Expr], order: Sequence[ir.Var]) -> np.ndarray:
    """``result[order...] = array[index(order...)]``, zero where the index lies outside of ``array``. C-contiguous, on a cache line.

    ``index`` has one expression per axis of ``array``, over the variables ``order``, whose extents shape the result.
    """
    extents = tuple(ir.hint(v.extent) for v in order if v.extent is not None)
    result, _ = aligned_empty(extents, array.dtype, prod(extents) * array.dtype.itemsize)
    walk = _walk(array, index, order, extents)
    result[...] = _gather(array, index, order, extents) if walk is None else walk
    return result


def _walk(array: np.ndarray, index: Sequence[ir.Expr], order: Sequence[ir.Var], extents: tuple[int, ...]) -> np.ndarray | None:
    """The packed array as a view of ``array``, when every index moves evenly and stays inside: copying that is as fast as memory is."""
    start: list[slice] = []
    strides = [0] * len(order)
    for e, extent, stride in zip(index, array.shape, array.strides, strict=True):
        form = _affine(e)
        if form is None:
            return None
        offset, steps = form
        reach = [steps.get(v, 0) * (count - 1) for v, count in zip(order, extents, strict=True)]
        if offset + sum(r for r in reach if r < 0) < 0 or offset + sum(r for r in reach if r > 0) >= extent or 0 in extents:
            return None
        start.append(slice(offset, None))
        strides = [total + stride * steps.get(v, 0) for v, total in zip(order, strides, strict=True)]
    return as_strided(array[tuple(start)], extents, strides, writeable=False)


def _affine(e: ir.Expr) -> tuple[int, dict[ir.Var, int]] | None:
    """An index as offset + sum of step * variable; None where it is not of that form."""
    match e:
        case ir.Var():
            return 0, {e: 1}
        case ir.Binary("add" | "sub" | "mul" as op, a, b):
            p, q = _affine(a), _affine(b)
            if p is None or q is None:
                return None
            if op == "mul":
                (offset, steps), (factor, others) = (p, q) if not q[1] else (q, p)
                return None if others else (offset * factor, {v: step * factor for v, step in steps.items()})
            sign = -1 if op == "sub" else 1
            return p[0] + sign * q[0], {v: p[1].get(v, 0) + sign * q[1].get(v, 0) for v in p[1] | q[1]}
        case ir.Const() | ir.Param():
            return ir.hint(e), {}
        case _:
            return None


def _gather(array: np.ndarray, index: Sequence[ir.Expr], order: Sequence[ir.Var], extents: tuple[int, ...]) -> np.ndarray:
    """The packed array, element by element."""
    grids = dict(zip(order, np.ogrid[tuple(map(slice, extents))], strict=True))
    valid: np.ndarray | bool = True
    flat: np.ndarray | int = 0
    for e, extent in zip(index, array.shape, strict=True):
        position = np.asarray(evaluate(e, grids))
        if position.size and (position.min() < 0 or position.max() >= extent):
            inside = (position >= 0) & (position < extent)
            valid = valid & inside
            position = np.where(inside, position, 0)
        flat = flat * extent + position
    result = np.ascontiguousarray(array).reshape(-1)[np.broadcast_to(flat, extents)]
    return result if valid is True else np.where(valid, result, np.zeros((), array.dtype))


def evaluate(e: ir.Expr, values: Mapping[ir.Var, np.ndarray]) -> np.ndarray | int:
    """An index expression over arrays of values; parameters stand for their values in the plan at hand."""
    match e:
        case ir.Const(value):
            return int(value)  # type: ignore[arg-type]
        case ir.Param():
            return e.hint
        case ir.Var():
            return values[e]
        case ir.Binary(op, a, b):
            return _OPERATIONS[op](evaluate(a, values), evaluate(b, values))
        case _:
            raise ValueError(f"{type(e).__name__} in the index of a constant")


@dataclass
class PackedConstants:
    """Packed copies of a model's constants, made once and shared by all plans."""

    arrays: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def get(self, name: str, array: np.ndarray, index: Sequence[ir.Expr], order: Sequence[ir.Var]) -> tuple[np.ndarray, str]:
        """``pack(array, index, order)`` and a text that tells this packing of ``array`` from others."""
        extents = "x".join(str(ir.hint(v.extent)) for v in order if v.extent is not None)
        numbers = {v: f"v{i}" for i, v in enumerate(order)}
        text = f"{extents} [{', '.join(_text(e, numbers) for e in index)}]"
        found = self.arrays.get((id(array), text))
        if found is None:
            found = self.arrays[id(array), text] = (array, pack(array, index, order))
        return found[1], text


def _text(e: ir.Expr, names: Mapping[ir.Var, str]) -> str:
    match e:
        case ir.Var():
            return names[e]
        case ir.Binary(op, a, b):
            return f"{op}({_text(a, names)}, {_text(b, names)})"
        case _:
            return str(ir.hint(e))


_OPERATIONS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "min": np.minimum,
    "max": np.maximum,
}
