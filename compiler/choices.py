"""What schedules choose. A schedule names a choice where it decides, with its default and what is legal there; an option overrides the
default. So the space of schedules of a kernel is what was asked while it was lowered: tuning searches it, and overrides are checked by it.

>>> choices = Choices(NodeOptions(tile=Tile(m=2)))
>>> choices.take("tile.m", 6, range(1, 15)), choices.take("tasks", 16, range(1, 65))
(2, 16)
>>> choices.taken["tasks"].legal_text
'1 to 64'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..ir.errors import ConfigError
from .config import NodeOptions, Tile

T = TypeVar("T", int, str)


@dataclass(frozen=True)
class Choice(Generic[T]):
    """``value`` was taken out of ``legal``, in which ``default`` is what no option asks for."""

    name: str
    value: T
    default: T
    legal: Sequence[T]

    @property
    def legal_text(self) -> str:
        """What may be chosen, as text."""
        if isinstance(self.legal, range) and len(self.legal) > 1:
            step = f" in steps of {self.legal.step}" if self.legal.step > 1 else ""
            return f"{self.legal[0]} to {self.legal[-1]}{step}"
        return ", ".join(map(repr, self.legal))


class IllegalChoice(ConfigError):
    """An option asks for what a schedule cannot do."""

    def __init__(self, choice: Choice[Any], reason: str = "") -> None:
        super().__init__(f"{choice.name} = {choice.value!r}: {reason or 'not for this kernel'}; legal: {choice.legal_text}")
        self.choice = choice


@dataclass
class Choices:
    """The choices of one kernel, by name, as they are asked for."""

    options: NodeOptions = field(default_factory=NodeOptions)
    taken: dict[str, Choice[Any]] = field(default_factory=dict[str, Choice[Any]])
    cost: Callable[[Tile], float] | None = None
    """What the cost model says of a tile, where there is one."""

    def take(self, name: str, default: T, legal: Sequence[T], reason: str = "") -> T:
        """The option ``name`` where it is set, else ``default``. Raises ``IllegalChoice`` with ``reason`` for one not in ``legal``."""
        given = self.options.given(name)
        value: Any = default if given is None else given
        choice = Choice(name, value, default, legal)
        if given is not None and given not in legal:
            raise IllegalChoice(choice, reason)
        self.taken.setdefault(name, choice)
        return value

    def tile(self, default: Tile, **legal: Sequence[int]) -> Tile:
        """The extents of the option ``tile`` that are set, checked against ``legal`` by name; ``default`` is what the rest will be."""
        for extent, values in legal.items():
            known: int = getattr(default, extent) or values[0]
            self.take(f"tile.{extent}", known, values, "a tile is whole vectors of columns, and registers hold it")
        return self.options.tile
