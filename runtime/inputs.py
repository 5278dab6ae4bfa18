"""A user's inputs as arrays that fit the model, or an error that names the input, what was expected and what was given."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir.errors import InputError
from .program import TensorSpec

_SHAPES_KEPT = 256


class InputBinder:
    """Checks inputs against their declaration. Accepts NumPy arrays and whatever has ``__array__`` or ``__dlpack__``; converts no dtype."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.specs = tuple(specs)
        self._slots = [_Slot(spec) for spec in specs]
        self._index = {spec.name: index for index, spec in enumerate(specs)}

    def bind(self, args: Sequence[object], named: Mapping[str, object]) -> list[np.ndarray]:
        """Arrays in the order of the declaration, from ``args`` in that order and ``named``. Raises ``InputError``."""
        if named or len(args) != len(self._slots):
            args = self._ordered(args, named)
        arrays: list[np.ndarray] = []
        for value, slot in zip(args, self._slots, strict=True):
            if type(value) is np.ndarray and value.dtype is slot.dtype and value.shape in slot.shapes:
                arrays.append(value)
            else:
                arrays.append(slot.accept(value))
        return arrays

    def _ordered(self, args: Sequence[object], named: Mapping[str, object]) -> list[object]:
        if len(args) > len(self._slots):
            raise InputError(f"{len(args)} inputs given, expected {len(self._slots)}: {self._listing()}")
        missing = object()
        values: list[object] = [*args, *[missing] * (len(self._slots) - len(args))]
        for name, value in named.items():
            index = self._index.get(name)
            if index is None:
                near = difflib.get_close_matches(name, self._index, 1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise InputError(f"the model has no input {name!r}{hint}; its inputs are {self._listing()}")
            if index < len(args):
                raise InputError(f"input {name!r} is given twice: by position {index} and by name")
            values[index] = value
        absent = [str(spec) for spec, value in zip(self.specs, values, strict=True) if value is missing]
        if absent:
            raise InputError(f"missing input{'s' * (len(absent) > 1)}: {', '.join(absent)}")
        return values

    def _listing(self) -> str:
        return ", ".join(map(str, self.specs)) or "none"


class _Slot:
    """One declared input, and the shapes seen that fit it."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.dtype = spec.numpy
        self.shapes: set[tuple[int, ...]] = set()

    def accept(self, value: object) -> np.ndarray:
        array = self._checked_dtype(self._as_array(value))
        self._check_shape(array.shape)
        if len(self.shapes) < _SHAPES_KEPT:
            self.shapes.add(array.shape)
        return array

    def _as_array(self, value: object) -> np.ndarray:
        try:
            if hasattr(value, "__array__") or not hasattr(value, "__dlpack__"):
                return np.asarray(value)
            return np.from_dlpack(value)  # type: ignore[arg-type]
        except Exception as error:  # whatever the foreign object raises
            kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
            raise InputError(f"input {self.spec.name!r}: expected an array ({self.spec}), got {kind}: {error}") from error

    def _checked_dtype(self, array: np.ndarray) -> np.ndarray:
        if array.dtype == self.dtype and array.dtype.kind != "O":
            return array
        if self.dtype.kind == "O" and dtypes.by_name(self.spec.dtype).kind == "string" and array.dtype.kind in "OUST":
            return array.astype(object)
        if not array.dtype.isnative and array.dtype.newbyteorder() == self.dtype:
            raise InputError(
                f"input {self.spec.name!r} has dtype {array.dtype.str} in foreign byte order, expected native {self.spec.dtype}; "
                f"convert it with .astype({self.dtype.str!r})"
            )
        raise InputError(
            f"input {self.spec.name!r} has dtype {_dtype_name(array.dtype)}, expected {self.spec.dtype} ({self.spec})"
        )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        declared = self.spec.shape
        if declared is None:
            return
        if len(shape) != len(declared):
            raise InputError(
                f"input {self.spec.name!r} has rank {len(shape)} (shape {shape}), expected {len(declared)} ({self.spec})"
            )
        for axis, (extent, expected) in enumerate(zip(shape, declared, strict=True)):
            if isinstance(expected, int) and extent != expected:
                raise InputError(
                    f"input {self.spec.name!r} has extent {extent} in dim {axis} (shape {shape}), expected {expected} ({self.spec})"
                )


def _dtype_name(dtype: np.dtype[Any]) -> str:
    try:
        return dtypes.from_numpy(dtype).name
    except KeyError:
        return str(dtype)
