"""Packing constants: a weight laid out in the order in which a kernel's loops read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir import loops as ir


def pack(array: np.ndarray, index: Sequence[ir.Expr], order: Sequence[ir.Var]) -> np.ndarray:
    """``result[order...] = array[index(order...)]``, zero where the index lies outside of ``array``. C-contiguous.

    ``index`` has one expression per axis of ``array``, over the variables ``order``, whose extents shape the result.
    """
    extents = [ir.hint(v.extent) for v in order if v.extent is not None]
    axes = np.ogrid[tuple(map(slice, extents))]
    grids = dict(zip(order, axes, strict=True))
    positions = [np.asarray(evaluate(e, grids)) for e in index]
    valid: np.ndarray | bool = True
    flat: np.ndarray | int = 0
    for position, extent in zip(positions, array.shape, strict=True):
        if position.size and (position.min() < 0 or position.max() >= extent):
            inside = (position >= 0) & (position < extent)
            valid = valid & inside
            position = np.where(inside, position, 0)
        flat = flat * extent + position
    result = np.ascontiguousarray(array).reshape(-1)[np.broadcast_to(flat, extents)]
    if valid is not True:
        result = np.where(valid, result, np.zeros((), array.dtype))
    return np.ascontiguousarray(result)


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
