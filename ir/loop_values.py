"""What the operations of the loop IR mean, on NumPy values: the arithmetic of the interpreter.

A value is a scalar, or one element per lane of a vector loop. As in machine code, the floats narrower than 32 bits are held as their bits
(only converted, never computed on) and int4, uint4, int2, uint2 in a byte. Index scalars may be Python ints.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from . import dtypes
from .dtypes import DType
from .loops import COMPARISONS

Value: TypeAlias = Any
"""A Python int, a NumPy scalar, or a 1-D array."""


def is_narrow(dtype: DType) -> bool:
    """True for the floats that are held as bits."""
    return dtype.kind == "float" and dtype.bits < 32


@cache
def storage(dtype: DType) -> np.dtype:
    """The NumPy dtype that values of ``dtype`` are computed and stored in."""
    if is_narrow(dtype):
        return np.dtype(f"u{dtype.itemsize}")
    if dtype.is_integer and dtype.bits < 8:
        return np.dtype(np.int8 if dtype.kind == "int" else np.uint8)
    return dtype.numpy


def integer_range(dtype: DType) -> tuple[int, int]:
    """The lowest and the highest value of an integer dtype (or bool)."""
    if dtype.kind == "int":
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, 1 if dtype is dtypes.bool_ else (1 << dtype.bits) - 1


def constant(value: object, dtype: DType) -> Value:
    """A constant of the loop IR. Integers wrap, so that -1 is all ones in an unsigned dtype."""
    if dtype is dtypes.int64:
        return value
    if dtype.is_integer:
        return wrap_bits(np.array(int(value) & 0xFFFF_FFFF_FFFF_FFFF, np.uint64).astype(storage(dtype))[()], dtype)  # type: ignore[call-overload]
    return np.array(value).astype(dtype.numpy).view(storage(dtype))[()]


def wrap_bits(x: Value, dtype: DType) -> Value:
    """The low bits of a byte as a value of a 4- or 2-bit integer dtype; other dtypes pass."""
    if not dtype.is_integer or dtype.bits >= 8:
        return x
    shift = 8 - dtype.bits
    return np.right_shift(np.left_shift(x, shift), shift)


# --- binary -------------------------------------------------------------------------------------------------------------------


def _both_int(a: Value, b: Value) -> bool:
    return type(a) is int and type(b) is int


def _floordiv(a: Value, b: Value) -> Value:
    return a // b if _both_int(a, b) and b else np.floor_divide(a, b)


def _mod(a: Value, b: Value) -> Value:
    return a % b if _both_int(a, b) and b else np.remainder(a, b)


def _minimum(a: Value, b: Value) -> Value:
    return min(a, b) if _both_int(a, b) else np.minimum(a, b)


def _maximum(a: Value, b: Value) -> Value:
    return max(a, b) if _both_int(a, b) else np.maximum(a, b)


def _truncated_division(a: Value, b: Value) -> Value:
    """C's division; x / 0 is 0."""
    quotient = np.floor_divide(a, b)
    inexact = np.not_equal(np.multiply(quotient, b), a)
    rounded_down = inexact & (np.less(a, 0) != np.less(b, 0)) & np.not_equal(b, 0)
    return np.add(quotient, rounded_down.astype(quotient.dtype))


def _integer_power(a: Value, b: Value) -> Value:
    """a to the b modulo 2^bits; a negative exponent gives what the quotient truncates to: 0, but for the units."""
    base, exponent = np.asarray(a), np.asarray(b)
    negative = exponent < 0
    with_units = np.where(np.abs(base) == 1, exponent & 1, 0)
    left = np.where(negative, with_units, exponent)
    result = np.ones(np.broadcast(base, exponent).shape, base.dtype)
    square = base
    while left.any():
        result = np.where(left & 1 != 0, result * square, result)
        square, left = square * square, left >> 1
    return np.where(negative & (np.abs(base) != 1), np.zeros_like(result), result).astype(base.dtype)[()]


def _dot16(a: Value, b: Value) -> Value:
    """The sum of the products of the halves of 32-bit integers, each half a signed number of 16 bits."""
    low = [np.right_shift(np.left_shift(x, 16), 16) for x in (a, b)]
    high = [np.right_shift(x, 16) for x in (a, b)]
    return low[0] * low[1] + high[0] * high[1]


_COMMON: dict[str, Callable[[Value, Value], Value]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "min": _minimum,
    "max": _maximum,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
}
_INTEGER: dict[str, Callable[[Value, Value], Value]] = {
    "div": _truncated_division,
    "rem": np.fmod,
    "floordiv": _floordiv,
    "mod": _mod,
    "pow": _integer_power,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "dot16": _dot16,
}
_FLOAT: dict[str, Callable[[Value, Value], Value]] = {
    "div": operator.truediv,
    "rem": np.fmod,
    "fmod": np.fmod,
    "fmin": np.minimum,
    "fmax": np.maximum,
    "copysign": np.copysign,
    "min_fast": lambda x, y: np.where(np.less(y, x), y, x)[()],
    "max_fast": lambda x, y: np.where(np.greater(y, x), y, x)[()],
    "pow": lambda x, y: np.power(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype),
}
REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "min_fast": np.fmin,
    "max_fast": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
"""The operations that a vector loop may reduce a scalar with."""


@cache
def binary(op: str, dtype: DType) -> Callable[[Value, Value], Value]:
    """``op`` of ``loops.Binary`` on operands of ``dtype``; ``KeyError`` when there is none."""
    function = _COMMON.get(op) or (_FLOAT if dtype.kind in ("float", "complex") else _INTEGER)[op]
    if dtype.is_integer and dtype.bits < 8 and op not in COMPARISONS:
        return lambda a, b: wrap_bits(function(a, b), dtype)
    return function


# --- unary --------------------------------------------------------------------------------------------------------------------


def _erf(x: Value) -> Value:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), np.float64)[()]


def _sigmoid(x: Value) -> Value:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _softplus(x: Value) -> Value:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


_IN_DOUBLE: dict[str, Callable[[Value], Value]] = {
    **{name: getattr(np, name) for name in ("abs", "sign", "floor", "ceil", "trunc", "sqrt", "exp", "expm1", "log", "log1p")},
    **{name: getattr(np, name) for name in ("exp2", "log2", "log10", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"a{name}": getattr(np, f"arc{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "exp_down": np.exp,
    "exp2_down": np.exp2,
    "round": np.rint,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "reciprocal": lambda x: 1.0 / x,
    "relu": lambda x: np.where(x < 0, 0.0, x),
    "erf": _erf,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x * math.sqrt(0.5))),
    "gelu_tanh": lambda x: x * _sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)),
    "softplus": _softplus,
    "mish": lambda x: x * np.tanh(_softplus(x)),
}
_ON_INTEGER: dict[str, Callable[[Value], Value]] = {
    "abs": np.abs,
    "sign": np.sign,
    "not": operator.invert,
    **dict.fromkeys(("floor", "ceil", "trunc", "round"), lambda x: x),
    **dict.fromkeys(("isnan", "isinf"), lambda x: np.zeros(np.shape(x), np.bool_)[()]),
}


@cache
def unary(op: str, dtype: DType) -> Callable[[Value], Value]:
    """``op`` of ``loops.Unary`` on an operand of ``dtype``, computed in double precision and rounded; ``KeyError`` when there is none."""
    if dtype is dtypes.bool_ and op == "not":
        return np.logical_not
    if op == "neg":
        return lambda x: wrap_bits(operator.neg(x), dtype)
    if dtype.kind != "float":
        return _ON_INTEGER[op]
    if op in ("isnan", "isinf"):
        return np.isnan if op == "isnan" else np.isinf
    function = _IN_DOUBLE[op]
    return lambda x: function(x.astype(np.float64)).astype(x.dtype)[()]


# --- conversions ----------------------------------------------------------------------------------------------------------------


def cast(x: Value, source: DType, to: DType, saturate: bool) -> Value:
    """``loops.Cast``: C's conversion, by way of float32 for the narrow floats."""
    if type(x) in (int, bool):
        x = storage(source).type(x)
    if source is to:
        return x
    if is_narrow(source):
        return cast(np.asarray(x).view(source.numpy).astype(np.float32)[()], dtypes.float32, to, saturate)
    if is_narrow(to):
        return _narrow(np.asarray(cast(x, source, dtypes.float32, False)), to, saturate)
    if to is dtypes.bool_:
        return np.not_equal(x, 0)
    if source.kind == "float" and to.is_integer:
        return (_saturated if saturate else _truncated)(np.asarray(x), to)[()]
    if saturate and to.is_integer and source.is_integer:
        (low, high), (source_low, source_high) = integer_range(to), integer_range(source)
        x = np.clip(x, max(low, source_low), min(high, source_high))
    return wrap_bits(x.astype(storage(to)), to)


def _truncated(x: np.ndarray, to: DType) -> np.ndarray:
    """Towards zero, then the low bits; what does not fit in 32 (64) bits is the lowest int32 (int64, uint64), as on x86."""
    wide = dtypes.int32 if to.bits <= 16 or to is dtypes.int32 else dtypes.uint64 if to is dtypes.uint64 else dtypes.int64
    low, high = integer_range(wide)
    fits = (x < float(high + 1)) & (x >= float(low))
    held = np.where(fits, x, np.asarray(float(low), x.dtype))
    return wrap_bits(held.astype(wide.numpy).astype(storage(to)), to)


def _saturated(x: np.ndarray, to: DType) -> np.ndarray:
    """Towards zero, clamped to the range of ``to``; NaN is 0."""
    low, high = integer_range(to)
    above, below = x >= float(high + 1), x <= float(low)
    inside = np.where(above | below | np.isnan(x), np.asarray(0.0, x.dtype), x).astype(storage(to))
    return np.where(above, storage(to).type(high), np.where(below, storage(to).type(low), inside))


def _narrow(x: np.ndarray, to: DType, saturate: bool) -> Value:
    """The bits of ``to`` nearest to float32 ``x``, with the overflow of ONNX's Cast."""
    if to is dtypes.float8e8m0:
        return _power_above(x, saturate)
    if saturate and to.bits == 8:
        import ml_dtypes

        limits = ml_dtypes.finfo(to.numpy)
        x = np.clip(x, np.float32(limits.min), np.float32(limits.max))
    if to.bits == 4:
        x = np.where(np.isnan(x), np.float32(0), x)
    return x.astype(to.numpy).view(storage(to))[()]


def _power_above(x: np.ndarray, saturate: bool) -> Value:
    """float8e8m0: the exponent of the power of two at or above |x|."""
    magnitude = np.abs(x.astype(np.float64))
    mantissa, exponent = np.frexp(magnitude)
    code = np.where(magnitude > 0, exponent - (mantissa == 0.5) + 127, 0)
    code = np.where(np.isinf(magnitude), 0xFF, np.clip(code, 0, 0xFF))
    code = np.minimum(code, 0xFE) if saturate else code
    return np.where(np.isnan(magnitude), 0xFF, code).astype(np.uint8)[()]


def bitcast(x: Value, source: DType, to: DType) -> Value:
    """``loops.Bitcast``."""
    held = np.asarray(x, storage(source))
    return held.view(storage(to))[()]
