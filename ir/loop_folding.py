"""Constructors of expressions that fold what is constant and keep index arithmetic small: (x * 8 + r) // 8 is x where r is in [0, 8)."""

from __future__ import annotations

import math
from collections.abc import Callable

from . import dtypes
from .dtypes import DType
from .loop_expressions import (
    COMPARISONS,
    FALSE,
    INDEX,
    ONE,
    TRUE,
    ZERO,
    Binary,
    Cast,
    Const,
    Expr,
    Guarded,
    Operand,
    Param,
    Select,
    Unary,
    Var,
    is_const,
    wrap,
)


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
