"""Which iterations of a loop can touch the same element of a buffer, from the linear forms of the indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from . import loops as ir
from .loop_ranges import Atom, Interval, Linear, Ranges

Verdict = Literal["never", "always", "maybe"]


@dataclass(frozen=True, eq=False)
class Access:
    """A load or store inside of a loop: a form for each index, with the intervals of its atoms at that point."""

    where: str
    buffer: ir.Buffer
    forms: tuple[Linear, ...]
    flat: Linear
    """The offset from the buffer's start."""
    intervals: dict[Atom, Interval]
    mentioned: frozenset[ir.Var]
    """Variables that the index depends on."""
    value: frozenset[ir.Var]
    """Variables that the stored value depends on."""
    pinned: frozenset[ir.Var]
    """Loop variables that have one value there."""
    certain: bool
    """Made in every iteration."""


def collide(stores: Sequence[Access], var: ir.Var, ranges: Ranges) -> Verdict:
    """Whether two iterations of ``var`` can store to one element, by these stores to one buffer.

    "never" when their indices tell ``var``, "always" when a store does not depend on it.
    """
    free = [store for store in stores if var not in store.mentioned]
    if any(var not in store.pinned and store.certain for store in free):
        return "always"
    if free:
        return "never" if len(stores) == 1 and var in free[0].pinned else "maybe"
    known: set[Atom] = set()
    for forms in zip(*_axes(stores), strict=True):
        known |= _decodable(forms, [store.intervals for store in stores])
    return "never" if _determined(var, known, ranges) else "maybe"


def _axes(accesses: Sequence[Access]) -> list[tuple[Linear, ...]]:
    """The indices; for different views of one memory, the offset."""
    alike = all(access.buffer is accesses[0].buffer for access in accesses)
    return [access.forms if alike else (access.flat,) for access in accesses]


def _decodable(forms: Sequence[Linear], intervals: Sequence[dict[Atom, Interval]]) -> set[Atom]:
    """The atoms whose values follow from the value of the sum: each coefficient exceeds all that the smaller terms can add up to."""
    first = forms[0].terms
    shared = [atom for atom, k in first.items() if all(form.terms.get(atom) == k for form in forms)]
    ends = {atom: (min(known[atom][0] for known in intervals), max(known[atom][1] for known in intervals)) for atom in shared}
    common = [atom for atom, (low, high) in ends.items() if low < high]
    lows, highs = zip(*(_rest(form, common, known) for form, known in zip(forms, intervals, strict=True)), strict=True)
    width = max(highs) - min(lows)
    found: set[Atom] = set()
    for atom in sorted(common, key=lambda atom: abs(first[atom])):
        if abs(first[atom]) > width:
            found.add(atom)
        else:
            found.clear()
        width += abs(first[atom]) * (ends[atom][1] - ends[atom][0])
    return found


def _rest(form: Linear, common: Sequence[Atom], intervals: dict[Atom, Interval]) -> Interval:
    """Bounds of the part of a form that is not in ``common``."""
    low = high = form.constant
    for atom, k in form.terms.items():
        if atom not in common:
            ends = sorted((k * intervals[atom][0], k * intervals[atom][1]))
            low, high = low + ends[0], high + ends[1]
    return low, high


def _determined(var: ir.Var, known: set[Atom], ranges: Ranges) -> bool:
    """Whether ``var`` follows from the atoms: it is one of them, or its quotient and remainder by some number follow."""
    return _follows(Linear({var: 1}, 0), known, ranges)


def _follows(form: Linear, known: set[Atom], ranges: Ranges) -> bool:
    if len(form.terms) == 1 and next(iter(form.terms)) in known:
        return True
    parts: dict[int, set[str]] = {}
    for atom, e in ranges.atoms.items():
        if isinstance(e, ir.Binary) and e.op in ("floordiv", "mod") and ranges.linear(e.a).same(form):
            divisor = ranges.linear(e.b)
            if not divisor.terms and _follows(Linear({atom: 1}, 0), known, ranges):
                parts.setdefault(divisor.constant, set()).add(e.op)
    return any(len(ops) == 2 for ops in parts.values())


def carried(load: Access, store: Access, loop: ir.For, ranges: Ranges) -> Verdict:
    """Whether an iteration of a vector loop loads what another one stores."""
    shifts: set[int] = set()
    unclear = False
    for stored, loaded in zip(*_axes((store, load)), strict=True):
        difference = stored.plus(loaded, -1)
        k = stored.terms.get(loop.var, 0)
        low, high = _rest(difference, (), {**store.intervals, **load.intervals})
        if difference.terms:
            if loop.var not in ranges.mentions(stored) | ranges.mentions(loaded) and (low > 0 or high < 0):
                return "never"
            unclear = True
        elif k and difference.constant % k == 0:
            shifts.add(difference.constant // k)
        elif difference.constant:
            return "never" if k or loop.var not in ranges.mentions(stored) else "maybe"
    if len(shifts) > 1 or 0 in shifts or (shifts and abs(min(shifts)) >= ranges.interval(loop.extent)[1]):
        return "never"
    if unclear or not load.certain or not store.certain:
        return "maybe"
    return "always" if shifts else "maybe" if loop.var in store.mentioned | load.mentioned else "never"
