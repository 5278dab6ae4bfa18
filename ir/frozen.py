"""Frozen records without generated code: defining a ``dataclasses.dataclass(frozen=True)`` compiles a source text for each of its methods,
which takes a millisecond, and a process that loads a model defines twenty. Here one set of methods serves all of them."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self, cast, dataclass_transform


@dataclass_transform(frozen_default=True)
class Frozen:
    """A base class; what a subclass annotates are its fields, with defaults where it gives values.

    As ``dataclass(frozen=True)`` has it: fields by position or by name, equality and hash by the values of all fields, of one class.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(inspect.get_annotations(cls))
        cls._defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}

    def __init__(self, *values: object, **named: object) -> None:
        fields, own = self._fields, self.__dict__
        own.update(self._defaults)
        own.update(zip(fields, values, strict=False))
        own.update(named)
        if len(values) > len(fields) or own.keys() != {*fields} or not named.keys().isdisjoint(fields[: len(values)]):
            raise TypeError(
                f"{type(self).__name__} has the fields {', '.join(fields)}, got {len(values)} and {', '.join(named)}"
            )

    def replace(self, **changes: object) -> Self:
        """It with other values of some fields."""
        return type(self)(**{name: getattr(self, name) for name in self._fields} | changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON: records in them as dicts too."""
        return {name: _plain(getattr(self, name)) for name in self._fields}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __eq__(self, other: object, /) -> bool:
        return self._values() == other._values() if isinstance(other, Frozen) and type(other) is type(self) else NotImplemented

    def __hash__(self, /) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._fields)})"

    def _values(self) -> tuple[object, ...]:
        own = self.__dict__
        return tuple([own[name] for name in self._fields])


def _plain(value: object) -> object:
    if isinstance(value, Frozen):
        return value.to_dict()
    if isinstance(value, tuple):
        return tuple(map(_plain, cast("tuple[object, ...]", value)))
    return value
