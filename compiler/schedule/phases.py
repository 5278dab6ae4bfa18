"""Convolutions with a stride s as sums of convolutions without: of each phase of the image, x[p::s], with that phase of the filter.

    y[i] = sum_k x[s*i + k] * g[k] = sum_p sum_k x[p::s][i + k] * g[p::s][k]

All phases are computed by one Cook-Toom form, that for the longest of their filters, so that their products at a point are summed before
they are interpolated: phases are more channels. A filter that is one tap shorter has a zero as its highest coefficient, which is its
value at infinity, and so no product there. Along several axes a phase is one of each, and a frequency one point of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from .cook_toom import CookToom, Matrix, cook_toom

_AT_A_TIME = 1024
"""Channels of filters that are transformed by one product of matrices: too few for threads to start."""
_BLOCK = 1 << 18
"""Elements that are transformed by one call, which waits for the GIL only before and after: they stay in the cache."""


@dataclass(frozen=True)
class PhasedForm:
    """F(outputs, taps) along an axis with ``stride``; ``form`` is that of the longest phases."""

    form: CookToom
    taps: int
    stride: int = 1

    def __str__(self) -> str:
        return f"F({self.outputs}, {self.taps})" + (f"/{self.stride}" if self.stride > 1 else "")

    @property
    def outputs(self) -> int:
        return self.form.outputs

    @property
    def size(self) -> int:
        """Points, of which the last one is infinity."""
        return self.form.size

    @property
    def kinds(self) -> tuple[range, ...]:
        """The longest phases, and those that are one tap shorter, if any."""
        longest, count = self.taps - (self.form.taps - 1) * self.stride, min(self.stride, self.taps)
        return (range(longest), range(longest, count)) if longest < count else (range(count),)

    def data(self, kind: int) -> Matrix:
        """B^T for phases of a kind: the shorter ones are read one element less far, and not at infinity."""
        return tuple(row[:-1] for row in self.form.b[:-1]) if kind else self.form.b

    def filters(self, phase: int) -> tuple[tuple[float, ...], ...]:
        """G [size, taps] for the filter's own taps, of which a phase has every ``stride``-th."""
        return tuple(
            tuple(float(row[k // self.stride]) if k % self.stride == phase else 0.0 for k in range(self.taps))
            for row in self.form.g
        )

    @property
    def growth(self) -> float:
        """By how much it multiplies the mean square of the errors of its products, compared to summing the products themselves."""
        phases = [np.array(self.filters(p)) for kind in self.kinds for p in kind]
        a, b = np.array(self.form.a, float), np.array(self.form.b, float)
        squares = (b**2).sum(axis=1) * sum((g**2).sum(axis=1) for g in phases)
        return float(((a**2) @ squares).mean()) / self.taps


Forms = tuple[PhasedForm, ...]
"""One for each spatial axis."""


def phased_form(outputs: int, taps: int, stride: int = 1) -> PhasedForm:
    """F(outputs, taps) with a stride. ``ValueError`` where no points are known for its phases."""
    return PhasedForm(cook_toom(outputs, -(-taps // stride)), taps, stride)


@dataclass(frozen=True)
class PhaseGroup:
    """Phases, a range along each axis, that are of the same ``kinds``; ``first`` is how many there are before them."""

    first: int
    ranges: tuple[range, ...]
    kinds: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(map(len, self.ranges))


def phase_groups(forms: Forms) -> tuple[PhaseGroup, ...]:
    """All phases, in an order in which those that a frequency needs follow each other, of one or two axes with strides."""
    orders: list[tuple[int, ...]] = [()]
    for form in reversed(forms):
        kinds = range(len(form.kinds))
        orders = [(kind, *rest) for kind in kinds for rest in (orders if kind else reversed(orders))]
    groups: list[PhaseGroup] = []
    for kinds in orders:
        first = groups[-1].first + groups[-1].count if groups else 0
        groups.append(PhaseGroup(first, tuple(form.kinds[k] for form, k in zip(forms, kinds, strict=True)), kinds))
    return tuple(groups)


@dataclass(frozen=True)
class FrequencyGroup:
    """Frequencies, a range of points along each axis, that sum the same phases: ``runs`` of so many from a first one on."""

    points: tuple[range, ...]
    runs: tuple[range, ...]

    @property
    def products(self) -> int:
        """Of each channel."""
        return prod(map(len, self.points)) * sum(map(len, self.runs))


def frequency_groups(forms: Forms) -> tuple[FrequencyGroup, ...]:
    """All frequencies: points at infinity apart along axes of which some phases have no product there."""
    groups: list[FrequencyGroup] = []
    phases = phase_groups(forms)
    ranges = [(range(f.size - 1), range(f.size - 1, f.size)) if len(f.kinds) > 1 else (range(f.size),) for f in forms]
    for kinds in product(*(range(len(r)) for r in ranges)):
        runs: list[range] = []
        for group in phases:
            if any(infinity and shorter for infinity, shorter in zip(kinds, group.kinds, strict=True)):
                continue
            start = runs.pop().start if runs and runs[-1].stop == group.first else group.first
            runs.append(range(start, group.first + group.count))
        groups.append(FrequencyGroup(tuple(r[k] for r, k in zip(ranges, kinds, strict=True)), tuple(runs)))
    return tuple(groups)


def count_phases(forms: Forms) -> int:
    return prod(min(f.stride, f.taps) for f in forms)


def gathered(forms: Forms, channels: int, block: int) -> bool:
    """Whether vectors are of the channels of several phases, because an image has too few to fill one."""
    return channels < block and count_phases(forms) > 1


@dataclass(frozen=True)
class TransformedFilters:
    """Makes U [frequency, phase and input channel, output channel] of filters [output channel, input channel, taps...], computed in
    float64."""

    forms: Forms

    def __str__(self) -> str:
        return f"by {' x '.join(map(str, self.forms))}"

    def __call__(self, filters: np.ndarray) -> np.ndarray:
        outputs, inputs, *_ = filters.shape
        phases = [phase for group in phase_groups(self.forms) for phase in product(*group.ranges)]
        frequencies = prod(f.size for f in self.forms)
        result = np.empty((frequencies, len(phases), inputs, outputs), filters.dtype)
        flat = filters.reshape(outputs, inputs, -1).transpose(1, 2, 0)
        step = max(1, _BLOCK // (frequencies * min(outputs, _AT_A_TIME)))
        matrices = [self._matrix(phase) for phase in phases]
        for i, o in product(range(0, inputs, step), range(0, outputs, _AT_A_TIME)):
            part = np.ascontiguousarray(flat[i : i + step, :, o : o + _AT_A_TIME], np.float64)
            for p, matrix in enumerate(matrices):
                result[:, p, i : i + step, o : o + _AT_A_TIME] = np.matmul(matrix, part).transpose(1, 0, 2)
        return result.reshape(frequencies, -1, outputs)

    def _matrix(self, phase: Sequence[int]) -> np.ndarray:
        matrix = np.eye(1)
        for form, p in zip(self.forms, phase, strict=True):
            matrix = np.kron(matrix, np.array(form.filters(p), np.float64))
        return matrix
