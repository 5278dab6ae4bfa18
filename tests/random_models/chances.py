"""What is drawn at random, and collections to draw from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Chances:
    """``random`` is where they come from."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random

    def one_of(self, *choices: T) -> T:
        return choices[self.random.integers(len(choices))]

    def between(self, first: int, last: int) -> int:
        return int(self.random.integers(first, last + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)


def weighted(collection: list[T], weight: int) -> Callable[[T], T]:
    """A decorator that adds what it decorates to ``collection``, as often as its weight says."""

    def register(item: T) -> T:
        collection.extend([item] * weight)
        return item

    return register
