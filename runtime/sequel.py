"""What follows a program whose results have extents that only data gives, as plain data: cutting them off, then a program planned for
what is left.

    NonZero -> Gather     =>     program: all places, count     cut: the first ``count`` of them     rest: Gather, by the shape of these
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..ir.frozen import Frozen

Kind = tuple[str, int]
"""Dtype and rank of a value."""


class Cut(Frozen):
    """The first ``count`` elements of ``data`` along ``axis``, all of it without one; ``data`` and ``count`` are numbers of values."""

    data: int
    count: int
    axis: int | None


class Rest(Frozen):
    """What is left to plan: ``takes`` are the numbers of its inputs among the values, ``dtypes`` theirs, ``value_inputs`` those of
    its inputs whose values decide shapes, ``outputs`` what it gives."""

    takes: tuple[int, ...]
    dtypes: tuple[str, ...]
    value_inputs: tuple[int, ...]
    outputs: tuple[str, ...]


class Sequel(Frozen):
    """Values are numbered: the inputs, what the program makes, then what each of ``cuts`` makes. An output is called as in ``outputs``, and
    is the value whose number is in ``results``, or what ``rest`` gives under this name where that is -1."""

    cuts: tuple[Cut, ...]
    outputs: tuple[str, ...]
    results: tuple[int, ...]
    rest: Rest | None = None

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Sequel:
        """What ``to_dict`` described, after JSON or not; raises one of ``errors.MALFORMED`` for anything else."""
        cuts = [(int(c["data"]), int(c["count"]), None if c["axis"] is None else int(c["axis"])) for c in data["cuts"]]
        rest = data["rest"]
        if rest is not None:
            takes, values = (tuple(map(int, rest[part])) for part in ("takes", "value_inputs"))
            dtypes, names = (tuple(map(str, rest[part])) for part in ("dtypes", "outputs"))
            rest = Rest(takes, dtypes, values, names)
        outputs, results = tuple(map(str, data["outputs"])), tuple(map(int, data["results"]))
        if len(outputs) != len(results):
            raise ValueError(f"{len(outputs)} outputs are {len(results)} values")
        return Sequel(tuple(Cut(*cut) for cut in cuts), outputs, results, rest)

    def kinds(self, inputs: Sequence[Kind], made: Sequence[Kind]) -> list[Kind | None]:
        """Those of the outputs, None where the rest makes them; ``made`` are those of what the program makes.

        ``ValueError`` where it refers to what there is not.
        """
        known = [*inputs, *made]
        for cut in self.cuts:
            if not 0 <= cut.data < len(known) or known[cut.count : cut.count + 1] != [("int64", 0)]:
                raise ValueError(f"{cut} refers to what there is not")
            if cut.axis is not None and not 0 <= cut.axis < known[cut.data][1]:
                raise ValueError(f"{cut} is along an axis that there is not")
            known.append(known[cut.data])
        rest = self.rest or Rest((), (), (), ())
        later = {name for name, value in zip(self.outputs, self.results, strict=True) if value < 0}
        fits = (
            all(len(inputs) <= value < len(known) or value == -1 for value in self.results)
            and later <= {*rest.outputs}
            and all(0 <= value < len(known) for value in rest.takes)
            and [known[value][0] for value in rest.takes] == [*rest.dtypes]
            and all(0 <= number < len(rest.takes) for number in rest.value_inputs)
        )
        if not fits:
            raise ValueError("what follows a program refers to what there is not")
        return [known[value] if value >= 0 else None for value in self.results]
