"""The loop IR: what a kernel computes, as loops over buffers, before and after scheduling.

Expressions are typed trees; an index is an int64 expression. Extents known only per plan are ``Param`` leaves that carry the value of the
plan being made (``hint``), so that decisions look at numbers while the text of a nest, which is the kernel's identity, does not hold them.
Statements are loops, stores, scalars and conditions. A ``Tile`` marks the region that is emitted as LLVM vector code; what
surrounds it becomes Numba source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from . import dtypes
from .dtypes import DType

LoopKind = Literal["serial", "parallel", "vector", "unroll"]
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
        return add(self, wrap(other, self.dtype))

    def __radd__(self, other: Operand) -> Expr:
        return add(wrap(other, self.dtype), self)

    def __sub__(self, other: Operand) -> Expr:
        return sub(self, wrap(other, self.dtype))

    def __rsub__(self, other: Operand) -> Expr:
        return sub(wrap(other, self.dtype), self)

    def __mul__(self, other: Operand) -> Expr:
        return mul(self, wrap(other, self.dtype))

    def __rmul__(self, other: Operand) -> Expr:
        return mul(wrap(other, self.dtype), self)

    def __truediv__(self, other: Operand) -> Expr:
        return Binary("div", self, wrap(other, self.dtype))

    def __rtruediv__(self, other: Operand) -> Expr:
        return Binary("div", wrap(other, self.dtype), self)

    def __floordiv__(self, other: Operand) -> Expr:
        return floordiv(self, wrap(other, self.dtype))

    def __mod__(self, other: Operand) -> Expr:
        return mod(self, wrap(other, self.dtype))

    def __neg__(self) -> Expr:
        return Const(-self.value, self.dtype) if isinstance(self, Const) else Unary("neg", self)

    def __lt__(self, other: Operand) -> Expr:
        return compare("lt", self, other)

    def __le__(self, other: Operand) -> Expr:
        return compare("le", self, other)

    def __gt__(self, other: Operand) -> Expr:
        return compare("gt", self, other)

    def __ge__(self, other: Operand) -> Expr:
        return compare("ge", self, other)

    def eq(self, other: Operand) -> Expr:
        return compare("eq", self, other)

    def ne(self, other: Operand) -> Expr:
        return compare("ne", self, other)

    def __and__(self, other: Operand) -> Expr:
        return logical("and", self, wrap(other, self.dtype))

    def __or__(self, other: Operand) -> Expr:
        return logical("or", self, wrap(other, self.dtype))

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
    ``min`` and ``max`` give NaN when either operand is NaN; ``shl``/``shr`` shift (logical on unsigned)."""

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
        return replace(self, shape=shape, strides=contiguous(shape), base=self)

    def __call__(self, *index: Operand) -> Load:
        return Load(self, tuple(wrap(i, INDEX) for i in index))

    def offset(self, index: tuple[Expr, ...]) -> Expr:
        """The element offset of ``index`` from the buffer's start."""
        total: Expr = self.start if self.start is not None else ZERO
        for i, stride in zip(index, self.strides, strict=True):
            total = add(total, mul(i, stride))
        return total


# --- statements -------------------------------------------------------------------------------------------------------------


class Stmt:
    __slots__ = ()


Body: TypeAlias = "tuple[Stmt, ...]"


@dataclass(frozen=True, slots=True, eq=False)
class For(Stmt):
    """``for var in range(extent)``. A ``vector`` loop's iterations are independent, or reduce into scalars declared outside of it."""

    var: Var
    extent: Expr
    body: Body
    kind: LoopKind = "serial"


@dataclass(frozen=True, slots=True, eq=False)
class While(Stmt):
    condition: Expr
    body: Body


@dataclass(frozen=True, slots=True, eq=False)
class If(Stmt):
    condition: Expr
    then: Body
    orelse: Body = ()


@dataclass(frozen=True, slots=True, eq=False)
class Let(Stmt):
    """Names a value once."""

    var: Var
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class Declare(Stmt):
    """A mutable scalar with its first value; ``Assign`` changes it."""

    var: Var
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class Assign(Stmt):
    var: Var
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class Store(Stmt):
    buffer: Buffer
    index: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class Fail(Stmt):
    """Where ``condition`` holds, the kernel stops with error ``code`` (1-based in ``LoopNest.errors``) and reports ``value``."""

    condition: Expr
    code: int
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class Alloc(Stmt):
    """Brings a ``register`` buffer to life for the statements that follow; its content is undefined."""

    buffer: Buffer


@dataclass(frozen=True, slots=True, eq=False)
class Prefetch(Stmt):
    """Brings the line of an element closer: a hint without effect on values, so the index may lie outside of the buffer.
    ``level`` is the cache it comes to: 1 when it is needed soon, 2 when it is needed later."""

    buffer: Buffer
    index: tuple[Expr, ...]
    level: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Tile(Stmt):
    """A region emitted as one LLVM function; everything outside is Numba source."""

    body: Body


@dataclass(frozen=True, eq=False)
class LoopNest:
    """A kernel. ``buffers`` are its arguments in order; ``errors`` the messages of its ``Fail`` statements (``{value}``: the culprit).

    ``inplace`` names pairs (input, output) that may be the same memory, each element read before it is written.
    """

    name: str
    buffers: tuple[Buffer, ...]
    body: Body
    errors: tuple[str, ...] = ()
    inplace: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def parallel(self) -> bool:
        return any(isinstance(s, For) and s.kind == "parallel" for s in self.body)


WORKER = Var("worker")
"""The number of the worker that runs the kernel: the leading index of every scratch buffer."""
ZERO = Const(0)
ONE = Const(1)


# --- smart constructors: fold constants, keep index arithmetic small ------------------------------------------------------------


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


def hint(e: Expr) -> int:
    """The value of an expression of constants and parameters in the plan at hand."""
    match e:
        case Const():
            return int(e.value)  # type: ignore[arg-type]
        case Param():
            return e.hint
        case Binary(op, a, b):
            x, y = hint(a), hint(b)
            return _HINT[op](x, y)
        case _:
            raise ValueError(f"{type(e).__name__} has no value before the kernel runs")


_HINT: dict[str, Callable[[int, int], int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "floordiv": lambda x, y: x // y,
    "mod": lambda x, y: x % y,
    "min": min,
    "max": max,
}


def add(a: Expr, b: Expr) -> Expr:
    if a.dtype is INDEX:
        if isinstance(a, Const):
            if isinstance(b, Const):
                return Const(a.value + b.value)  # type: ignore[operator]
            if a.value == 0:
                return b
            return add(b, a)
        if isinstance(b, Const):
            if b.value == 0:
                return a
            if isinstance(a, Binary) and a.op == "add" and isinstance(a.b, Const):
                return add(a.a, Const(a.b.value + b.value))  # type: ignore[operator]
    return Binary("add", a, b)


def sub(a: Expr, b: Expr) -> Expr:
    if a.dtype is INDEX and isinstance(b, Const):
        return add(a, Const(-b.value))
    return Binary("sub", a, b)


def mul(a: Expr, b: Expr) -> Expr:
    if a.dtype is INDEX:
        if isinstance(a, Const):
            if isinstance(b, Const):
                return Const(a.value * b.value)  # type: ignore[operator]
            return mul(b, a)
        if isinstance(b, Const):
            if b.value == 0:
                return ZERO
            if b.value == 1:
                return a
            if isinstance(a, Binary) and a.op == "mul" and isinstance(a.b, Const):
                return mul(a.a, Const(a.b.value * b.value))  # type: ignore[operator]
            if isinstance(a, Binary) and a.op == "add":
                return add(mul(a.a, b), mul(a.b, b))
    return Binary("mul", a, b)


def floordiv(a: Expr, b: Expr) -> Expr:
    """Index division that rounds down: (x * f + r) // f == x for 0 <= r < f, and (x * g + r) // (g * h) == x // h for 0 <= r < g."""
    if isinstance(b, Const) and b.dtype is INDEX:
        f = int(b.value)  # type: ignore[arg-type]
        if f == 1:
            return a
        quotient, rest = _divide(a, f)
        if is_const(rest, 0):
            return quotient
        if _within(rest, f):
            return quotient
        g = math.gcd(f, *_factors(rest))
        if 1 < g < f:
            x, small = _divide(rest, g)
            if _within(small, g):
                return add(quotient, floordiv(x, Const(f // g)))
    return Binary("floordiv", a, b)


def mod(a: Expr, b: Expr) -> Expr:
    """Index remainder of the floored division; (x * f + r) % f == r for 0 <= r < f."""
    if isinstance(b, Const) and b.dtype is INDEX:
        f = int(b.value)  # type: ignore[arg-type]
        if f == 1:
            return ZERO
        _, rest = _divide(a, f)
        if _within(rest, f):
            return rest
    return Binary("mod", a, b)


def _divide(a: Expr, f: int) -> tuple[Expr, Expr]:
    """``a`` as (quotient, rest) with a == quotient * f + rest, by pulling the terms divisible by ``f`` out."""
    match a:
        case Const():
            value = int(a.value)  # type: ignore[arg-type]
            return Const(value // f), Const(value % f)
        case Binary("mul", x, Const() as c) if int(c.value) % f == 0:  # type: ignore[arg-type]
            return mul(x, Const(int(c.value) // f)), ZERO  # type: ignore[arg-type]
        case Binary("add", x, y):
            qx, rx = _divide(x, f)
            qy, ry = _divide(y, f)
            return add(qx, qy), add(rx, ry)
        case _:
            return ZERO, a


def _factors(e: Expr) -> tuple[int, ...]:
    """What the terms of a sum are multiplied by, where that is a constant."""
    match e:
        case Binary("add", x, y):
            return *_factors(x), *_factors(y)
        case Binary("mul", _, Const() as c):
            return (int(c.value),)  # type: ignore[arg-type]
        case _:
            return ()


def _within(e: Expr, f: int) -> bool:
    low, high = bounds(e)
    return low is not None and high is not None and low >= 0 and high < f


def bounds(e: Expr) -> tuple[int | None, int | None]:
    """Inclusive bounds of an index expression that hold for every value of its parameters; None where unknown."""
    match e:
        case Const():
            return int(e.value), int(e.value)  # type: ignore[arg-type]
        case Var() if e.extent is not None:
            return 0, (int(e.extent.value) - 1 if isinstance(e.extent, Const) else None)  # type: ignore[arg-type]
        case Param():
            return 0, None
        case Binary("add", a, b):
            (al, ah), (bl, bh) = bounds(a), bounds(b)
            return (None if al is None or bl is None else al + bl), (None if ah is None or bh is None else ah + bh)
        case Binary("mul", a, Const() as c) if int(c.value) >= 0:  # type: ignore[arg-type]
            low, high = bounds(a)
            f = int(c.value)  # type: ignore[arg-type]
            return (None if low is None else low * f), (None if high is None else high * f)
        case Binary("mod", _, Const() as c):
            return 0, int(c.value) - 1  # type: ignore[arg-type]
        case Binary("floordiv", a, Const() as c):
            low, high = bounds(a)
            f = int(c.value)  # type: ignore[arg-type]
            return (None if low is None else low // f), (None if high is None else high // f)
        case _:
            return None, None


def minimum(a: Expr, b: Expr) -> Expr:
    if isinstance(a, Const) and isinstance(b, Const) and a.dtype is INDEX:
        return Const(min(a.value, b.value))  # type: ignore[type-var]
    return Binary("min", a, b)


def maximum(a: Expr, b: Expr) -> Expr:
    if isinstance(a, Const) and isinstance(b, Const) and a.dtype is INDEX:
        return Const(max(a.value, b.value))  # type: ignore[type-var]
    return Binary("max", a, b)


def compare(op: str, a: Expr, other: Operand) -> Expr:
    b = wrap(other, a.dtype)
    if isinstance(a, Const) and isinstance(b, Const):
        x, y = a.value, b.value
        results = {"eq": x == y, "ne": x != y, "lt": x < y, "le": x <= y, "gt": x > y, "ge": x >= y}  # type: ignore[operator]
        return Const(bool(results[op]), dtypes.bool_)
    if a.dtype is INDEX:
        (al, ah), (bl, bh) = bounds(a), bounds(b)
        if op == "ge" and al is not None and bh is not None and al >= bh:
            return TRUE
        if op == "lt" and ah is not None and bl is not None and ah < bl:
            return TRUE
    return Binary(op, a, b)


def logical(op: str, a: Expr, b: Expr) -> Expr:
    """``and``/``or`` that folds constant sides."""
    if a.dtype is dtypes.bool_:
        for x, y in ((a, b), (b, a)):
            if isinstance(x, Const):
                if op == "and":
                    return y if x.value else FALSE
                return TRUE if x.value else y
    return Binary(op, a, b)


def select(condition: Expr, a: Expr, b: Operand) -> Expr:
    other = wrap(b, a.dtype)
    if isinstance(condition, Const):
        return a if condition.value else other
    return Select(condition, a, other)


def guarded(condition: Expr, a: Expr, b: Operand) -> Expr:
    other = wrap(b, a.dtype)
    if isinstance(condition, Const):
        return a if condition.value else other
    return Guarded(condition, a, other)


def cast(a: Expr, dtype: DType, *, saturate: bool = False) -> Expr:
    """A conversion; back from float32 to the narrower float that it came from is none."""
    if a.dtype is dtype:
        return a
    if isinstance(a, Cast) and a.a.dtype is dtype and a.dtype is dtypes.float32 and dtype.is_float and dtype.bits < 32:
        return a.a
    if isinstance(a, Const) and dtype.kind == "float" and dtype.bits >= 32 and a.dtype.kind in ("int", "uint", "bool"):
        return Const(float(a.value), dtype)  # type: ignore[arg-type]
    return Cast(a, dtype, saturate)


def unary(op: str, a: Expr) -> Expr:
    return Unary(op, a)


TRUE = Const(True, dtypes.bool_)
FALSE = Const(False, dtypes.bool_)


def all_of(*conditions: Expr) -> Expr:
    result: Expr = TRUE
    for condition in conditions:
        result = logical("and", result, condition)
    return result


def contiguous(shape: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Row-major strides, in elements."""
    strides: list[Expr] = []
    step: Expr = ONE
    for extent in reversed(shape):
        strides.append(step)
        step = mul(step, extent)
    return tuple(reversed(strides))


# --- walking and rewriting ----------------------------------------------------------------------------------------------------


def operands(e: Expr) -> tuple[Expr, ...]:
    """The direct sub-expressions of ``e``."""
    inside = _OPERANDS.get(type(e))
    return () if inside is None else inside(e)


_OPERANDS: dict[type, Callable[[Any], tuple[Expr, ...]]] = {
    Load: lambda e: e.index,
    Unary: lambda e: (e.a,),
    Cast: lambda e: (e.a,),
    Bitcast: lambda e: (e.a,),
    Binary: lambda e: (e.a, e.b),
    Select: lambda e: (e.condition, e.a, e.b),
    Guarded: lambda e: (e.condition, e.a, e.b),
}


def walk(e: Expr) -> Iterator[Expr]:
    """``e`` and every expression inside it, outermost first."""
    pending = [e]
    while pending:
        e = pending.pop()
        yield e
        inside = _OPERANDS.get(type(e))
        if inside is not None:
            pending.extend(reversed(inside(e)))


def substitute(e: Expr, mapping: dict[Var, Expr]) -> Expr:
    """``e`` with variables replaced, simplified again on the way up."""
    return transform(e, lambda leaf: mapping.get(leaf, leaf) if isinstance(leaf, Var) else leaf)


def transform(e: Expr, leaf: Callable[[Expr], Expr]) -> Expr:
    """Rebuilds ``e`` bottom-up through the smart constructors; ``leaf`` maps variables, parameters and constants."""
    match e:
        case Var() | Param() | Const():
            return leaf(e)
        case Load(buffer, idx):
            return Load(buffer, tuple(transform(i, leaf) for i in idx))
        case Unary(op, a):
            return Unary(op, transform(a, leaf))
        case Binary(op, a, b):
            return binary(op, transform(a, leaf), transform(b, leaf))
        case Select(c, a, b):
            return select(transform(c, leaf), transform(a, leaf), transform(b, leaf))
        case Guarded(c, a, b):
            return guarded(transform(c, leaf), transform(a, leaf), transform(b, leaf))
        case Cast(a, dtype, saturate):
            return Cast(transform(a, leaf), dtype, saturate)
        case Bitcast(a, dtype):
            return Bitcast(transform(a, leaf), dtype)
        case _:
            raise TypeError(type(e).__name__)


def map_loads(e: Expr, f: Callable[[Load], Expr]) -> Expr:
    """``e`` with ``f`` applied to its loads, those inside of indices left to ``f``."""
    match e:
        case Load():
            return f(e)
        case Unary() | Cast() | Bitcast():
            return replace(e, a=map_loads(e.a, f))
        case Binary():
            return replace(e, a=map_loads(e.a, f), b=map_loads(e.b, f))
        case Select() | Guarded():
            return replace(e, condition=map_loads(e.condition, f), a=map_loads(e.a, f), b=map_loads(e.b, f))
        case _:
            return e


_SMART: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "floordiv": floordiv,
    "mod": mod,
    "min": minimum,
    "max": maximum,
}


def binary(op: str, a: Expr, b: Expr) -> Expr:
    """``Binary`` through the smart constructor of its operation."""
    if op in _SMART:
        return _SMART[op](a, b)
    if op in COMPARISONS:
        return compare(op, a, b)
    if op in ("and", "or"):
        return logical(op, a, b)
    return Binary(op, a, b)


def expressions(stmt: Stmt) -> tuple[Expr, ...]:
    """The expressions that stand directly in ``stmt`` (not in the statements inside it)."""
    match stmt:
        case For():
            return (stmt.extent,)
        case While() | If():
            return (stmt.condition,)
        case Let() | Declare() | Assign():
            return (stmt.value,)
        case Store():
            return (*stmt.index, stmt.value)
        case Prefetch():
            return stmt.index
        case Fail():
            return (stmt.condition, stmt.value)
        case _:
            return ()


def children(stmt: Stmt) -> tuple[Body, ...]:
    """The bodies inside ``stmt``."""
    match stmt:
        case For() | While() | Tile():
            return (stmt.body,)
        case If():
            return (stmt.then, stmt.orelse)
        case _:
            return ()


def statements(body: Body) -> Iterator[Stmt]:
    """Every statement in ``body``, outermost first, in program order."""
    for stmt in body:
        yield stmt
        for inner in children(stmt):
            yield from statements(inner)


def map_expressions(body: Body, f: Callable[[Expr], Expr]) -> Body:
    """``body`` with ``f`` applied to every top-level expression of every statement."""
    return tuple(_map_statement(stmt, f) for stmt in body)


def _map_statement(stmt: Stmt, f: Callable[[Expr], Expr]) -> Stmt:
    match stmt:
        case For():
            return replace(stmt, extent=f(stmt.extent), body=map_expressions(stmt.body, f))
        case While():
            return While(f(stmt.condition), map_expressions(stmt.body, f))
        case If():
            return If(f(stmt.condition), map_expressions(stmt.then, f), map_expressions(stmt.orelse, f))
        case Let() | Declare() | Assign():
            return replace(stmt, value=f(stmt.value))
        case Store():
            return Store(stmt.buffer, tuple(f(i) for i in stmt.index), f(stmt.value))
        case Prefetch():
            return replace(stmt, index=tuple(f(i) for i in stmt.index))
        case Fail():
            return Fail(f(stmt.condition), stmt.code, f(stmt.value))
        case Tile():
            return Tile(map_expressions(stmt.body, f))
        case _:
            return stmt


@dataclass
class Names:
    """Gives each stem a name used once: x, x_1, x_2."""

    taken: dict[str, int] = field(default_factory=dict)

    def __call__(self, stem: str) -> str:
        count = self.taken.get(stem, 0)
        self.taken[stem] = count + 1
        return stem if count == 0 else self(f"{stem}_{count}")
