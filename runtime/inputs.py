"""A user's inputs as arrays that fit the model, or an error that names the input, what was expected and what was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from ..ir import dtypes
from ..ir.errors import InputError
from .program import TensorSpec

Value: TypeAlias = Any
"""An array; a list for a sequence; None for an empty optional."""

_SHAPES_KEPT = 256


class InputBinder:
    """Checks inputs against their declaration; converts no dtype.

    Tensors may be NumPy arrays and whatever has ``__array__`` or ``__dlpack__``, sequences are lists or tuples, an empty optional is None.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.specs = tuple(specs)
        self._slots = [_slot(spec) for spec in specs]
        self.dtypes = tuple(slot.dtype if isinstance(slot, _TensorSlot) else None for slot in self._slots)
        self.names = tuple(spec.name for spec in specs)
        self._index = {spec.name: index for index, spec in enumerate(specs)}

    def bind(self, args: Sequence[object], named: Mapping[str, object]) -> list[Value]:
        """Values in the order of the declaration, from ``args`` in that order and ``named``. Raises ``InputError``."""
        if named or len(args) != len(self._slots):
            args = self.ordered(args, named)
        values: list[Value] = []
        for value, slot in zip(args, self._slots, strict=True):
            if type(value) is np.ndarray and value.dtype is slot.dtype and value.shape in slot.shapes:
                values.append(value)
            else:
                values.append(slot.accept(value))
        return values

    def ordered(self, args: Sequence[object], named: Mapping[str, object]) -> Sequence[object]:
        """The values given, unchecked, in the order of the declaration. Raises ``InputError`` unless each input is given once."""
        for value in args:
            _refuse_mapping(value)
        if not args and len(named) == len(self.names):
            try:
                return [named[name] for name in self.names]
            except KeyError:
                pass
        if len(args) > len(self._slots):
            raise InputError(f"{len(args)} inputs given, expected {len(self._slots)}: {self._listing()}")
        missing = object()
        values: list[object] = [*args, *[missing] * (len(self._slots) - len(args))]
        for name, value in named.items():
            index = self._index.get(name)
            if index is None:
                import difflib

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


def _slot(spec: TensorSpec) -> _Slot:
    for prefix, kind in (("seq(", _SequenceSlot), ("optional(", _OptionalSlot)):
        if spec.dtype.startswith(prefix):
            return kind(spec, _slot(TensorSpec(spec.name, spec.dtype.removeprefix(prefix)[:-1], None)))
    return _TensorSlot(TensorSpec(spec.name, spec.dtype.partition("[")[0], spec.shape))


class _Slot:
    """One declared input. Arrays of ``dtype`` with one of ``shapes`` are known to fit it."""

    dtype: np.dtype[Any] = np.dtype(np.void)

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.shapes: set[tuple[int, ...]] = set()

    def accept(self, value: object) -> Value:
        """``value`` as the model takes it; ``InputError`` when it does not fit."""
        raise NotImplementedError


class _SequenceSlot(_Slot):
    def __init__(self, spec: TensorSpec, element: _Slot) -> None:
        super().__init__(spec)
        self.element = element

    def accept(self, value: object) -> list[Value]:
        if not isinstance(value, list | tuple):
            raise InputError(f"input {self.spec.name!r}: expected a list ({self.spec}), got {type(value).__name__}")
        return [self.element.accept(item) for item in value]


class _OptionalSlot(_Slot):
    def __init__(self, spec: TensorSpec, element: _Slot) -> None:
        super().__init__(spec)
        self.element = element

    def accept(self, value: object) -> Value:
        return None if value is None else self.element.accept(value)


class _TensorSlot(_Slot):
    """A tensor, and the shapes seen that fit it."""

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec)
        self.dtype = spec.numpy

    def accept(self, value: object) -> np.ndarray:
        array = self._checked_dtype(as_array(value, f"input {self.spec.name!r}", str(self.spec)))
        self._check_shape(array.shape)
        if len(self.shapes) < _SHAPES_KEPT:
            self.shapes.add(array.shape)
        return array

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


def as_array(value: object, what: str, expected: str = "a tensor") -> np.ndarray:
    """``value`` as an array, without a copy where it lends its memory. ``InputError`` about ``what`` when it cannot be one."""
    _refuse_mapping(value)
    try:
        if hasattr(value, "__array__") or not hasattr(value, "__dlpack__"):
            return np.asarray(value)
        return np.from_dlpack(value)  # type: ignore[arg-type]
    except Exception as error:  # whatever the foreign object raises
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise InputError(f"{what}: expected an array ({expected}), got {kind}: {error}") from error


def _refuse_mapping(value: object) -> None:
    if isinstance(value, Mapping):
        raise InputError("inputs in a dict go by name: call model(**inputs)")


def by_name(feeds: object) -> Mapping[str, object]:
    """``feeds``, which must be a mapping from names to values. Raises ``InputError``."""
    if type(feeds) is dict or isinstance(feeds, Mapping):
        return cast("Mapping[str, object]", feeds)
    raise InputError(f"run(names, feeds) takes inputs by name, in a dict; got {type(feeds).__name__}: call model(*inputs)")


def _dtype_name(dtype: np.dtype[Any]) -> str:
    try:
        return dtypes.from_numpy(dtype).name
    except KeyError:
        return str(dtype)
