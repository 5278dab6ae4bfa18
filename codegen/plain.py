"""A kernel's printed source run as plain Python: what is read is what runs, on NumPy scalars, one after the other.

``vector`` and ``unroll`` are ``range``, ``tile`` decorates nothing, and every name that ``codegen.source`` prints stands for a function on
scalars whose meaning is that of ``ir.loop_values``. Slow: for reading, stepping through, and tests of what becomes of a nest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir import loop_values as values
from ..ir.dtypes import DType
from .source import KernelSource
from .vecmath import BINARY, UNARY

Kernel = Callable[..., int]
_PRINTED = {"minimum": "min", "maximum": "max", "divide": "div"}
"""Functions of two operands that are printed under another name than that of ``loops.Binary``."""


def load(source: KernelSource) -> Kernel:
    """The kernel as ``kernel(buffers, extents, worker=0, workers=1)``, which returns 0 or an error code.

    ``buffers`` are flat arrays of the buffers' dtypes, one per argument, changed in place; scratch is that of one worker.
    ``extents`` is an int64 array: slot 0 takes the offending value of an error, the values of ``source.params`` follow. ``IndexError``
    where an access is out of bounds.
    """
    names = namespace()
    exec(compile(source.text, f"<{source.nest.name}>", "exec"), names)  # the text is our own, printed from the loop IR
    kernel = names["kernel"]

    def run(buffers: Sequence[np.ndarray], extents: np.ndarray, worker: int = 0, workers: int = 1) -> int:
        slots = [int(e) for e in extents]
        with np.errstate(all="ignore"):
            code = kernel([_Memory(b) for b in buffers], slots, worker, workers)
        extents[0] = slots[0]
        return code

    return run


def namespace() -> dict[str, Any]:
    """Every name that a printed kernel may use."""
    names: dict[str, Any] = {"tile": lambda f: f, "vector": range, "unroll": range, "registers": _registers, "select": _select}
    names["prefetch"] = lambda buffer, offset, level: None
    names.update(inf=float("inf"), nan=float("nan"))
    names.update(share=lambda n, i, of: n * i // of, quotient=lambda a, b: a // b, remainder=lambda a, b: a % b)
    for dtype in dtypes.ALL:
        if dtype.is_numeric:
            names[dtype.name] = _Conversion(dtype, saturate=False)
            names[f"saturate_{dtype.name}"] = _Conversion(dtype, saturate=True)
            names[f"bits_{dtype.name}"] = _reader(dtype)
    for name in ("minimum", "maximum", "divide", "rem", "shl", "shr", "dot16", *BINARY):
        names[name] = _binary(_PRINTED.get(name, name))
    for name in ("neg", "abs", *UNARY):
        names[name] = _unary(name)
    return {**names, "logical_not": _unary("not")}


class _Memory:
    """A buffer that takes no negative index for one from the end."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def __getitem__(self, i: int) -> Any:
        return self.data[self._checked(i)]

    def __setitem__(self, i: int, value: object) -> None:
        self.data[self._checked(i)] = value

    def _checked(self, i: int) -> int:
        if i < 0:
            raise IndexError(f"index {i} is negative")
        return i


@dataclass(frozen=True)
class _Conversion:
    """``float32(x)``: a constant where ``x`` is a Python number, else ``loops.Cast``; also what ``registers`` takes for a dtype."""

    dtype: DType
    saturate: bool

    def __call__(self, x: Any) -> Any:
        if isinstance(x, int | float) and not isinstance(x, np.generic) and not self.saturate:
            return _shown(values.constant(x, self.dtype), self.dtype)
        return _shown(values.cast(_held(x), _dtype(x), self.dtype, self.saturate), self.dtype)


def _dtype(x: Any) -> DType:
    """The dtype of a scalar; Python's numbers are indices and their comparisons."""
    if isinstance(x, np.generic):
        return dtypes.from_numpy(x.dtype)
    return dtypes.bool_ if isinstance(x, bool) else dtypes.int64


def _held(x: Any) -> Any:
    """A scalar as ``loop_values`` has it: narrow floats as their bits, int4 in a byte."""
    dtype = _dtype(x)
    if not isinstance(x, np.generic):
        return x
    return (
        np.asarray(x).astype(values.storage(dtype))[()] if dtype.is_integer else np.asarray(x).view(values.storage(dtype))[()]
    )


def _shown(x: Any, dtype: DType) -> Any:
    """A value of ``loop_values`` as a scalar that knows its dtype."""
    held = np.asarray(x, values.storage(dtype))
    return (held.astype(dtype.numpy) if dtype.is_integer else held.view(dtype.numpy))[()]


def _binary(op: str) -> Callable[[Any, Any], Any]:
    return lambda a, b: _shown(values.binary(op, _dtype(a))(_held(a), _held(b)), _dtype(a))


def _unary(op: str) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        return _shown(values.unary(op, _dtype(x))(_held(x)), dtypes.bool_ if op in ("isnan", "isinf") else _dtype(x))

    return apply


def _reader(to: DType) -> Callable[[Any], Any]:
    return lambda x: _shown(values.bitcast(_held(x), _dtype(x), to), to)


def _select(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


def _registers(shape: tuple[int, ...], element: _Conversion) -> np.ndarray:
    return np.empty(shape, element.dtype.numpy)
