"""What is made once for each key, however many threads ask for it, and kept up to a number."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .forks import Work

T = TypeVar("T")


class Once(Generic[T]):
    """At most ``most`` things by key; the one made first goes first. Making one is a ``Work``. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: dict[Hashable, T] = {}
        self._making = Work()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``key`` stands for, made now if it is not there."""
        found = self._made.get(key)
        if found is None:
            with self._making:
                found = self._made.get(key)
                if found is None:
                    while len(self._made) >= self._most:
                        del self._made[next(iter(self._made))]
                    found = self._made[key] = make()
        return found

    @property
    def all(self) -> tuple[T, ...]:
        """What there is."""
        return tuple(self._made.values())
