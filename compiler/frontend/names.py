"""Value names: unique over a whole model, resolved through nested scopes."""

from __future__ import annotations


class Names:
    """Hands out names that occur nowhere else in the model."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def reserve(self, name: str) -> None:
        self._taken.add(name)

    def unique(self, stem: str) -> str:
        name, count = stem, self._counts.get(stem, 0)
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._counts[stem] = count
        self._taken.add(name)
        return name


class Scope:
    """What the names of one graph or function body stand for; a subgraph also sees the scopes around it."""

    def __init__(self, outer: Scope | None = None) -> None:
        self._names: dict[str, str] = {}
        self._outer = outer

    def define(self, name: str, value: str) -> None:
        self._names[name] = value

    def defines(self, name: str) -> bool:
        """True when this scope itself has ``name``."""
        return name in self._names

    def find(self, name: str) -> str | None:
        """The value that ``name`` stands for, None when no scope defines it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._names:
                return scope._names[name]
            scope = scope._outer
        return None
