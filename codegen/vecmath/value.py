"""``V``: an LLVM value with operators, so that a function of the vector math library reads like its formula.

A ``V`` wraps a scalar or an ``ir.VectorType`` of float, double or integers, and the builder that appends to the function
being written. Python numbers in an operation become constants of the other operand's type. Products and sums carry LLVM's
``contract`` flag and no other fast-math flag: targets with FMA fuse ``a * b + c``, targets without compute it in two
roundings, and NaN, infinities and signed zeros keep their meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .. import llvm as ir

Number = int | float
Value: TypeAlias = Any
"""A value that may be any: results of builder methods, of which the operators here do not look at the kind."""
_CONTRACT = ("contract",)


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: everything that the formulas need to know about float32 or float64."""

    bits: int
    mantissa: int  # stored bits
    bias: int
    largest: float

    @property
    def round_magic(self) -> float:
        """Adding it rounds |x| < 2**(mantissa - 1) to the nearest integer, which then stands in the low bits of the sum."""
        return 1.5 * 2.0**self.mantissa

    @property
    def min_normal(self) -> float:
        return 2.0 ** (1 - self.bias)

    @property
    def exponent_mask(self) -> int:
        """The bits of sign and exponent."""
        return -1 << self.mantissa


FLOAT32 = Format(32, 23, 127, (2 - 2.0**-23) * 2.0**127)
FLOAT64 = Format(64, 52, 1023, (2 - 2.0**-52) * 2.0**1023)


class V:
    """One SSA value of scalar or vector type with arithmetic operators."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: Value) -> None:
        self.builder = builder
        self.value = value

    # types

    @property
    def type(self) -> ir.Type:
        return self.value.type

    @property
    def lanes(self) -> int:
        """The number of lanes; 0 for a scalar."""
        return lanes_of(self.type)

    @property
    def is_float(self) -> bool:
        return isinstance(element_of(self.type), (ir.FloatType, ir.DoubleType))

    @property
    def format(self) -> Format:
        element = element_of(self.type)
        if isinstance(element, ir.FloatType):
            return FLOAT32
        if isinstance(element, ir.DoubleType):
            return FLOAT64
        raise TypeError(f"vector math needs float or double, not {self.type}")

    @property
    def fused(self) -> bool:
        """Whether ``a * b + c`` is rounded once."""
        return self.builder.module.fused

    def of(self, number: Number) -> V:
        """``number`` in every lane of a value of this type."""
        return V(self.builder, splat_constant(self.type, number))

    def _coerce(self, other: V | Number) -> V:
        return other if isinstance(other, V) else self.of(other)

    # arithmetic

    def _arith(self, other: V | Number, on_float: str, on_int: str, swap: bool = False) -> V:
        a, b = self, self._coerce(other)
        if swap:
            a, b = b, a
        if self.is_float:
            flags = _CONTRACT if on_float != "fdiv" else ()
            return V(self.builder, getattr(self.builder, on_float)(a.value, b.value, flags=flags))
        return V(self.builder, getattr(self.builder, on_int)(a.value, b.value))

    def __add__(self, other: V | Number) -> V:
        return self._arith(other, "fadd", "add")

    def __radd__(self, other: Number) -> V:
        return self._arith(other, "fadd", "add", swap=True)

    def __sub__(self, other: V | Number) -> V:
        return self._arith(other, "fsub", "sub")

    def __rsub__(self, other: Number) -> V:
        return self._arith(other, "fsub", "sub", swap=True)

    def __mul__(self, other: V | Number) -> V:
        return self._arith(other, "fmul", "mul")

    def __rmul__(self, other: Number) -> V:
        return self._arith(other, "fmul", "mul", swap=True)

    def __truediv__(self, other: V | Number) -> V:
        return self._arith(other, "fdiv", "sdiv")

    def __rtruediv__(self, other: Number) -> V:
        return self._arith(other, "fdiv", "sdiv", swap=True)

    def __neg__(self) -> V:
        return V(self.builder, self.builder.fneg(self.value)) if self.is_float else self.of(0) - self

    # integers and masks

    def _bitwise(self, other: V | Number, name: str) -> V:
        return V(self.builder, getattr(self.builder, name)(self.value, self._coerce(other).value))

    def __and__(self, other: V | int) -> V:
        return self._bitwise(other, "and_")

    def __or__(self, other: V | int) -> V:
        return self._bitwise(other, "or_")

    def __xor__(self, other: V | int) -> V:
        return self._bitwise(other, "xor")

    def __invert__(self) -> V:
        """The opposite of a mask."""
        return self ^ 1

    def __lshift__(self, other: V | int) -> V:
        return self._bitwise(other, "shl")

    def __rshift__(self, other: V | int) -> V:
        """Logical shift: zeros come in from the left."""
        return self._bitwise(other, "lshr")

    # comparisons: masks of i1; ordered (false on NaN) but for ``ne``

    def _compare(self, op: str, other: V | Number) -> V:
        b = self._coerce(other).value
        if not self.is_float:
            return V(self.builder, self.builder.icmp_signed(op, self.value, b))
        compare = self.builder.fcmp_unordered if op == "!=" else self.builder.fcmp_ordered
        return V(self.builder, compare(op, self.value, b))

    def __lt__(self, other: V | Number) -> V:
        return self._compare("<", other)

    def __le__(self, other: V | Number) -> V:
        return self._compare("<=", other)

    def __gt__(self, other: V | Number) -> V:
        return self._compare(">", other)

    def __ge__(self, other: V | Number) -> V:
        return self._compare(">=", other)

    def eq(self, other: V | Number) -> V:
        return self._compare("==", other)

    def ne(self, other: V | Number) -> V:
        return self._compare("!=", other)

    def is_nan(self) -> V:
        return V(self.builder, self.builder.fcmp_unordered("uno", self.value, self.value))

    # representation

    def bits(self) -> V:
        """The float's bits as integers of the same width."""
        return V(self.builder, self.builder.bitcast(self.value, like(self.type, ir.IntType(self.format.bits))))

    def as_float(self) -> V:
        """Integer bits reinterpreted as the float of the same width."""
        element = element_of(self.type)
        assert isinstance(element, ir.IntType)
        return V(self.builder, self.builder.bitcast(self.value, like(self.type, _FLOAT_OF_WIDTH[element.width])))

    def to_double(self) -> V:
        return V(self.builder, self.builder.fpext(self.value, like(self.type, ir.DoubleType())))

    def to_single(self) -> V:
        return V(self.builder, self.builder.fptrunc(self.value, like(self.type, ir.FloatType())))

    def to_int32(self) -> V:
        """The low 32 bits of 64-bit integers; floats truncated (they must fit)."""
        convert = self.builder.fptosi if self.is_float else self.builder.trunc
        return V(self.builder, convert(self.value, like(self.type, ir.IntType(32))))

    def int_to_double(self) -> V:
        return V(self.builder, self.builder.sitofp(self.value, like(self.type, ir.DoubleType())))

    def intrinsic(self, name: str, *others: V) -> V:
        """The LLVM intrinsic ``llvm.<name>`` on operands of this type."""
        operands = [self.value, *(other.value for other in others)]
        function = declare(self.builder.module, f"llvm.{name}.{suffix(self.type)}", self.type, [self.type] * len(operands))
        return V(self.builder, self.builder.call(function, operands))


_FLOAT_OF_WIDTH: dict[int, ir.Type] = {32: ir.FloatType(), 64: ir.DoubleType()}


# types


def element_of(type_: ir.Type) -> ir.Type:
    """The scalar type of a vector's lanes, or ``type_`` itself."""
    return type_.element if isinstance(type_, ir.VectorType) else type_


def lanes_of(type_: ir.Type) -> int:
    return type_.count if isinstance(type_, ir.VectorType) else 0


def like(type_: ir.Type, element: ir.Type) -> ir.Type:
    """``element`` in the shape (scalar or number of lanes) of ``type_``."""
    return ir.VectorType(element, type_.count) if isinstance(type_, ir.VectorType) else element


def suffix(type_: ir.Type) -> str:
    """LLVM's mangled name of a type: ``f32``, ``v8f32``, ``v4i64`` ..."""
    element = element_of(type_)
    if isinstance(element, ir.IntType):
        name = f"i{element.width}"
    else:
        name = "f32" if isinstance(element, ir.FloatType) else "f64"
    return f"v{type_.count}{name}" if isinstance(type_, ir.VectorType) else name


def splat_constant(type_: ir.Type, number: Number) -> ir.Constant:
    """A constant with ``number`` in every lane of ``type_``."""
    element = element_of(type_)
    constant = ir.Constant(element, int(number) if isinstance(element, ir.IntType) else float(number))
    return ir.Constant(type_, [constant] * type_.count) if isinstance(type_, ir.VectorType) else constant


def declare(module: ir.Module, name: str, returns: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """The function ``name`` of ``module``, declared if it is not there yet."""
    found = module.globals.get(name)
    if found is None:
        found = ir.Function(module, ir.FunctionType(returns, list(arguments)), name)
    assert isinstance(found, ir.Function)
    return found


# operations that are no operators


def select(condition: V, a: V | Number, b: V | Number) -> V:
    """``a`` where ``condition`` holds, else ``b``; at least one of them is a ``V``."""
    model = a if isinstance(a, V) else b
    assert isinstance(model, V)
    chosen, other = (v if isinstance(v, V) else model.of(v) for v in (a, b))
    return V(model.builder, model.builder.select(condition.value, chosen.value, other.value))


def min_keep_nan(x: V, bound: V | Number) -> V:
    """``bound < x ? bound : x``: one minps, NaN in ``x`` stays."""
    bound = bound if isinstance(bound, V) else x.of(bound)
    return select(bound < x, bound, x)


def max_keep_nan(x: V, bound: V | Number) -> V:
    """``bound > x ? bound : x``: one maxps, NaN in ``x`` stays."""
    bound = bound if isinstance(bound, V) else x.of(bound)
    return select(bound > x, bound, x)


def absolute(x: V) -> V:
    return x.intrinsic("fabs")


def copysign(magnitude: V, sign: V) -> V:
    return magnitude.intrinsic("copysign", sign)


def horner(x: V, coefficients: Sequence[float]) -> V:
    """``coefficients[0] + coefficients[1] * x + ...``"""
    total = x.of(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


def any_lane(mask: V) -> Value:
    """An ``i1``: does the mask hold in any lane?"""
    if not mask.lanes:
        return mask.value
    packed: Value = mask.builder.bitcast(mask.value, ir.IntType(mask.lanes))
    return mask.builder.icmp_unsigned("!=", packed, ir.Constant(packed.type, 0))


def unless_any(mask: V, usual: tuple[V, ...], rare: Callable[[], tuple[V, ...]]) -> tuple[V, ...]:
    """``usual``, or ``rare()`` (computed behind a branch) when ``mask`` holds in any lane."""
    builder = mask.builder
    before = builder.block
    with builder.if_then(any_lane(mask), unlikely=True):
        replacements = rare()
        inside = builder.block
    merged: list[V] = []
    for value, replacement in zip(usual, replacements, strict=True):
        phi = builder.phi(value.type)
        phi.add_incoming(value.value, before)
        phi.add_incoming(replacement.value, inside)
        merged.append(V(builder, phi))
    return tuple(merged)


def per_lane(name: str, *operands: V) -> V:
    """The libm function ``name`` called for each lane."""
    builder, type_ = operands[0].builder, operands[0].type
    element = element_of(type_)
    function = declare(builder.module, name, element, [element] * len(operands))
    if not operands[0].lanes:
        return V(builder, builder.call(function, [v.value for v in operands]))
    result: Value = ir.Constant(type_, ir.Undefined)
    for lane in range(operands[0].lanes):
        index = ir.Constant(ir.IntType(32), lane)
        scalars = [builder.extract_element(v.value, index) for v in operands]
        result = builder.insert_element(result, builder.call(function, scalars), index)
    return V(builder, result)
