"""tanh, erf and gelu: odd functions that level off, one rational approximation over the whole range for float32.

tanh and erf are x P(x^2) / Q(x^2) on the interval where they differ from 1, with x clamped to it; P / Q is minimax in relative error (Loeb's iteration on
the Remez algorithm), both scaled so that the leading coefficients round well.
"""

from __future__ import annotations

from math import sqrt

from .call import unary
from .exponential import tanh_by_expm1
from .value import V, horner, max_keep_nan, min_keep_nan, per_lane

_TANH_END = 9.0
_TANH_P = (0.9999999794961173, 0.13380941906240215, 0.0034954906792437463, 2.0607571040713106e-05, 1.3352752423311823e-08)
_TANH_Q = (1.0, 0.4671425746692395, 0.025876606083156097, 0.0003285479326820015, 7.775737425700492e-07)
_ERF_END = 3.92
_ERF_P = (
    1.1283791458304764,
    0.19057820724644908,
    0.0527677282127642,
    0.0037719996268351487,
    0.000284852137554934,
    2.046437899544967e-06,
)
_ERF_Q = (1.0, 0.5022282704722104, 0.11417673275071089, 0.01498209997547514, 0.001163761905715521, 3.805243685956242e-05)


def _odd_rational(x: V, end: float, p: tuple[float, ...], q: tuple[float, ...]) -> V:
    clamped = min_keep_nan(max_keep_nan(x, -end), end)
    z = clamped * clamped
    return (clamped * horner(z, p)) / horner(z, q)


@unary
def tanh(x: V) -> V:
    """Hyperbolic tangent; float32 rational <= 3 ulp, float64 through expm1 <= 3 ulp."""
    if x.format.bits == 64:
        return tanh_by_expm1(x)
    return _odd_rational(x, _TANH_END, _TANH_P, _TANH_Q)


@unary
def erf(x: V) -> V:
    """Error function; float32 rational <= 3 ulp, float64 by libm for each lane."""
    if x.format.bits == 64:
        return per_lane("erf", x)
    return _odd_rational(x, _ERF_END, _ERF_P, _ERF_Q)


@unary
def gelu(x: V) -> V:
    """x (1 + erf(x / sqrt(2))) / 2. The error is <= 2^-23 |x|: below zero the sum cancels, as it does in the formula; -inf gives NaN."""
    half = x * 0.5
    return half * erf(x * sqrt(0.5)) + half
