"""Conversions between float32 and the narrow floats (float16, bfloat16, 8- and 4-bit), as branch-free LLVM on scalars or vectors.

Values of a narrow dtype are held as their bits in an integer of ``max(8, dtype.bits)`` bits. LLVM's own ``half`` is used only where the
target has F16C: elsewhere its conversions become calls to ``__extendhfsf2`` and ``__truncsfhf2``, which a kernel must not need.

The formats are those of IEEE 754 (float16), of "FP8 Formats for Deep Learning" (arXiv:2209.05433), of "8-bit Numerical Formats for Deep
Neural Networks" (arXiv:2206.02915, the ``fnuz`` ones) and of the OCP Microscaling specification 1.0 (float4e2m1, float8e8m0); rounding and
overflow are those of ONNX's Cast.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import dtypes
from ..ir.dtypes import DType
from . import llvm as ll
from .numbering import Builder

I32 = ll.IntType(32)
F32 = ll.FloatType()
HALF = ll.HalfType()
INFINITY = 0x7F80_0000
"""The bits of float32's infinity; larger magnitudes are NaN."""


@dataclass(frozen=True)
class Format:
    """A sign bit over exponent and mantissa; the codes here are without the sign."""

    mantissa: int
    bias: int
    highest: int
    """The code of the largest finite value."""
    nan: int | None
    """The code of NaN; None where the format has none."""
    infinity: bool = False
    """Whether ``highest + 1`` is infinity; where not, what is too large becomes NaN, or ``highest`` if there is no NaN either."""
    one_nan: bool = False
    """``fnuz``: NaN takes the code of -0, and zero has no sign."""

    @property
    def overflow(self) -> int:
        if self.infinity:
            return self.highest + 1
        return self.highest if self.nan is None else self.nan


_FORMATS: dict[DType, Format] = {
    dtypes.float16: Format(10, 15, 0x7BFF, 0x7E00, infinity=True),
    dtypes.bfloat16: Format(7, 127, 0x7F7F, 0x7FC0, infinity=True),
    dtypes.float8e4m3fn: Format(3, 7, 0x7E, 0x7F),
    dtypes.float8e4m3fnuz: Format(3, 8, 0x7F, 0x80, one_nan=True),
    dtypes.float8e5m2: Format(2, 15, 0x7B, 0x7E, infinity=True),
    dtypes.float8e5m2fnuz: Format(2, 16, 0x7F, 0x80, one_nan=True),
    dtypes.float4e2m1: Format(1, 1, 0x7, None),
}


def is_narrow(dtype: DType) -> bool:
    """True for floats that are stored as bits and computed on in float32."""
    return dtype in _FORMATS or dtype is dtypes.float8e8m0


def _by_instruction(builder: ll.IRBuilder, dtype: DType) -> bool:
    """Whether the target converts ``dtype`` itself. A NaN keeps the upper bits of its payload then."""
    return dtype is dtypes.float16 and isinstance(builder, Builder) and builder.half


def widen(builder: ll.IRBuilder, bits: ll.Value, dtype: DType) -> ll.Value:
    """The float32 that the bits of a narrow ``dtype`` stand for: exact; NaN stays NaN and keeps its sign if it has one."""
    if _by_instruction(builder, dtype):
        return builder.fpext(builder.bitcast(bits, _like(bits, HALF)), _like(bits, F32))
    code = builder.zext(bits, _like(bits, I32))
    if dtype is dtypes.float8e8m0:
        return _as_float(builder, _widen_exponent(builder, code))
    if dtype is dtypes.bfloat16:
        return _as_float(builder, builder.shl(code, _splat(code, 16)))
    form = _FORMATS[dtype]
    magnitude = builder.and_(code, _splat(code, (1 << (dtype.bits - 1)) - 1))
    result = _widen_magnitude(builder, magnitude, form)
    sign = builder.and_(builder.shl(code, _splat(code, 32 - dtype.bits)), _splat(code, 0x8000_0000))
    if form.one_nan:
        is_nan = builder.icmp_unsigned("==", code, _splat(code, 0x80))
        result = builder.select(is_nan, _splat(code, INFINITY | 1 << 22), result)
    return _as_float(builder, builder.or_(result, sign))


def _widen_magnitude(builder: ll.IRBuilder, code: ll.Value, form: Format) -> ll.Value:
    """The float32 bits of a code without sign."""
    shifted = builder.shl(code, _splat(code, 23 - form.mantissa))
    normal = builder.add(shifted, _splat(code, (127 - form.bias) << 23))
    smallest = ll.Constant(F32, 2.0 ** (1 - form.bias - form.mantissa))
    number = builder.sitofp(code, _like(code, F32))
    subnormal = builder.bitcast(builder.fmul(number, _constant(number.type, smallest)), code.type)
    is_subnormal = builder.icmp_unsigned("<", code, _splat(code, 1 << form.mantissa))
    result = builder.select(is_subnormal, subnormal, normal)
    if form.infinity:
        special = builder.or_(shifted, _splat(code, INFINITY))
    elif form.nan is not None and not form.one_nan:
        special = _splat(code, INFINITY | 1 << 22)
    else:
        return result
    return builder.select(builder.icmp_unsigned(">", code, _splat(code, form.highest)), special, result)


def _widen_exponent(builder: ll.IRBuilder, code: ll.Value) -> ll.Value:
    """float8e8m0, an exponent alone: 2^(code - 127); code 0 is a subnormal float32, code 255 is NaN."""
    bits = builder.shl(code, _splat(code, 23))
    bits = builder.select(builder.icmp_unsigned("==", code, _splat(code, 0)), _splat(code, 1 << 22), bits)
    return builder.select(builder.icmp_unsigned("==", code, _splat(code, 0xFF)), _splat(code, INFINITY | 1 << 22), bits)


def narrow(builder: ll.IRBuilder, value: ll.Value, dtype: DType, *, saturate: bool) -> ll.Value:
    """The bits of ``dtype`` nearest to a float32, ties to even.

    Too large for a float8 is its largest value with ``saturate``, else infinity, or NaN where it has none (ONNX's Cast); float16 and
    bfloat16 always overflow to infinity; float4e2m1 always saturates, with NaN as zero. float8e8m0 takes the magnitude and rounds up
    (Cast's default ``round_mode``).
    """
    if _by_instruction(builder, dtype):
        return builder.bitcast(builder.fptrunc(value, _like(value, HALF)), _like(value, ll.IntType(16)))
    bits = builder.bitcast(value, _like(value, I32))
    magnitude = builder.and_(bits, _splat(bits, 0x7FFF_FFFF))
    type_ = _like(bits, ll.IntType(max(8, dtype.bits)))
    if dtype is dtypes.float8e8m0:
        return builder.trunc(_narrow_exponent(builder, magnitude, saturate), type_)
    form = _FORMATS[dtype]
    code = _round_magnitude(builder, magnitude, form)
    limit = form.highest if saturate and dtype.bits == 8 else form.overflow
    code = builder.select(builder.icmp_unsigned(">", code, _splat(code, form.highest)), _splat(code, limit), code)
    is_nan = builder.icmp_unsigned(">", magnitude, _splat(magnitude, INFINITY))
    code = builder.select(is_nan, _splat(code, form.nan or 0), code)
    top = 1 << (dtype.bits - 1)
    sign = builder.and_(builder.lshr(bits, _splat(bits, 32 - dtype.bits)), _splat(bits, top))
    if form.one_nan:
        nothing = builder.icmp_unsigned("==", code, _splat(code, 0))
        sign = builder.select(nothing, _splat(code, 0), sign)
    return builder.trunc(builder.or_(code, sign), type_)


def _round_magnitude(builder: ll.IRBuilder, magnitude: ll.Value, form: Format) -> ll.Value:
    """The code nearest to a float32 magnitude (ties to even), with the exponent not bounded above."""
    drop = 23 - form.mantissa
    odd = builder.and_(builder.lshr(magnitude, _splat(magnitude, drop)), _splat(magnitude, 1))
    half_way = builder.add(magnitude, builder.add(odd, _splat(magnitude, (1 << (drop - 1)) - 1)))
    rebias = (127 - form.bias) << form.mantissa
    normal = builder.sub(builder.lshr(half_way, _splat(magnitude, drop)), _splat(magnitude, rebias))
    if form.bias == 127:
        return normal
    # Adding a number whose last place is the smallest subnormal rounds to a multiple of that, and leaves the multiple in its low bits.
    magic = ll.Constant(F32, 2.0 ** (1 - form.bias - form.mantissa + 23))
    number = builder.bitcast(magnitude, _like(magnitude, F32))
    summed = builder.bitcast(builder.fadd(number, _constant(number.type, magic)), magnitude.type)
    subnormal = builder.and_(summed, _splat(magnitude, (1 << (form.mantissa + 1)) - 1))
    smallest_normal = (128 - form.bias) << 23
    return builder.select(builder.icmp_unsigned("<", magnitude, _splat(magnitude, smallest_normal)), subnormal, normal)


def _narrow_exponent(builder: ll.IRBuilder, magnitude: ll.Value, saturate: bool) -> ll.Value:
    """float8e8m0: the exponent of the next power of two; without ``saturate`` what is above 2^127 is NaN."""
    up = builder.lshr(builder.add(magnitude, _splat(magnitude, 0x7F_FFFF)), _splat(magnitude, 23))
    if saturate:
        up = builder.select(builder.icmp_unsigned(">", up, _splat(up, 0xFE)), _splat(up, 0xFE), up)
    at_most_lowest = builder.icmp_unsigned("<=", magnitude, _splat(magnitude, 1 << 22))
    up = builder.select(at_most_lowest, _splat(up, 0), up)
    return builder.select(builder.icmp_unsigned(">", magnitude, _splat(magnitude, INFINITY)), _splat(up, 0xFF), up)


# codegen.arith has these too, but stands on this file


def _like(value: ll.Value, element: ll.Type) -> ll.Type:
    return ll.VectorType(element, value.type.count) if isinstance(value.type, ll.VectorType) else element


def _constant(type_: ll.Type, value: ll.Constant) -> ll.Constant:
    return ll.Constant(type_, [value] * type_.count) if isinstance(type_, ll.VectorType) else value


def _splat(value: ll.Value, number: int) -> ll.Constant:
    """``number`` in every lane, of ``value``'s integer type."""
    return _constant(value.type, ll.Constant(I32, number))


def _as_float(builder: ll.IRBuilder, bits: ll.Value) -> ll.Value:
    return builder.bitcast(bits, _like(bits, F32))
