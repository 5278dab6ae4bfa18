"""Arithmetic on LLVM values by dtype, for scalars and vectors alike.

A value of float32/float64 is an LLVM float; integers are LLVM integers of their width; bool is i1. The narrow floats (float16, bfloat16
and those of 8 and 4 bits) are held as their bits and only converted: arithmetic on them is done in float32. Integers of 4 and 2 bits are
held in i8.
"""

from __future__ import annotations

from functools import cache

from ..ir import dtypes
from ..ir.dtypes import DType
from . import llvm as ll
from . import narrow
from .vecmath import BINARY as VECTOR_BINARY
from .vecmath import UNARY as VECTOR_UNARY

I1, I8, I16, I32, I64 = (ll.IntType(bits) for bits in (1, 8, 16, 32, 64))
_SIGNED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_FLAGS = ("contract",)
_FLOAT = {"add": ll.IRBuilder.fadd, "sub": ll.IRBuilder.fsub, "mul": ll.IRBuilder.fmul, "div": ll.IRBuilder.fdiv}
_INTEGER = {"add": "add", "sub": "sub", "mul": "mul", "and": "and_", "or": "or_", "xor": "xor"}


@cache
def value_type(dtype: DType) -> ll.Type:
    """The LLVM type of a computed value of ``dtype``."""
    if dtype is dtypes.float32:
        return ll.FloatType()
    if dtype is dtypes.float64:
        return ll.DoubleType()
    if dtype is dtypes.bool_:
        return I1
    return ll.IntType(max(8, dtype.bits))


def memory_type(dtype: DType) -> ll.Type:
    """The LLVM type of a stored element: as the value, with bool as one byte."""
    return I8 if dtype is dtypes.bool_ else value_type(dtype)


def lanes_of(value: ll.Value) -> int:
    return value.type.count if isinstance(value.type, ll.VectorType) else 1


def like(value: ll.Value, element: ll.Type) -> ll.Type:
    """``element``, as a vector where ``value`` is one."""
    return ll.VectorType(element, value.type.count) if isinstance(value.type, ll.VectorType) else element


def constant(type_: ll.Type, value: object) -> ll.Constant:
    if isinstance(type_, ll.VectorType):
        return ll.Constant(type_, [ll.Constant(type_.element, value)] * type_.count)
    return ll.Constant(type_, value)


def splat(builder: ll.IRBuilder, value: ll.Value, lanes: int) -> ll.Value:
    """``value`` in every lane of a vector."""
    if lanes == 1 or isinstance(value.type, ll.VectorType):
        return value
    vector = ll.VectorType(value.type, lanes)
    if isinstance(value, ll.Constant):
        return ll.Constant(vector, [value] * lanes)
    undefined = ll.Constant(vector, ll.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(first, undefined, ll.Constant(ll.VectorType(I32, lanes), [0] * lanes))


def unify(builder: ll.IRBuilder, *values: ll.Value) -> list[ll.Value]:
    """The values as vectors when one of them is."""
    lanes = max(lanes_of(v) for v in values)
    return [splat(builder, v, lanes) for v in values]


def binary(builder: ll.IRBuilder, op: str, dtype: DType, a: ll.Value, b: ll.Value) -> ll.Value:
    """``op`` of ``ir.loops.Binary`` on two values of ``dtype``."""
    if a.type is not b.type:
        a, b = unify(builder, a, b)
    if op in _SIGNED:
        if dtype.kind == "float":
            return (builder.fcmp_unordered if op == "ne" else builder.fcmp_ordered)(_SIGNED[op], a, b)
        signed = dtype.kind == "int"
        return (builder.icmp_signed if signed else builder.icmp_unsigned)(_SIGNED[op], a, b)
    if dtype.kind == "float":
        return _float_binary(builder, op, a, b)
    return sub_byte(builder, _integer_binary(builder, op, dtype, a, b), dtype)


def _float_binary(builder: ll.IRBuilder, op: str, a: ll.Value, b: ll.Value) -> ll.Value:
    simple = _FLOAT.get(op)
    if simple is not None:
        return simple(builder, a, b, _FLAGS)
    return VECTOR_BINARY[{"min": "fmin", "max": "fmax", "rem": "fmod"}.get(op, op)](builder, a, b)


def _integer_binary(builder: ll.IRBuilder, op: str, dtype: DType, a: ll.Value, b: ll.Value) -> ll.Value:
    if op in _INTEGER:
        return getattr(builder, _INTEGER[op])(a, b)
    if op in ("shl", "shr"):
        return _shift(builder, op, dtype, a, b)
    if op in ("min", "max"):
        compare = builder.icmp_signed if dtype.kind == "int" else builder.icmp_unsigned
        return builder.select(compare("<" if op == "min" else ">", a, b), a, b)
    if op in ("div", "rem"):
        return _checked_division(builder, op, dtype, a, b)
    if op in ("floordiv", "mod"):
        return _floor_division(builder, op, a, b)
    if op == "pow":
        return _integer_power(builder, dtype, a, b)
    raise NotImplementedError(f"{op} on {dtype}")


def _checked_division(builder: ll.IRBuilder, op: str, dtype: DType, a: ll.Value, b: ll.Value) -> ll.Value:
    """Truncated division that never traps: x / 0 gives 0 (as NumPy does), the lowest value / -1 wraps."""
    zero, one = constant(b.type, 0), constant(b.type, 1)
    by_zero = builder.icmp_unsigned("==", b, zero)
    if dtype.kind == "uint":
        safe = builder.select(by_zero, one, b)
        result = builder.udiv(a, safe) if op == "div" else builder.urem(a, safe)
        return builder.select(by_zero, zero, result)
    by_minus_one = builder.icmp_unsigned("==", b, constant(b.type, -1))
    safe = builder.select(builder.or_(by_zero, by_minus_one), one, b)
    if op == "rem":
        return builder.srem(a, safe)
    result = builder.select(by_minus_one, builder.sub(zero, a), builder.sdiv(a, safe))
    return builder.select(by_zero, zero, result)


def _floor_division(builder: ll.IRBuilder, op: str, a: ll.Value, b: ll.Value) -> ll.Value:
    """Floored division by a positive divisor (index arithmetic)."""
    quotient, rest = builder.sdiv(a, b), builder.srem(a, b)
    negative = builder.icmp_signed("<", rest, constant(rest.type, 0))
    if op == "mod":
        return builder.select(negative, builder.add(rest, b), rest)
    return builder.select(negative, builder.sub(quotient, constant(quotient.type, 1)), quotient)


def _shift(builder: ll.IRBuilder, op: str, dtype: DType, a: ll.Value, b: ll.Value) -> ll.Value:
    """A shift by as many bits as there are, or more (or by a negative number), leaves nothing but the sign, as in NumPy."""
    width = max(8, dtype.bits)
    fits = builder.icmp_unsigned("<", b, constant(b.type, width))
    if op == "shr" and dtype.kind == "int":
        return builder.ashr(a, builder.select(fits, b, constant(b.type, width - 1)))
    amount = builder.select(fits, b, constant(b.type, 0))
    shifted = builder.shl(a, amount) if op == "shl" else builder.lshr(a, amount)
    return builder.select(fits, shifted, constant(a.type, 0))


def _integer_power(builder: ll.IRBuilder, dtype: DType, a: ll.Value, b: ll.Value) -> ll.Value:
    """Exponentiation by squaring, modulo 2^bits; a negative exponent gives what 1 / a^-b truncates to: 0, but for the units."""
    one, zero, minus_one = constant(a.type, 1), constant(a.type, 0), constant(a.type, -1)
    lost = None
    if dtype.kind == "int":
        negative = builder.icmp_signed("<", b, zero)
        is_unit = builder.or_(builder.icmp_signed("==", a, one), builder.icmp_signed("==", a, minus_one))
        lost = builder.and_(negative, builder.not_(is_unit))
        b = builder.select(negative, builder.and_(b, one), b)
    before, head = builder.block, builder.append_basic_block("pow.loop")
    after = builder.append_basic_block("pow.end")
    builder.branch(head)
    builder.position_at_end(head)
    result, square, left = (builder.phi(a.type) for _ in range(3))
    taken = builder.icmp_unsigned("!=", builder.and_(left, one), zero)
    multiplied = builder.select(taken, builder.mul(result, square), result)
    following = builder.mul(square, square), builder.lshr(left, one)
    for phi, first, then in zip((result, square, left), (one, a, b), (multiplied, *following), strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(then, head)
    builder.cbranch(any_lane(builder, builder.icmp_unsigned("!=", following[1], zero)), head, after)
    builder.position_at_end(after)
    return multiplied if lost is None else builder.select(lost, zero, multiplied)


def any_lane(builder: ll.IRBuilder, condition: ll.Value) -> ll.Value:
    """Whether a condition holds in some lane."""
    if not isinstance(condition.type, ll.VectorType):
        return condition
    bits = ll.IntType(condition.type.count)
    return builder.icmp_unsigned("!=", builder.bitcast(condition, bits), bits(0))


def unary(builder: ll.IRBuilder, op: str, dtype: DType, a: ll.Value) -> ll.Value:
    """``op`` of ``ir.loops.Unary`` on a value of ``dtype``."""
    if op == "not":
        return builder.not_(a)
    if dtype.kind == "float":
        return builder.fneg(a) if op == "neg" else VECTOR_UNARY[op](builder, a)
    zero = constant(a.type, 0)
    if op == "neg":
        return builder.sub(zero, a)
    if op in ("abs", "sign"):
        if dtype.kind == "uint":
            return a if op == "abs" else builder.select(builder.icmp_unsigned("==", a, zero), zero, constant(a.type, 1))
        negative = builder.icmp_signed("<", a, zero)
        if op == "abs":
            return builder.select(negative, builder.sub(zero, a), a)
        positive = builder.zext(builder.icmp_signed(">", a, zero), a.type)
        return builder.select(negative, constant(a.type, -1), positive)
    if op in ("isnan", "isinf"):
        return constant(like(a, I1), 0)
    if op in ("floor", "ceil", "round", "trunc"):
        return a
    raise NotImplementedError(f"{op} on {dtype}")


def cast(builder: ll.IRBuilder, a: ll.Value, source: DType, to: DType, *, saturate: bool = False) -> ll.Value:
    """A value converted as C does it; ``saturate`` clamps to the range of ``to`` first."""
    if source is to:
        return a
    if narrow.is_narrow(source):
        wide = narrow.widen(builder, a, source)
        return cast(builder, wide, dtypes.float32, to, saturate=saturate)
    if narrow.is_narrow(to):
        return narrow.narrow(builder, cast(builder, a, source, dtypes.float32), to, saturate=saturate)
    if to is dtypes.bool_:
        if source.kind == "float":
            return builder.fcmp_unordered("!=", a, constant(a.type, 0.0))
        return builder.icmp_unsigned("!=", a, constant(a.type, 0))
    if to.kind == "float":
        return _to_float(builder, a, source, like(a, value_type(to)))
    if source.kind == "float":
        return _float_to_integer(builder, a, to, saturate)
    if saturate:
        a = _clamp_integer(builder, a, source, to)
    return _resize(builder, a, source, to)


def _to_float(builder: ll.IRBuilder, a: ll.Value, source: DType, type_: ll.Type) -> ll.Value:
    if source.kind == "float":
        return builder.fpext(a, type_) if source.bits == 32 else builder.fptrunc(a, type_)
    return builder.sitofp(a, type_) if source.kind == "int" else builder.uitofp(a, type_)


def _float_to_integer(builder: ll.IRBuilder, a: ll.Value, to: DType, saturate: bool) -> ll.Value:
    """Truncation. With ``saturate`` NaN is 0; without it, what does not fit in 32 (64) bits gives the lowest int32 (int64, uint64), as on
    x86, so that no result is undefined."""
    wide = dtypes.int32 if to.bits <= 16 or to is dtypes.int32 else dtypes.uint64 if to is dtypes.uint64 else dtypes.int64
    low, high = integer_range(to if saturate else wide)
    type_ = like(a, value_type(wide))
    convert = builder.fptosi if wide.kind == "int" else builder.fptoui
    if (
        saturate and to.bits <= 16
    ):  # the bounds are exact as floats: two selects, which are a maximum and a minimum that take no NaN
        if low:
            a = builder.select(builder.fcmp_ordered("ord", a, a), a, constant(a.type, 0.0))
        for comparison, bound in ((">", low), ("<", high)):
            limit = constant(a.type, float(bound))
            a = builder.select(builder.fcmp_ordered(comparison, a, limit), a, limit)
        return _resize(builder, convert(a, type_), wide, to)
    if not saturate and wide.kind == "int":  # the lowest number, which does not pass this test, is what it gives
        magnitude = unary(builder, "abs", dtypes.float64 if _element(a) == ll.DoubleType() else dtypes.float32, a)
        fits = builder.fcmp_ordered("<", magnitude, constant(a.type, float(high + 1)))
        return _resize(builder, convert(builder.select(fits, a, constant(a.type, float(low))), type_), wide, to)
    above = builder.fcmp_ordered(">=", a, constant(a.type, float(high + 1)))
    below = builder.fcmp_ordered("<", a, constant(a.type, float(low)))
    fits = builder.not_(builder.or_(builder.or_(above, below), builder.fcmp_unordered("uno", a, a)))
    number = convert(builder.select(fits, a, constant(a.type, 0.0 if saturate else float(low))), type_)
    if saturate:
        number = builder.select(above, constant(type_, high), builder.select(below, constant(type_, low), number))
    return _resize(builder, number, wide, to)


def _element(a: ll.Value) -> ll.Type:
    return a.type.element if isinstance(a.type, ll.VectorType) else a.type


def integer_range(dtype: DType) -> tuple[int, int]:
    """The lowest and the highest value of an integer dtype (or bool)."""
    if dtype.kind == "int":
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, 1 if dtype is dtypes.bool_ else (1 << dtype.bits) - 1


def _clamp_integer(builder: ll.IRBuilder, a: ll.Value, source: DType, to: DType) -> ll.Value:
    (low, high), (source_low, source_high) = integer_range(to), integer_range(source)
    if low > source_low:
        a = _integer_binary(builder, "max", source, a, constant(a.type, low))
    if high < source_high:
        a = _integer_binary(builder, "min", source, a, constant(a.type, high))
    return a


def _resize(builder: ll.IRBuilder, a: ll.Value, source: DType, to: DType) -> ll.Value:
    """An integer in another width: extended by the sign of its own dtype, cut to the bits of the other."""
    type_ = like(a, value_type(to))
    have, want = (1 if source is dtypes.bool_ else max(8, source.bits)), max(8, to.bits)
    if want > have:
        a = builder.sext(a, type_) if source.kind == "int" else builder.zext(a, type_)
    elif want < have:
        a = builder.trunc(a, type_)
    return sub_byte(builder, a, to)


def sub_byte(builder: ll.IRBuilder, a: ll.Value, dtype: DType) -> ll.Value:
    """The low bits of a byte as a value of a 4- or 2-bit integer dtype."""
    if not dtype.is_integer or dtype.bits >= 8:
        return a
    shift = constant(a.type, 8 - dtype.bits)
    shifted = builder.shl(a, shift)
    return builder.ashr(shifted, shift) if dtype.kind == "int" else builder.lshr(shifted, shift)


def from_memory(builder: ll.IRBuilder, a: ll.Value, dtype: DType) -> ll.Value:
    """A loaded element as a value."""
    if dtype is dtypes.bool_:
        return builder.icmp_unsigned("!=", a, constant(a.type, 0))
    return sub_byte(builder, a, dtype)


def to_memory(builder: ll.IRBuilder, a: ll.Value, dtype: DType) -> ll.Value:
    """A value as an element to store."""
    return builder.zext(a, like(a, I8)) if dtype is dtypes.bool_ else a


def identity(op: str, dtype: DType) -> float | int | bool:
    """The neutral element of a reduction."""
    if op == "add":
        return 0.0 if dtype.is_float else 0
    if op == "mul":
        return 1.0 if dtype.is_float else 1
    if op in ("or", "xor"):
        return 0
    if op == "and":
        return 1 if dtype is dtypes.bool_ else -1
    if dtype.is_float:
        return float("inf") if op in ("min", "min_fast") else float("-inf")
    low, high = integer_range(dtype)
    return high if op == "min" else low
