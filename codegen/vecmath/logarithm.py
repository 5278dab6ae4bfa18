"""log and its family: log1p, asinh, acosh, atanh.

Method: x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)], log x = k ln 2 + log(1 + f), ln 2 in two parts. float32 takes
log(1 + f) = f - f^2/2 + f^3 P(f); float64 takes FreeBSD msun's form f - (f^2/2 - s (f^2/2 + R)), s = f / (2 + f), R = s^2
P(s^2). P are minimax polynomials (Remez, relative error, coefficients rounded one at a time).
"""

from __future__ import annotations

from math import inf, nan

from .call import unary
from .value import V, absolute, copysign, horner, select

_LN2 = {32: (0.693145751953125, 1.428606765330187e-06), 64: (0.6931471803691238, 1.9082149292705877e-10)}
_SQRT_HALF_BITS = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}
_P32 = (
    0.3333333134651184,
    -0.250008225440979,
    0.20001259446144104,
    -0.16623328626155853,
    0.1420099437236786,
    -0.1315930187702179,
    0.12774670124053955,
    -0.07665586471557617,
)
_P64 = (
    0.666666666666671,
    0.39999999999542085,
    0.2857142871866871,
    0.22222200700959033,
    0.18183464979902136,
    0.15316376894716927,
    0.147743578634085,
)


def _biased_exponent(x: V) -> V:
    """k + bias as integers, where x = 2^k m with m in [sqrt(1/2), sqrt(2)); x normal and positive."""
    form = x.format
    return (x.bits() + ((form.bias << form.mantissa) - _SQRT_HALF_BITS[form.bits])) >> form.mantissa


def _as_exponent(biased: V, x: V) -> V:
    """k as float from k + bias, without an integer conversion: those of 64 bits are missing on many targets."""
    form = x.format
    return (biased | ((form.bias + form.mantissa) << form.mantissa)).as_float() - (2.0**form.mantissa + form.bias)


def _log_of_parts(f: V, k: V) -> V:
    """k ln 2 + log(1 + f)."""
    bits = f.format.bits
    high, low = _LN2[bits]
    square = f * f
    if bits == 32:
        y = (square * f) * horner(f, _P32) + k * low
        return k * high + (f + (y - 0.5 * square))
    s = f / (f + 2.0)
    z = s * s
    half = 0.5 * square
    return k * high - ((half - (s * (half + z * horner(z, _P64)) + k * low)) - f)


@unary
def log(x: V) -> V:
    """Natural logarithm, <= 1.5 ulp, subnormals included; log(0) = -inf, NaN below zero."""
    form = x.format
    subnormal = x < form.min_normal
    normal = select(subnormal, x * 2.0**form.mantissa, x)
    biased = _biased_exponent(normal)
    mantissa = (normal.bits() - ((biased - form.bias) << form.mantissa)).as_float()
    k = _as_exponent(biased, x) - select(subnormal, x.of(form.mantissa), x.of(0.0))
    y = _log_of_parts(mantissa - 1.0, k)
    y = select(x > 0.0, y, select(x.eq(0.0), x.of(-inf), x.of(nan)))
    return select(x.eq(inf), x, y)


@unary
def log1p(x: V) -> V:
    """log(1 + x), <= 2 ulp, small x included: the scale 2^-k of 1 + x is applied to x, not to the rounded sum."""
    form = x.format
    biased = _biased_exponent(x + 1.0)
    scale = ((2 * form.bias + 2 - biased) << form.mantissa).as_float()  # 4 * 2^-k, normal for every k
    f = (x * scale) * 0.25 + (scale * 0.25 - 1.0)
    y = copysign(_log_of_parts(f, _as_exponent(biased, x)), x)
    y = select(x > -1.0, y, select(x.eq(-1.0), x.of(-inf), x.of(nan)))
    return select(x.eq(inf), x, y)


_HUGE = 2.0**60  # beyond it log1p(x) + ln 2 is asinh and acosh to the last bit; its square does not overflow
_LN2_FULL = 0.6931471805599453


@unary
def asinh(x: V) -> V:
    """sign(x) log1p(a + a^2 / (1 + sqrt(1 + a^2))), a = |x|; <= 3 ulp."""
    a = absolute(x)
    huge = a > _HUGE
    square = a * a
    grown = a + square / (1.0 + (square + 1.0).intrinsic("sqrt"))
    y = log1p(select(huge, a, grown)) + select(huge, x.of(_LN2_FULL), x.of(0.0))
    return copysign(y, x)


@unary
def acosh(x: V) -> V:
    """log1p(t + sqrt(2 t + t^2)), t = x - 1; <= 3 ulp; NaN below 1."""
    huge = x > _HUGE
    t = x - 1.0
    grown = t + (t * (t + 2.0)).intrinsic("sqrt")
    y = log1p(select(huge, x, grown)) + select(huge, x.of(_LN2_FULL), x.of(0.0))
    return select(x >= 1.0, y, x.of(nan))


@unary
def atanh(x: V) -> V:
    """sign(x) log1p(2 a / (1 - a)) / 2, a = |x|; <= 3 ulp; NaN beyond 1."""
    a = absolute(x)
    return copysign(0.5 * log1p((a + a) / (1.0 - a)), x)
