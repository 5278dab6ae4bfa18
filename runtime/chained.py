"""The plan of a model whose data decides shapes: a native program, what of its results to cut off, and the plan of the rest, by the
shapes that came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import InputError
from .direct import Direct
from .entry import Argument, decline
from .executor import Executable
from .model import Runner, key_of
from .once import Once
from .sequel import Sequel

if TYPE_CHECKING:
    from .profile import Profile

MAX_RESTS = 256
"""Plans of a rest that are kept in memory, for that many sets of shapes."""


class Chained:
    """``first`` is the program, and ``sequel`` what follows; ``find`` makes the plan of the rest for its inputs. Safe to call from many
    threads."""

    def __init__(self, first: Direct, sequel: Sequel, find: Callable[[tuple[Any, ...]], Runner] | None = None) -> None:
        self.first, self.sequel = first, sequel
        self._find = find
        self._rests = Once[Runner](MAX_RESTS)

    @property
    def native(self) -> Executable:
        """The first program."""
        return self.first.native

    @property
    def picks(self) -> tuple[int, ...]:
        """The inputs that it takes."""
        return self.first.picks

    @property
    def rests(self) -> tuple[Runner, ...]:
        """The plans of the rest that there are."""
        return self._rests.all

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs in graph order, in memory that nothing else refers to."""
        values, rest = self._values(inputs), self.sequel.rest
        last: dict[str, Any] = {}
        if rest is not None:
            taken = [values[number] for number in rest.takes]
            last = dict(zip(rest.outputs, self._rest(taken).run(taken), strict=True))
        results = zip(self.sequel.outputs, self.sequel.results, strict=True)
        return [values[number] if number >= 0 else last[name] for name, number in results]

    def _values(self, inputs: Sequence[Any]) -> list[Any]:
        """All values that there are before the rest."""
        values = [*inputs, *self.first.run(inputs)]
        for cut in self.sequel.cuts:
            data, count = values[cut.data], int(values[cut.count])
            if cut.axis is not None and data.shape[cut.axis] != count:
                data = np.ascontiguousarray(data[(slice(None),) * cut.axis + (slice(0, count),)])
            values.append(data)
        return values

    def _rest(self, taken: Sequence[Any]) -> Runner:
        """The plan of the rest for inputs like these, made now if there is none."""
        find = self._find
        assert self.sequel.rest is not None and find is not None
        return self._rests.get(key_of(taken, self.sequel.rest.value_inputs), lambda: find(tuple(taken)))

    def entry(self, arguments: Sequence[Argument], *, bare: bool) -> Callable[..., Any]:
        """There is no fast way in."""
        return decline

    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """The shapes of the outputs; None where data decides, or the rest makes them."""
        known = {spec.name: spec.extents for spec in self.native.program.outputs}
        return tuple(known.get(name) for name in self.sequel.outputs)

    def bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Callable[[], None]:
        """What computes ``outputs`` from ``inputs``, by copies of the results."""

        def run() -> None:
            copy_results(self.sequel.outputs, self.run(inputs), outputs)

        return run

    def profile(self, inputs: Sequence[Any], repeat: int) -> Profile:
        """The steps of all programs, one after the other; cuts are not timed."""
        from .profile import Profile

        mine, rest = self.first.profile(inputs, repeat), self.sequel.rest
        if rest is None:
            return mine
        values = self._values(inputs)
        taken = [values[number] for number in rest.takes]
        return Profile.join((mine, self._rest(taken).profile(taken, repeat)))

    def trim(self) -> int:
        """Drops the memory kept for calls to come."""
        return self.native.trim()

    def as_text(self) -> str:
        lines = [self.native.as_text()]
        cut = len(self.sequel.cuts)
        if cut:
            lines.append(f"then {cut} of its results {'is' if cut == 1 else 'are'} cut to the extents that came out")
        if self.sequel.rest is not None:
            lines.append(f"then {', '.join(self.sequel.rest.outputs)}, planned for the shapes that came out:")
            lines += [rest.as_text() for rest in self.rests]
        return "\n".join(lines)


def copy_results(names: Sequence[str], results: Sequence[Any], outputs: Sequence[np.ndarray]) -> None:
    """Copies ``results`` to ``outputs``, which are called ``names``; ``InputError`` where one is of another dtype or shape."""
    for name, array, result in zip(names, outputs, results, strict=True):
        if not isinstance(result, np.ndarray) or (result.shape, result.dtype) != (array.shape, array.dtype):
            got = f"{result.dtype}{list(result.shape)}" if isinstance(result, np.ndarray) else type(result).__name__
            raise InputError(f"output array for {name!r} is {array.dtype}{list(array.shape)}, the result is {got}")
        array[...] = result
