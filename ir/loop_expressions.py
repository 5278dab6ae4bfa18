"""Expressions of the loop IR: typed trees of constants, parameters, variables, loads and operations on them, and buffers.

An index is an int64 expression. Extents known only per plan are ``Param`` leaves that carry the value of the plan being made (``hint``), so
that decisions look at numbers while the text of a nest, which is the kernel's identity, does not hold them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from . import dtypes
from .dtypes import DType

Scope = Literal["input", "output", "scratch", "register"]
INDEX = dtypes.int64

COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
LOGICAL = frozenset({"and", "or", "xor"})
"""On bool operands; on integers the same names are bitwise."""


class Expr:
    """A typed value. Arithmetic operators build index and value expressions alike, folding what is constant."""

    __slots__ = ()
    dtype: DType

    def __add__(self, other: Operand) -> Expr:
        return folding.add(self, wrap(other, self.dtype))

    def __radd__(self, other: Operand) -> Expr:
        return folding.add(wrap(other, self.dtype), self)

    def __sub__(self, other: Operand) -> Expr:
        return folding.sub(self, wrap(other, self.dtype))

    def __rsub__(self, other: Operand) -> Expr:
        return folding.sub(wrap(other, self.dtype), self)

    def __mul__(self, other: Operand) -> Expr:
        return folding.mul(self, wrap(other, self.dtype))

    def __rmul__(self, other: Operand) -> Expr:
        return folding.mul(wrap(other, self.dtype), self)

    def __truediv__(self, other: Operand) -> Expr:
        return Binary("div", self, wrap(other, self.dtype))

    def __rtruediv__(self, other: Operand) -> Expr:
        return Binary("div", wrap(other, self.dtype), self)

    def __floordiv__(self, other: Operand) -> Expr:
        return folding.floordiv(self, wrap(other, self.dtype))

    def __mod__(self, other: Operand) -> Expr:
        return folding.mod(self, wrap(other, self.dtype))

    def __neg__(self) -> Expr:
        return Const(-self.value, self.dtype) if isinstance(self, Const) else Unary("neg", self)

    def __lt__(self, other: Operand) -> Expr:
        return folding.compare("lt", self, other)

    def __le__(self, other: Operand) -> Expr:
        return folding.compare("le", self, other)

    def __gt__(self, other: Operand) -> Expr:
        return folding.compare("gt", self, other)

    def __ge__(self, other: Operand) -> Expr:
        return folding.compare("ge", self, other)

    def eq(self, other: Operand) -> Expr:
        return folding.compare("eq", self, other)

    def ne(self, other: Operand) -> Expr:
        return folding.compare("ne", self, other)

    def __and__(self, other: Operand) -> Expr:
        return folding.logical("and", self, wrap(other, self.dtype))

    def __or__(self, other: Operand) -> Expr:
        return folding.logical("or", self, wrap(other, self.dtype))

    def __xor__(self, other: Operand) -> Expr:
        return Binary("xor", self, wrap(other, self.dtype))

    def __invert__(self) -> Expr:
        return Unary("not", self)

    def __bool__(self) -> bool:
        raise TypeError("an expression has no truth value while the kernel is built: use select() or Builder.when()")


Operand: TypeAlias = "Expr | int | float | bool"


@dataclass(frozen=True, slots=True, eq=False)
class Const(Expr):
    value: int | float | bool | complex
    dtype: DType = INDEX


@dataclass(frozen=True, slots=True, eq=False)
class Param(Expr):
    """An int64 that the plan passes at run time; ``hint`` is its value in the plan at hand."""

    name: str
    hint: int

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return INDEX


@dataclass(frozen=True, slots=True, eq=False)
class Var(Expr):
    """A loop variable, a ``Let`` or a mutable scalar. ``extent`` bounds a loop variable: 0 <= var < extent."""

    name: str
    dtype: DType = INDEX
    extent: Expr | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Load(Expr):
    buffer: Buffer
    index: tuple[Expr, ...]

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.buffer.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Unary(Expr):
    """``op`` is neg, not, abs, or a function of ``codegen.vecmath``; the result has the operand's dtype (bool for is* tests)."""

    op: str
    a: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return dtypes.bool_ if self.op in ("isnan", "isinf") else self.a.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Binary(Expr):
    """``div`` truncates on integers; ``floordiv`` and ``mod`` are index arithmetic (floor); ``rem`` takes the dividend's sign (C);
    ``min`` and ``max`` give NaN when either operand is NaN; ``shl``/``shr`` shift (logical on unsigned);
    ``dot16`` of int32 is the sum of the products of their halves, signed numbers of 16 bits."""

    op: str
    a: Expr
    b: Expr

    def __post_init__(self) -> None:
        if self.a.dtype is not self.b.dtype:
            raise TypeError(f"{self.op} of {self.a.dtype} and {self.b.dtype}")

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return dtypes.bool_ if self.op in COMPARISONS else self.a.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Select(Expr):
    """Both sides are evaluated: neither may fault (see ``Guarded`` for loads that may not be made)."""

    condition: Expr
    a: Expr
    b: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.a.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Guarded(Expr):
    """``a`` where ``condition`` holds, else ``b``; loads inside ``a`` are made only where the condition holds."""

    condition: Expr
    a: Expr
    b: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.a.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Cast(Expr):
    """C conversion, with floats to integers truncated and out-of-range values saturated only where ONNX says so (``saturate``)."""

    a: Expr
    dtype: DType
    saturate: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Bitcast(Expr):
    """The same bits read as another dtype of the same width."""

    a: Expr
    dtype: DType


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory with a shape and strides in elements. ``register`` buffers live inside one tile and are indexed by constants after unrolling.
    With a ``base``, it is that buffer's memory seen with another shape. Index 0 lies ``start`` elements into the memory."""

    name: str
    dtype: DType
    shape: tuple[Expr, ...]
    strides: tuple[Expr, ...]
    scope: Scope
    base: Buffer | None = None
    start: Expr | None = None

    @property
    def root(self) -> Buffer:
        """The buffer that owns the memory."""
        return self if self.base is None else self.base.root

    def view(self, shape: tuple[Expr, ...]) -> Buffer:
        """The same memory, contiguous, with another shape."""
        return replace(self, shape=shape, strides=folding.contiguous(shape), base=self)

    def __call__(self, *index: Operand) -> Load:
        return Load(self, tuple(wrap(i, INDEX) for i in index))

    def offset(self, index: tuple[Expr, ...]) -> Expr:
        """The element offset of ``index`` from the buffer's start."""
        total: Expr = self.start if self.start is not None else ZERO
        for i, stride in zip(index, self.strides, strict=True):
            total = folding.add(total, folding.mul(i, stride))
        return total


ZERO = Const(0)
ONE = Const(1)
TRUE = Const(True, dtypes.bool_)
FALSE = Const(False, dtypes.bool_)


def wrap(value: Operand, dtype: DType) -> Expr:
    """A Python number as a constant of ``dtype``; expressions pass through."""
    if isinstance(value, Expr):
        return value
    if dtype.kind == "float":
        return Const(float(value), dtype)
    return Const(value, dtype)


def index(value: Operand) -> Expr:
    return wrap(value, INDEX)


def is_const(e: Expr, value: int | None = None) -> bool:
    return isinstance(e, Const) and e.dtype is INDEX and (value is None or e.value == value)


from . import loop_folding as folding  # noqa: E402 - operators build what folding makes, out of the classes above
