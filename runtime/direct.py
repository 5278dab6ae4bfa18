"""The plan of a model that is one native program: nothing is left to do in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.frozen import Frozen
from .entry import Argument
from .executor import Executable

if TYPE_CHECKING:
    from .profile import Profile


class Direct(Frozen):
    """``native`` makes all outputs of the model, in its order, from those of its inputs whose numbers are in ``picks``."""

    native: Executable
    picks: tuple[int, ...]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs in graph order, in memory that nothing else refers to."""
        return self.native.run(self._picked(inputs))

    def entry(self, arguments: Sequence[Argument], *, bare: bool) -> Callable[..., Any]:
        """The fast way in."""
        targets = {pick: number for number, pick in enumerate(self.picks)}
        return self.native.entry([a.replace(target=targets.get(a.target, -1)) for a in arguments], bare=bare)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the outputs."""
        return tuple(spec.extents for spec in self.native.program.outputs)

    def bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Callable[[], None]:
        """What computes ``outputs`` from ``inputs`` in place."""
        return self.native.bind(self._picked(inputs), outputs)

    def profile(self, inputs: Sequence[Any], repeat: int) -> Profile:
        return self.native.profile(self._picked(inputs), repeat)

    def trim(self) -> int:
        return self.native.trim()

    def as_text(self) -> str:
        return self.native.as_text()

    def _picked(self, inputs: Sequence[Any]) -> list[Any]:
        return [inputs[pick] for pick in self.picks]
