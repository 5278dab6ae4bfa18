"""Neighbouring loops that all memory is crossed evenly by become one loop.

    for h in range(H): for w in vector(W): y[h * W + w] = f(x[h * W + w])   ->   for i in vector(H * W): y[i] = f(x[i])

An offset is crossed evenly when a step of the outer loop moves it as far as the whole inner loop does (0 counts: an operand that
both loops leave alone). Strides are compared as polynomials in the nest's parameters, so that what is merged is right for every
shape that the nest serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from ...ir import loops as ir

Monomial = tuple[ir.Expr, ...]
Polynomial = dict[Monomial, int]

_KINDS: dict[tuple[ir.LoopKind, ir.LoopKind], ir.LoopKind] = {
    ("serial", "serial"): "serial",
    ("serial", "vector"): "vector",
    ("parallel", "parallel"): "parallel",
}


def merge_loops(body: ir.Body) -> ir.Body:
    """``body`` with every pair of perfectly nested loops merged that can be, innermost pairs first."""
    return tuple(_merged(stmt) for stmt in body)


def _merged(stmt: ir.Stmt) -> ir.Stmt:
    match stmt:
        case ir.If(condition, then, orelse):
            return ir.If(condition, merge_loops(then), merge_loops(orelse))
        case ir.While(condition, body):
            return ir.While(condition, merge_loops(body))
        case ir.For():
            return _merged_with_inner(replace(stmt, body=merge_loops(stmt.body)))
        case _:
            return stmt


def _merged_with_inner(outer: ir.For) -> ir.For:
    inner = outer.body[0] if len(outer.body) == 1 else None
    if not isinstance(inner, ir.For) or (outer.kind, inner.kind) not in _KINDS or uses(inner.extent, outer.var):
        return outer
    found = merge_pair(inner.body, outer.var, inner.var)
    if found is None:
        return outer
    var, body = found
    assert var.extent is not None
    return ir.For(var, var.extent, body, _KINDS[outer.kind, inner.kind])


def merge_pair(body: ir.Body, outer: ir.Var, inner: ir.Var) -> tuple[ir.Var, ir.Body] | None:
    """One variable in place of those of two loops right around ``body``, which is put in terms of it; None where that cannot be."""
    if outer.extent is None or inner.extent is None:
        return None
    length = polynomial(inner.extent)
    if not all(_even(e, outer, inner, length) for e in _all_expressions(body)) or not _independent(body, outer, inner):
        return None
    merged = ir.Var(outer.name, extent=ir.mul(outer.extent, inner.extent))
    return merged, _rewrite(body, {outer: ir.ZERO, inner: merged})


def merge_axes(body: ir.Body, axes: Sequence[ir.Var]) -> tuple[list[ir.Var], ir.Body]:
    """The loop variables, outermost first, of loops right around ``body``, merged where possible, and ``body`` in terms of them."""
    merged: list[ir.Var] = []
    for axis in axes:
        found = merge_pair(body, merged[-1], axis) if merged else None
        if found is None:
            merged.append(axis)
        else:
            merged[-1], body = found
    return merged, body


# --- facts about expressions --------------------------------------------------------------------------------------------------


def uses(e: ir.Expr, *variables: ir.Var) -> bool:
    return any(x is v for x in ir.walk(e) for v in variables)


def polynomial(e: ir.Expr) -> Polynomial:
    """An index expression as a sum of products of atoms: variables, parameters, and whatever is not a sum or a product."""
    match e:
        case ir.Const(value):
            return {(): int(value)} if value else {}  # type: ignore[arg-type]
        case ir.Binary("add" | "sub" as op, x, y):
            return _sum(polynomial(x), polynomial(y), 1 if op == "add" else -1)
        case ir.Binary("mul", x, y):
            result: Polynomial = {}
            for p, i in polynomial(x).items():
                result = _sum(result, {tuple(sorted((*p, *q), key=id)): i * j for q, j in polynomial(y).items()}, 1)
            return result
        case _:
            return {(e,): 1}


def _sum(x: Polynomial, y: Polynomial, sign: int) -> Polynomial:
    result = dict(x)
    for monomial, factor in y.items():
        result[monomial] = result.get(monomial, 0) + sign * factor
    return {monomial: factor for monomial, factor in result.items() if factor}


def coefficient(offset: Polynomial, var: ir.Var) -> Polynomial | None:
    """How far ``offset`` moves when ``var`` grows by one; None where that is not the same everywhere."""
    result: Polynomial = {}
    for monomial, factor in offset.items():
        rest = tuple(atom for atom in monomial if atom is not var)
        if any(uses(atom, var) for atom in rest) or len(monomial) - len(rest) > 1:
            return None
        if len(rest) < len(monomial):
            result = _sum(result, {rest: factor}, 1)
    return result


def _even(e: ir.Expr, outer: ir.Var, inner: ir.Var, length: Polynomial) -> bool:
    """Whether ``e`` uses the variables only in offsets that are crossed evenly."""
    if isinstance(e, ir.Load):
        return not uses(e, outer, inner) or _crossed(e.buffer, e.index, outer, inner, length)
    return e is not outer and e is not inner and all(_even(child, outer, inner, length) for child in ir.operands(e))


def _crossed(buffer: ir.Buffer, index: tuple[ir.Expr, ...], outer: ir.Var, inner: ir.Var, length: Polynomial) -> bool:
    if buffer.scope == "register" or not _is_contiguous(buffer):
        return False
    offset = polynomial(buffer.offset(index))
    far, near = coefficient(offset, outer), coefficient(offset, inner)
    if far is None or near is None:
        return False
    whole: Polynomial = {}
    for monomial, factor in near.items():
        whole = _sum(whole, {tuple(sorted((*monomial, *m), key=id)): factor * f for m, f in length.items()}, 1)
    return far == whole


def _is_contiguous(buffer: ir.Buffer) -> bool:
    shape, strides = [ir.hint(e) for e in buffer.shape], [ir.hint(e) for e in buffer.strides]
    return all(stride == prod(shape[axis + 1 :]) for axis, stride in enumerate(strides))


def _all_expressions(body: ir.Body) -> Iterator[ir.Expr]:
    for stmt in ir.statements(body):
        if isinstance(stmt, ir.Store):
            yield ir.Load(stmt.buffer, stmt.index)
            yield stmt.value
        else:
            yield from ir.expressions(stmt)


def _independent(body: ir.Body, outer: ir.Var, inner: ir.Var) -> bool:
    """No iteration loads what another one stored: memory that is stored to is loaded at the same place only, if at all."""
    stored = {s.buffer.root: polynomial(s.buffer.offset(s.index)) for s in ir.statements(body) if isinstance(s, ir.Store)}
    for e in _all_expressions(body):
        for load in ir.walk(e):
            if not isinstance(load, ir.Load) or load.buffer.root not in stored or not uses(load, outer, inner):
                continue
            if polynomial(load.buffer.offset(load.index)) != stored[load.buffer.root]:
                return False
    return True


def _rewrite(body: ir.Body, mapping: dict[ir.Var, ir.Expr]) -> ir.Body:
    """``body`` after merging: what the old variables indexed is addressed by its offset."""

    def place(buffer: ir.Buffer, index: tuple[ir.Expr, ...]) -> tuple[ir.Buffer, tuple[ir.Expr, ...]]:
        if not any(uses(i, *mapping) for i in index):
            return buffer, index
        size, at = ir.ONE, ir.ZERO
        for extent, stride, i in zip(buffer.shape, buffer.strides, index, strict=True):
            size, at = ir.mul(size, extent), ir.add(at, ir.mul(i, stride))
        flat = buffer if len(buffer.shape) == 1 else buffer.view((size,))
        return flat, (ir.substitute(at, mapping),)

    def load(e: ir.Load) -> ir.Load:
        return ir.Load(*place(e.buffer, e.index))

    def statement(stmt: ir.Stmt) -> ir.Stmt:
        match stmt:
            case ir.Store(buffer, index, value):
                return ir.Store(*place(buffer, index), ir.map_loads(value, load))
            case ir.For():
                return replace(stmt, extent=ir.map_loads(stmt.extent, load), body=tuple(map(statement, stmt.body)))
            case ir.If(condition, then, orelse):
                return ir.If(ir.map_loads(condition, load), tuple(map(statement, then)), tuple(map(statement, orelse)))
            case ir.While(condition, inside):
                return ir.While(ir.map_loads(condition, load), tuple(map(statement, inside)))
            case ir.Let() | ir.Declare() | ir.Assign():
                return replace(stmt, value=ir.map_loads(stmt.value, load))
            case ir.Fail(condition, code, value):
                return ir.Fail(ir.map_loads(condition, load), code, ir.map_loads(value, load))
            case _:
                return stmt

    return tuple(map(statement, body))
