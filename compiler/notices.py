"""What a user is told about a configuration: parts of it that have no effect. A kept plan keeps what was told when it was made, so that
nobody is told less because the plan comes from the cache."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


class ConfigWarning(UserWarning):
    """A part of a configuration has no effect."""


class TuningWarning(ConfigWarning):
    """An entry that tuning made is ignored."""


_KINDS = {kind.__name__: kind for kind in (ConfigWarning, TuningWarning)}


@dataclass
class Notices:
    """Warnings, each once, in the order in which they came up."""

    found: dict[str, ConfigWarning] = field(default_factory=dict[str, ConfigWarning])

    def __iter__(self) -> Iterator[ConfigWarning]:
        return iter(self.found.values())

    def add(self, *notices: ConfigWarning) -> None:
        for notice in notices:
            self.found.setdefault(str(notice), notice)

    def tell(self) -> None:
        """Warns of all; Python shows a warning once in a process."""
        for notice in self:
            warnings.warn(notice, stacklevel=2)

    def as_data(self) -> list[list[str]]:
        """Plain lists, for JSON."""
        return [[type(notice).__name__, text] for text, notice in self.found.items()]

    @staticmethod
    def of(data: Iterable[Sequence[str]]) -> Notices:
        """What ``as_data`` described."""
        return Notices({text: _KINDS.get(kind, ConfigWarning)(text) for kind, text in data})
