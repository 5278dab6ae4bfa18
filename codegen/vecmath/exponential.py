"""exp and its family: expm1, sigmoid, silu, mish, softplus, tanh of float64, sinh, cosh, gelu in its tanh form.

Method: x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts (Cody and Waite, 1980); exp(r) = 1 + r + r^2 Q(r), Q a
minimax polynomial (Remez, relative error, coefficients rounded one at a time). n comes from adding 1.5 * 2^mantissa.
"""

from __future__ import annotations

from dataclasses import dataclass

from .call import unary
from .logarithm import log1p
from .value import V, absolute, copysign, horner, max_keep_nan, min_keep_nan


@dataclass(frozen=True)
class _Tables:
    ln2: tuple[float, float]
    ln2_fused: tuple[float, ...]  # parts that do where products are not rounded, but for 1 ulp of exp for each 50 of |x|
    q: tuple[float, ...]
    short: tuple[float, ...]  # exp(r) as one polynomial, relative error 1.8 * 2^-24
    short2: tuple[float, ...]  # (2^r - 1) / r, so that 2^r has a relative error of 1.6 * 2^-24
    lowest: float  # exp of it and of all below rounds to 0
    highest: float  # exp of it and of all above overflows
    minus_one: float  # expm1 of it and of all below rounds to -1
    overflow: float  # exp of it is 2^n (1 + p) with the 2^n whose bits are those of infinity
    subnormal: float  # exp of it is no normal number, and 2^n is the one whose exponent bits are 0


_LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453
_TABLES = {
    32: _Tables(
        ln2=(0.693145751953125, 1.428606765330187e-06),
        ln2_fused=(0.6931471824645996,),
        q=(0.4999999403953552, 0.16666516661643982, 0.04166810214519501, 0.008369190618395805, 0.0013838836457580328),
        short=(1.0, 1.0, 0.499992311000824, 0.16667112708091736, 0.04189019277691841, 0.008312703110277653),
        short2=(0.6931470036506653, 0.24022246897220612, 0.0555071160197258, 0.00967129971832037, 0.001326926052570343),
        lowest=-104.5,
        highest=89.0,
        minus_one=-17.5,
        overflow=88.8,
        subnormal=-88.0,
    ),
    64: _Tables(
        ln2=(0.6931471803691238, 1.9082149292705877e-10),
        ln2_fused=(0.6931471803691238, 1.9082149292705877e-10),
        q=(
            0.5,
            0.16666666666666688,
            0.041666666666666824,
            0.008333333333313899,
            0.0013888888888778034,
            0.00019841269903326814,
            2.4801587558594198e-05,
            2.755722872461868e-06,
            2.7557068346824046e-07,
            2.5114037860061827e-08,
            2.09805593711055e-09,
        ),
        short=(),
        short2=(),
        lowest=-746.0,
        highest=710.0,
        minus_one=-38.0,
        overflow=709.9,
        subnormal=-709.0,
    ),
}


def _reduce(x: V) -> tuple[V, V]:
    """The integer n (as integers of the float's width) and p = exp(r) - 1, where x = n ln 2 + r."""
    form, tables = x.format, _TABLES[x.format.bits]
    shifted = x * _LOG2_E + form.round_magic
    n = shifted - form.round_magic
    r = (x - n * tables.ln2[0]) - n * tables.ln2[1]
    p = r + (r * r) * horner(r, tables.q)
    return shifted.bits() - x.of(form.round_magic).bits(), p


def _power_of_two(n: V, x: V) -> V:
    """2^n as floats of x's type; n within the normal exponents."""
    return ((n + x.format.bias) << x.format.mantissa).as_float()


@unary
def exp(x: V) -> V:
    """Exponential, <= 1.5 ulp, gradual underflow included (the scale 2^n is applied in two factors)."""
    tables = _TABLES[x.format.bits]
    n, p = _reduce(min_keep_nan(max_keep_nan(x, tables.lowest), tables.highest))
    bias, mantissa = x.format.bias, x.format.mantissa
    biased = n + 2 * bias
    half = biased >> 1
    return ((p + 1.0) * (half << mantissa).as_float()) * ((biased - half) << mantissa).as_float()


def _rest(x: V, sign: float) -> tuple[V, V]:
    """r and 2^n of exp(sign x). What rounds sign x / ln 2 to n adds the exponent's bias too, so that 2^n is a shift away."""
    form, tables = x.format, _TABLES[x.format.bits]
    shifted = x * (sign * _LOG2_E) + (form.round_magic + form.bias)
    n = shifted - (form.round_magic + form.bias)
    r = x if sign > 0 else -x
    for part in tables.ln2_fused if x.fused else tables.ln2:
        r = r - n * part
    return r, (shifted.bits() << form.mantissa).as_float()


@unary
def exp_down(x: V) -> V:
    """exp(x) for x <= 0, half of the work, <= 3 ulp (float64 1.5), 5 below x = -32; 0 where that is not a normal number. For softmax."""
    tables = _TABLES[x.format.bits]
    r, power = _rest(max_keep_nan(x, tables.subnormal), 1.0)
    return (r * power) * horner(r, (tables.short or (1.0, 1.0, *tables.q))[1:]) + power


@unary
def exp2_down(x: V) -> V:
    """2^x for x <= 0, <= 2.5 ulp (float64 1.5); 0 where that is not a normal number. For softmax of what is scaled by log2 e already."""
    form, tables = x.format, _TABLES[x.format.bits]
    x = max_keep_nan(x, -float(form.bias))
    shifted = x + (form.round_magic + form.bias)
    r = x - (shifted - (form.round_magic + form.bias))
    power = (shifted.bits() << form.mantissa).as_float()
    q = horner(r, tables.short2) if tables.short2 else horner(r * _LN2, (1.0, *tables.q)) * _LN2
    return (r * power) * q + power


def _quarter_exp(x: V) -> V:
    """exp(x) / 4 for 0 <= x up to the overflow of sinh; no overflow."""
    n, p = _reduce(x)
    return (p + 1.0) * _power_of_two(n - 2, x)


def _scaled_expm1(x: V, shift: int) -> V:
    """2^-shift (exp(x) - 1); x not below ``minus_one``; shift >= 1 keeps 2^(n - shift) in range up to the overflow."""
    n, p = _reduce(x)
    scale = _power_of_two(n - shift, x)
    return p * scale + (scale - 2.0**-shift)


@unary
def expm1(x: V) -> V:
    """exp(x) - 1, <= 2 ulp (float64 2.5), small x included."""
    tables = _TABLES[x.format.bits]
    clamped = min_keep_nan(max_keep_nan(x, tables.minus_one), tables.highest)
    return copysign(2.0 * _scaled_expm1(clamped, 1), x)


def _one_plus_exp_minus(x: V) -> V:
    """1 + exp(-x), infinite where exp(-x) is."""
    tables = _TABLES[x.format.bits]
    r, power = _rest(min_keep_nan(max_keep_nan(x, -tables.overflow), -tables.subnormal), -1.0)
    return horner(r, tables.short or (1.0, 1.0, *tables.q)) * power + 1.0


@unary
def sigmoid(x: V) -> V:
    """1 / (1 + exp(-x)), <= 4 ulp (float64 3), 5 below x = -32, where that is a normal number, else between 0 and the smallest of those."""
    return 1.0 / _one_plus_exp_minus(x)


@unary
def silu(x: V) -> V:
    """x / (1 + exp(-x)), <= 5 ulp (float64 4), 6 below x = -32, where sigmoid(x) is a normal number, else within |x| of the smallest normal
    numbers; -inf gives NaN."""
    return x / _one_plus_exp_minus(x)


@unary
def gelu_tanh(x: V) -> V:
    """x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).

    <= 4 ulp for x >= 0; below zero the relative error is <= 4 * 2^-23 max(1, 2 |u|) from the rounding of u, where sigmoid(2 u) is a normal
    number; -inf gives NaN.
    """
    return x / _one_plus_exp_minus((x * 1.5957691216057308) * ((x * x) * 0.044715 + 1.0))


@unary
def softplus(x: V) -> V:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), <= 3 ulp."""
    return max_keep_nan(x, 0.0) + log1p(exp(-absolute(x)))


@unary
def mish(x: V) -> V:
    """x tanh(softplus(x)) = x n / (n + 2), n = e (e + 2), e = exp(x); <= 5 ulp where exp(x) is normal; -inf gives NaN."""
    e = exp(min_keep_nan(x, 20.0))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


@unary
def sinh(x: V) -> V:
    """sign(x) (E + E / (E + 1)) / 2, E = expm1(|x|); <= 3 ulp up to its own overflow."""
    quarter = _scaled_expm1(min_keep_nan(absolute(x), _TABLES[x.format.bits].highest + 0.5), 2)
    twice = quarter + quarter
    return copysign(twice + quarter / (twice + 0.5), x)


@unary
def cosh(x: V) -> V:
    """(e + 1 / e) / 2, e = exp(|x|); <= 2 ulp up to its own overflow."""
    quarter = _quarter_exp(min_keep_nan(absolute(x), _TABLES[x.format.bits].highest + 0.5))
    return (quarter + quarter) + 0.125 / quarter


def tanh_by_expm1(x: V) -> V:
    """sign(x) E / (E + 2), E = expm1(2 |x|)."""
    half = _scaled_expm1(min_keep_nan(absolute(x) * 2.0, 44.0), 1)
    return copysign(half / (half + 1.0), x)
