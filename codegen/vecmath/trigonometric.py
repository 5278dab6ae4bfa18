"""sin, cos, tan, asin, acos, atan for float32; float64 calls libm for each lane.

Reduction: x = n pi/2 + r with |r| <= pi/4 in double precision: for |x| <= 2^20 with pi/2 in two parts (Cody and Waite,
1980), for larger x by the leading bits of 2/pi (Payne and Hanek, 1983), behind a branch taken when any lane needs it.
Polynomials are minimax (Remez, coefficients rounded one at a time); asin and acos reduce as Cephes does, atan by 1/x.
"""

from __future__ import annotations

from math import pi

from .call import unary
from .value import FLOAT64, V, absolute, copysign, horner, per_lane, select, unless_any

_SIN = (-0.16666655242443085, 0.008332191966474056, -0.00019518789486028254)
_COS = (0.04166664555668831, -0.0013887309469282627, 2.4432327336398885e-05)
_ASIN = (0.16666732728481293, 0.07495897263288498, 0.04540879651904106, 0.024440612643957138, 0.04177360236644745)
_ATAN = (
    -0.3333316743373871,
    0.1999414712190628,
    -0.14214283227920532,
    0.10679208487272263,
    -0.07581105083227158,
    0.04355928674340248,
    -0.016584454104304314,
    0.0029753469862043858,
)

_LARGE = 2.0**20
_HALF_PI = (1.5707963267341256, 6.077100506506192e-11)  # the first part has 33 bits: its product with n is exact
_CHUNK = 28
_TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163AB  # 224 bits after the binary point
_CHUNKS = tuple(
    ((_TWO_OVER_PI >> (224 - _CHUNK * k)) & ((1 << _CHUNK) - 1)) * 2.0 ** (-_CHUNK * k) for k in range(1, 224 // _CHUNK + 1)
)


def _payne_hanek(x: V) -> tuple[V, V]:
    """n modulo 4 and r for any finite float32 value ``x`` held as double.

    Each 24 x 28 bit product is exact; multiples of 4, then of 1, are dropped as soon as they appear, so s keeps full precision.
    """
    s, n = x.of(0.0), x.of(0.0)
    for chunk in _CHUNKS:
        product = x * chunk
        s = s + (product - 4.0 * (product * 0.25).intrinsic("rint"))
        whole = s.intrinsic("rint")
        s, n = s - whole, n + whole
    return n, s * (pi / 2)


def _reduce(x: V) -> tuple[V, V]:
    """n as 32-bit integers (its two low bits count) and r as float32."""
    wide = x.to_double()
    magic = FLOAT64.round_magic
    n = (wide * (2 / pi) + magic) - magic
    r = (wide - n * _HALF_PI[0]) - n * _HALF_PI[1]
    n, r = unless_any(absolute(x) > _LARGE, (n, r), lambda: _payne_hanek(wide))
    return (n + magic).bits().to_int32(), r.to_single()


def _sin_and_cos(r: V) -> tuple[V, V]:
    """sin and cos of |r| <= pi/4."""
    z = r * r
    return r + (r * z) * horner(z, _SIN), (z * z) * horner(z, _COS) + (1.0 - 0.5 * z)


def _quadrant(n: V, r: V) -> V:
    """sin(n pi/2 + r)."""
    sin_r, cos_r = _sin_and_cos(r)
    y = select((n & 1).eq(0), sin_r, cos_r)
    return (y.bits() ^ ((n & 2) << 30)).as_float()


@unary
def sin(x: V) -> V:
    """Sine, <= 2 ulp for every float32; NaN for infinities."""
    if x.format.bits == 64:
        return per_lane("sin", x)
    return select(x.eq(0.0), x, _quadrant(*_reduce(x)))


@unary
def cos(x: V) -> V:
    """Cosine, <= 2 ulp for every float32; NaN for infinities."""
    if x.format.bits == 64:
        return per_lane("cos", x)
    n, r = _reduce(x)
    return _quadrant(n + 1, r)


@unary
def tan(x: V) -> V:
    """Tangent as the quotient of sine and cosine, <= 4 ulp for every float32; NaN for infinities."""
    if x.format.bits == 64:
        return per_lane("tan", x)
    n, r = _reduce(x)
    sin_r, cos_r = _sin_and_cos(r)
    even = (n & 1).eq(0)
    y = select(even, sin_r, -cos_r) / select(even, cos_r, sin_r)
    return select(x.eq(0.0), x, y)


def _asin_parts(a: V) -> tuple[V, V]:
    """For a = |x|: is it above 1/2, and asin(a) below, asin(sqrt((1 - a) / 2)) above."""
    above = a > 0.5
    z = select(above, (1.0 - a) * 0.5, a * a)
    s = select(above, z.intrinsic("sqrt"), a)
    return above, s + (s * z) * horner(z, _ASIN)


@unary
def asin(x: V) -> V:
    """Arc sine, <= 2.5 ulp; NaN beyond 1. Above 1/2: pi/2 - 2 asin(sqrt((1 - x) / 2))."""
    if x.format.bits == 64:
        return per_lane("asin", x)
    above, p = _asin_parts(absolute(x))
    return copysign(select(above, pi / 2 - 2.0 * p, p), x)


@unary
def acos(x: V) -> V:
    """Arc cosine, <= 2.5 ulp; NaN beyond 1."""
    if x.format.bits == 64:
        return per_lane("acos", x)
    above, p = _asin_parts(absolute(x))
    outer = select(x < 0.0, pi - 2.0 * p, 2.0 * p)
    return select(above, outer, pi / 2 - copysign(p, x))


@unary
def atan(x: V) -> V:
    """Arc tangent, <= 2.5 ulp. Above 1: pi/2 - atan(1 / x)."""
    if x.format.bits == 64:
        return per_lane("atan", x)
    a = absolute(x)
    above = a > 1.0
    t = select(above, 1.0 / a, a)
    z = t * t
    p = t + (t * z) * horner(z, _ATAN)
    return copysign(select(above, pi / 2 - p, p), x)
