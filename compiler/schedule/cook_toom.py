"""Cook-Toom algorithms of short convolutions F(m, r): m results of a filter with r taps by m + r - 1 products, in exact arithmetic.

    y[i] = sum_k d[i + k] * g[k]   =   A^T ((G g) * (B^T d))

A filter and a polynomial of m coefficients are evaluated at m + r - 2 points and at infinity, their products interpolated; the transpose
of that linear convolution is the filter above. Sources: Winograd, "Arithmetic complexity of computations" (1980); Lavin and Gray, "Fast
algorithms for convolutional neural networks" (2015); the points and their order as in Barabasz et al., "Error analysis and improving
the accuracy of Winograd convolution for deep neural networks" (2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations
from math import prod
from typing import Any, Protocol, TypeVar

Matrix = tuple[tuple[Fraction, ...], ...]

_MAGNITUDES = {0: "", 1: "1", 2: "5/8 3/2", 3: "1/2 1 2"}
"""Points of evaluation besides 0 and infinity, each with both signs, by their number: of all multiples of 1/8, those with the least
growth of errors (``PhasedForm.growth``) of F(2, 3), F(4, 3) and F(6, 3). F(4, 3) on 1 and 2 has more than twice as much."""
_FOUR = tuple(map(Fraction, ("3/8", "-3/8", "11/8", "-11/8")))
"""Four points without 0, the best for F(4, 2), F(3, 3) and F(2, 4): with 0 and three others errors grow by twice as much, and fewer sums
are shared."""


@dataclass(frozen=True)
class CookToom:
    """F(outputs, taps): ``a`` is A^T [outputs, size], ``g`` is G [size, taps], ``b`` is B^T [size, size]."""

    outputs: int
    taps: int
    a: Matrix
    g: Matrix
    b: Matrix

    @property
    def size(self) -> int:
        """Inputs read, and products made, for ``outputs`` results."""
        return self.outputs + self.taps - 1


def default_points(count: int) -> tuple[Fraction, ...]:
    """The points at which an algorithm with ``count`` of them besides infinity evaluates; ``ValueError`` for more than there are."""
    if count == len(_FOUR):
        return _FOUR
    pairs = count // 2
    if pairs not in _MAGNITUDES:
        raise ValueError(f"no set of {count} points is known")
    magnitudes = map(Fraction, _MAGNITUDES[pairs].split())
    return (Fraction(0), *(sign * p for p in magnitudes for sign in (1, -1)))[:count]


@cache
def cook_toom(outputs: int, taps: int, points: tuple[Fraction, ...] | None = None) -> CookToom:
    """F(outputs, taps). ``ValueError`` where ``points`` are not outputs + taps - 2 different numbers, or too many to be known."""
    count = outputs + taps - 2
    if outputs < 1 or taps < 1:
        raise ValueError(f"F({outputs}, {taps}) has no results or no taps")
    at = default_points(count) if points is None else points
    if len(at) != count or len(set(at)) < count:
        raise ValueError(f"F({outputs}, {taps}) needs {count} different points, not {', '.join(map(str, at))}")
    others = [[q for q in at if q != p] for p in at]
    results = tuple((*(p**i for p in at), Fraction(i == outputs - 1)) for i in range(outputs))
    values = tuple((*_from_roots(rest), Fraction(0)) for rest in others)
    weights = (prod((p - q for q in rest), start=Fraction(1)) for p, rest in zip(at, others, strict=True))
    filters = tuple(tuple(p**k / weight for k in range(taps)) for p, weight in zip(at, weights, strict=True))
    infinity = tuple(Fraction(k == taps - 1) for k in range(taps))
    return CookToom(outputs, taps, results, (*filters, infinity), (*values, _from_roots(at)))


def _from_roots(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients of the product of (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return tuple(coefficients)


# --- products with few operations -----------------------------------------------------------------------------------------------


class Value(Protocol):
    """What a matrix is multiplied with: numbers, or expressions of the loop IR."""

    def __add__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...


V = TypeVar("V", bound=Value)


def multiply(matrix: Matrix, x: Sequence[V], name: Callable[[V], V]) -> list[V]:
    """``matrix @ x`` with sums shared between the rows; ``name`` is called with every value that is used more than once.

    Columns that are equal up to signs, [.. a .. a ..], [.. b .. -b ..], take the sum and the difference of their values; rows that are
    equal up to signs are e + o and e - o, with e and o the sums over what they agree and disagree in.
    """
    matrix, values = _paired_columns(matrix, list(x), name)
    rows = dict(enumerate(matrix))
    result: dict[int, V] = {}
    for i, j in _pairs(matrix):
        even, odd = (tuple((p + q * sign) / 2 for p, q in zip(rows[i], rows[j], strict=True)) for sign in (1, -1))
        factor = _factor(odd)
        e, o = name(_total(even, values)), name(_total(tuple(c / factor for c in odd), values))
        result[i], result[j] = name(_plus(e, factor, o)), name(_plus(e, -factor, o))
    for i, row in rows.items():
        if i not in result:
            result[i] = name(_total(row, values))
    return [result[i] for i in range(len(matrix))]


def _paired_columns(matrix: Matrix, values: list[V], name: Callable[[V], V]) -> tuple[Matrix, list[V]]:
    columns = tuple(zip(*matrix, strict=True))
    left = dict(enumerate(columns))
    kept: list[tuple[tuple[Fraction, ...], V]] = []
    for i, j in _pairs(columns):
        p, q = left.pop(i), left.pop(j)
        for sign, both in ((1, values[i] + values[j]), (-1, values[i] - values[j])):
            kept.append((tuple(a if a == sign * b else Fraction(0) for a, b in zip(p, q, strict=True)), name(both)))
    kept += [(column, values[i]) for i, column in left.items()]
    return tuple(zip(*(column for column, _ in kept), strict=True)), [value for _, value in kept]


@cache
def _pairs(rows: Matrix) -> tuple[tuple[int, int], ...]:
    """Rows that are equal up to signs, in some entries of the same sign and in some not, two by two."""
    found: list[tuple[int, int]] = []
    for i, j in combinations(range(len(rows)), 2):
        if any(i in pair or j in pair for pair in found):
            continue
        signs = {a == b for a, b in zip(rows[i], rows[j], strict=True) if a or b}
        if signs == {True, False} and all(abs(a) == abs(b) for a, b in zip(rows[i], rows[j], strict=True)):
            found.append((i, j))
    return tuple(found)


@cache
def _factor(row: tuple[Fraction, ...]) -> Fraction:
    """What to take out of a sum so that most of its coefficients are 1 or -1, and the others have few digits in binary."""
    given = [c for c in row if c]
    return min(given, key=lambda f: (sum(abs(c) != abs(f) for c in given), sum((c / f).denominator for c in given), f != 1))


def _total(row: tuple[Fraction, ...], values: Sequence[V]) -> V:
    """The sum of ``values`` times ``row``, those without a factor first."""
    (at, first), *rest = _terms(row)
    total = values[at] if first == 1 else values[at] * first
    for i, factor in rest:
        total = _plus(total, factor, values[i])
    return total


@cache
def _terms(row: tuple[Fraction, ...]) -> tuple[tuple[int, Fraction], ...]:
    """The places and factors of what is summed, 1 before -1 before others."""
    return tuple(sorted(((i, c) for i, c in enumerate(row) if c), key=lambda term: (term[1] != 1, term[1] != -1)))


def _plus(total: V, factor: Fraction, value: V) -> V:
    if factor == 1:
        return total + value
    return total - value if factor == -1 else total + value * factor
