"""tanh, erf and gelu: odd functions that level off, one rational approximation over the whole range for float32.

tanh and erf are x P(x^2) / Q(x^2) on the interval where they differ from 1, with x clamped to it; P / Q is minimax in relative error (Loeb's iteration on
the Remez algorithm), both scaled by a factor that makes the rounding of the coefficients harmless and the quotient at the ends at least 1, where it is
clamped: |tanh| and |erf| never exceed 1, and reach it.
"""

from __future__ import annotations

from math import sqrt

from .call import unary
from .exponential import tanh_by_expm1
from .value import V, horner, max_keep_nan, min_keep_nan, per_lane

_TANH_END = 8.95
_TANH_P = (1.5370947122573853, 0.20572829246520996, 0.005378906615078449, 3.177489998051897e-05, 2.0662572097762677e-08)
_TANH_Q = (1.5370947122573853, 0.7180929183959961, 0.03979763388633728, 0.000505992560647428, 1.2008391649942496e-06)
_ERF_END = 3.89
_ERF_P = (
    1.8143837451934814,
    0.30440911650657654,
    0.0846269503235817,
    0.005990353412926197,
    0.0004585386486724019,
    3.3358180644427193e-06,
)
_ERF_Q = (
    1.6079556941986084,
    0.8057599663734436,
    0.1827942281961441,
    0.023939764127135277,
    0.0018571441760286689,
    6.167951505631208e-05,
)


def _clamp(x: V, end: float) -> V:
    return min_keep_nan(max_keep_nan(x, -end), end)


def _odd_rational(x: V, end: float, p: tuple[float, ...], q: tuple[float, ...]) -> V:
    x = _clamp(x, end)
    z = x * x
    return _clamp((x * horner(z, p)) / horner(z, q), 1.0)


@unary
def tanh(x: V) -> V:
    """Hyperbolic tangent; float32 rational, relative error <= 3 * 2^-23 (2 ulp below 0.5, 5.5 ulp just below 1); float64 through expm1, <= 3 ulp."""
    if x.format.bits == 64:
        return tanh_by_expm1(x)
    return _odd_rational(x, _TANH_END, _TANH_P, _TANH_Q)


@unary
def erf(x: V) -> V:
    """Error function; float32 rational, relative error <= 3 * 2^-23 (5.5 ulp just below 1); float64 by libm for each lane."""
    if x.format.bits == 64:
        return per_lane("erf", x)
    return _odd_rational(x, _ERF_END, _ERF_P, _ERF_Q)


@unary
def gelu(x: V) -> V:
    """x (1 + erf(x / sqrt(2))) / 2. The error is <= 2^-22 |x|: below zero the sum cancels, as it does in the formula; -inf gives NaN."""
    half = x * 0.5
    return half * erf(x * sqrt(0.5)) + half
