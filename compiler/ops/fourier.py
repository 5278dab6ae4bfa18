"""The discrete Fourier transform of one signal in scratch memory: mixed-radix Stockham autosort.

    n = N, s = 1
    for each prime factor r of N (and 4, 8):                  n is what is left to transform, s the distance of neighbours
        for p in range(n / r), q in range(s):
            y[q + s * (r * p + j)] = w_n^(p * j) * sum_k w_r^(j * k) x[q + s * (p + n / r * k)]    for j < r
        x, y = y, x;  n = n / r;  s = s * r

Source: Van Loan, Computational Frameworks for the Fast Fourier Transform, SIAM 1992, section 1.7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...ir import loops as ir
from ...ir.dtypes import DType
from .builder import Builder

Complex = tuple[ir.Expr, ir.Expr]
"""Real and imaginary part."""
UNROLLED = 8
"""Factors up to this are straight-line code."""
VECTOR = 16
"""Iterations that make a vector loop worthwhile."""


@dataclass(frozen=True)
class Signal:
    """A complex signal in memory: real parts, then imaginary parts."""

    buffer: ir.Buffer

    def __call__(self, k: ir.Operand) -> Complex:
        return self.buffer(0, k), self.buffer(1, k)

    def store(self, b: Builder, k: ir.Expr, value: Complex) -> None:
        for part in (0, 1):
            b.store(self.buffer, (part, k), value[part])


class Fourier:
    """Transforms of length ``n`` (inverse ones without the factor 1 / n). ``table`` makes kernel arguments of arrays."""

    def __init__(self, n: int, dtype: DType, table: Callable[[str, np.ndarray], ir.Buffer], *, inverse: bool) -> None:
        self.n, self.dtype, self.sign = n, dtype, 1 if inverse else -1
        self.factors = factors(n)
        self._table = table
        self._roots = {length: self._make_roots(length) for length in self._lengths()}

    def _lengths(self) -> list[int]:
        """The orders of the roots of unity that the stages look up."""
        left = self.n
        wanted: list[int] = []
        for r in self.factors:
            wanted += [left] if left > r else []
            wanted += [r] if r > UNROLLED else []
            left //= r
        return list(dict.fromkeys(wanted))

    def _make_roots(self, length: int) -> Signal:
        angles = self.sign * 2 * np.pi * np.arange(length) / length
        return Signal(
            self._table(f"roots of order {length}", np.stack([np.cos(angles), np.sin(angles)]).astype(self.dtype.numpy))
        )

    def transform(self, b: Builder, source: Signal, other: Signal) -> Signal:
        """Emits the transform of ``source``; the result is in the one of the two that is returned, the other one is overwritten."""
        left, stride = self.n, 1
        for r in self.factors:
            self._stage(b, source, other, r, left, stride)
            source, other = other, source
            left, stride = left // r, stride * r
        return source

    def _stage(self, b: Builder, x: Signal, y: Signal, r: int, n: int, s: int) -> None:
        groups = n // r
        if r > UNROLLED:
            with b.loop("p", ir.Const(groups)) as p, b.loop("q", ir.Const(s)) as q, b.loop("j", ir.Const(r)) as j:
                self._long_butterfly(b, x, y, r, n, s, p, q, j)
            return
        vector_q = s >= VECTOR or s >= groups
        loops = (("p", groups), ("q", s)) if vector_q else (("q", s), ("p", groups))
        (outer_name, outer_extent), (inner_name, inner_extent) = loops
        with b.loop(outer_name, outer_extent) as outer, b.loop(inner_name, inner_extent, "vector") as inner:
            p, q = (outer, inner) if vector_q else (inner, outer)
            self._butterfly(b, x, y, r, n, s, p, q)

    def _butterfly(self, b: Builder, x: Signal, y: Signal, r: int, n: int, s: int, p: ir.Expr, q: ir.Expr) -> None:
        groups = n // r
        inputs = [tuple(b.let("x", part) for part in x(q + (p + groups * k) * s)) for k in range(r)]
        for j in range(r):
            total: Complex | None = None
            for k, (real, imaginary) in enumerate(inputs):
                turned = _turn((real, imaginary), np.exp(self.sign * 2j * np.pi * ((j * k) % r) / r))
                total = turned if total is None else (total[0] + turned[0], total[1] + turned[1])
            assert total is not None
            y.store(b, q + (p * r + j) * s, self._twiddled(b, total, n, p * j) if j and groups > 1 else total)

    def _long_butterfly(
        self, b: Builder, x: Signal, y: Signal, r: int, n: int, s: int, p: ir.Expr, q: ir.Expr, j: ir.Expr
    ) -> None:
        zero = ir.Const(0.0, self.dtype)
        real, imaginary = b.scalar("real", zero), b.scalar("imaginary", zero)
        with b.loop("k", ir.Const(r), "vector") as k:
            term = _times(x(q + (p + k * (n // r)) * s), self._roots[r](ir.mod(j * k, ir.Const(r))))
            b.assign(real, ir.Binary("add", real, term[0]))
            b.assign(imaginary, ir.Binary("add", imaginary, term[1]))
        total = (real, imaginary)
        y.store(b, q + (p * r + j) * s, self._twiddled(b, total, n, p * j) if n > r else total)

    def _twiddled(self, b: Builder, value: Complex, n: int, power: ir.Expr) -> Complex:
        return _times(value, self._roots[n](power))


def factors(n: int) -> list[int]:
    """Factors of ``n``, of which 4 and 8 stand for powers of two and the others are prime, the largest first."""
    found: list[int] = []
    divisor = 2
    while n > 1:
        if divisor * divisor > n:
            divisor = n
        while n % divisor == 0:
            n //= divisor
            found.append(divisor)
        divisor += 1
    twos = found.count(2)
    powers = {0: [], 1: [2], 2: [4]}[twos % 3] + [8] * (twos // 3)
    return sorted([f for f in found if f != 2] + powers, reverse=True)


def _times(a: Complex, b: Complex) -> Complex:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _turn(value: Complex, root: complex) -> Complex:
    """The product with a constant; none where it is 1, -1, i or -i."""
    for quarter, result in enumerate((value, (-value[1], value[0]), (-value[0], -value[1]), (value[1], -value[0]))):
        if abs(root - 1j**quarter) < 1e-12:
            return result
    return _times(value, (ir.wrap(float(root.real), value[0].dtype), ir.wrap(float(root.imag), value[0].dtype)))
