"""pow and fmod: float32 computed in double precision, float64 by libm for each lane."""

from __future__ import annotations

from math import inf, nan

from .call import binary
from .exponential import exp
from .logarithm import log
from .value import V, absolute, copysign, per_lane, select, unless_any


def _is_integer(x: V) -> V:
    return x.intrinsic("rint").eq(x)


@binary
def pow_(x: V, y: V) -> V:
    """x to the power y with the special cases of C99 (annex F); exp(y log|x|) in double, <= 0.6 ulp."""
    if x.format.bits == 64:
        return per_lane("pow", x, y)
    a = absolute(x)
    log_a = log(a.to_double())
    product = y.to_double() * log_a
    magnitude = exp(select(a.eq(1.0) & y.eq(y), log_a, product)).to_single()
    integer = _is_integer(y)
    odd = integer & ~_is_integer(y * 0.5)
    z = select(odd, copysign(magnitude, x), magnitude)
    z = select((x < 0.0) & (x > -inf) & ~integer, z.of(nan), z)
    return select(x.eq(1.0) | y.eq(0.0), z.of(1.0), z)


_QUOTIENT_LIMIT = 2.0**28


@binary
def fmod(x: V, y: V) -> V:
    """x - trunc(x / y) y with the sign of x, exact, as C's fmod.

    float32: exact in double while |x / y| < 2^28; any lane beyond sends the vector to libm.
    """
    if x.format.bits == 64:
        return per_lane("fmod", x, y)
    wide, divisor = x.to_double(), y.to_double()
    quotient = wide / divisor
    rest = (wide - quotient.to_int32().int_to_double() * divisor).to_single()
    usual = copysign(select(absolute(y).eq(inf) & (absolute(x) < inf), x, rest), x)
    (result,) = unless_any(~(absolute(quotient) < _QUOTIENT_LIMIT), (usual,), lambda: (per_lane("fmodf", x, y),))
    return result
