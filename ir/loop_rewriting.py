"""Walking and rewriting expressions and statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import is_
from typing import Any

from .loop_expressions import Binary, Bitcast, Buffer, Cast, Expr, Guarded, Load, Select, Unary, Var
from .loop_folding import binary, guarded, select
from .loop_statements import (
    Alloc,
    Assign,
    Body,
    Declare,
    Fail,
    For,
    If,
    Let,
    Prefetch,
    Stmt,
    Store,
    Tile,
    While,
)


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


def rebuild(e: Expr, f: Callable[[Expr], Expr]) -> Expr:
    """``e`` with ``f`` applied to its direct sub-expressions, and nothing folded."""
    match e:
        case Load(buffer, index):
            return Load(buffer, tuple(f(i) for i in index))
        case Unary(op, a):
            return Unary(op, f(a))
        case Binary(op, a, b):
            return Binary(op, f(a), f(b))
        case Select(c, a, b):
            return Select(f(c), f(a), f(b))
        case Guarded(c, a, b):
            return Guarded(f(c), f(a), f(b))
        case Cast(a, dtype, saturate):
            return Cast(f(a), dtype, saturate)
        case Bitcast(a, dtype):
            return Bitcast(f(a), dtype)
        case _:
            return e


def map_loads(e: Expr, f: Callable[[Load], Expr]) -> Expr:
    """``e`` with ``f`` applied to its loads, those inside of indices left to ``f``."""
    return f(e) if isinstance(e, Load) else rebuild(e, lambda inside: map_loads(inside, f))


def substitute(e: Expr, mapping: Mapping[Var, Expr], made: dict[Expr, Expr] | None = None) -> Expr:
    """``e`` with variables replaced, folded again on the way up.

    What has none of them in it stays the same object, and what is one object in several places becomes one object; ``made`` holds what
    was made with this mapping before.
    """
    kind = type(e)
    if kind is Var:
        return mapping.get(e, e)  # type: ignore[arg-type]
    inside = _OPERANDS.get(kind)
    if inside is None:
        return e
    if made is None:
        made = {}
    found = made.get(e)
    if found is None:
        found = made[e] = _substituted(e, inside, mapping, made)
    return found


def _substituted(
    e: Expr, inside: Callable[[Any], tuple[Expr, ...]], mapping: Mapping[Var, Expr], made: dict[Expr, Expr]
) -> Expr:
    if isinstance(e, Binary):  # nearly all are
        a, b = substitute(e.a, mapping, made), substitute(e.b, mapping, made)
        return e if a is e.a and b is e.b else binary(e.op, a, b)
    old = inside(e)
    new = [substitute(part, mapping, made) for part in old]
    if all(map(is_, new, old)):
        return e
    match e:
        case Select():
            return select(*new)
        case Guarded():
            return guarded(*new)
        case _:
            parts = iter(new)
            return rebuild(e, lambda _: next(parts))


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


def parallel_chain(loop: For) -> list[For]:
    """A parallel loop and the parallel loops perfectly nested in it, whose iterations are dealt out together."""
    chain = [loop]
    while len(chain[-1].body) == 1:
        inner = chain[-1].body[0]
        if not (isinstance(inner, For) and inner.kind == "parallel"):
            break
        chain.append(inner)
    return chain


def map_expressions(body: Body, f: Callable[[Expr], Expr], buffer: Callable[[Buffer], Buffer] = lambda b: b) -> Body:
    """``body`` with ``f`` applied to every top-level expression of every statement, and ``buffer`` to what is stored to, prefetched and
    allocated."""
    return tuple(_map_statement(stmt, f, buffer) for stmt in body)


def _map_statement(stmt: Stmt, f: Callable[[Expr], Expr], buffer: Callable[[Buffer], Buffer]) -> Stmt:
    def inside(body: Body) -> Body:
        return map_expressions(body, f, buffer)

    match stmt:
        case For():
            return replace(stmt, extent=f(stmt.extent), body=inside(stmt.body))
        case While():
            return While(f(stmt.condition), inside(stmt.body))
        case If():
            return If(f(stmt.condition), inside(stmt.then), inside(stmt.orelse))
        case Let() | Declare() | Assign():
            return replace(stmt, value=f(stmt.value))
        case Store():
            return Store(buffer(stmt.buffer), tuple(f(i) for i in stmt.index), f(stmt.value))
        case Prefetch():
            return replace(stmt, buffer=buffer(stmt.buffer), index=tuple(f(i) for i in stmt.index))
        case Fail():
            return Fail(f(stmt.condition), stmt.code, f(stmt.value))
        case Alloc():
            return Alloc(buffer(stmt.buffer))
        case Tile():
            return Tile(inside(stmt.body))
        case _:
            raise TypeError(type(stmt).__name__)
