"""tanh, erf and gelu: odd functions that level off, by one rational approximation over the whole range for float32.

Method: y = 2 t / (1 + t^2) with t = N / D, N = x P(x^2), D = Q(x^2), is 2 N D / (D^2 + N^2): one division, and an error of
t shrinks by (1 - t^2) / (1 + t^2), so that near 1, where both functions spend most of their range, the rounding of P and Q
does no harm and their degrees are low. P / Q is minimax in the relative error of y (Loeb's iteration on the Remez
algorithm) up to the clamp, where y rounds to 1; both are scaled by a factor chosen so that rounding the coefficients costs
least and |y| reaches 1 and never exceeds it.
"""

from __future__ import annotations

from math import sqrt

from .call import unary
from .exponential import tanh_by_expm1
from .value import V, horner, max_keep_nan, min_keep_nan, per_lane

_TANH_END = 8.7
_TANH_P = (0.9519996047019958, 0.028341270983219147, 0.00010870520054595545)
_TANH_Q = (1.9039992094039917, 0.21534904837608337, 0.002296584891155362, 2.337745399927371e-06)
_ERF_END = 3.8
_ERF_P = (0.7164004445075989, 0.18884682655334473, 0.020497875288128853, 0.0016135683981701732)
_ERF_Q = (1.2697867155075073, 0.35380038619041443, 0.06153329461812973, 0.007682466879487038, 0.00012564868666231632)


def _sigmoidal(x: V, end: float, p: tuple[float, ...], q: tuple[float, ...]) -> V:
    x = min_keep_nan(max_keep_nan(x, -end), end)
    z = x * x
    n, d = x * horner(z, p), horner(z, q)
    return ((n + n) * d) / (d * d + n * n)


@unary
def tanh(x: V) -> V:
    """Hyperbolic tangent; float32 rational, <= 4 ulp; float64 through expm1, <= 3 ulp."""
    if x.format.bits == 64:
        return tanh_by_expm1(x)
    return _sigmoidal(x, _TANH_END, _TANH_P, _TANH_Q)


@unary
def erf(x: V) -> V:
    """Error function; float32 rational, <= 4 ulp; float64 by libm for each lane."""
    if x.format.bits == 64:
        return per_lane("erf", x)
    return _sigmoidal(x, _ERF_END, _ERF_P, _ERF_Q)


@unary
def gelu(x: V) -> V:
    """x (1 + erf(x / sqrt(2))) / 2. The error is <= 2^-22 |x| (float64 2^-51 |x|): the sum cancels below zero."""
    half = x * 0.5
    return half * erf(x * sqrt(0.5)) + half
