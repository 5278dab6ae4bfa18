"""A nest's identity: every value that only the plan knows becomes one numbered parameter, so that equal text means equal machine code.

An expression of parameters and constants alone (a stride H * W * 8, say) is the plan's work, not the kernel's: it becomes one parameter
whose value is passed in the extents array.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from . import loops as ir


@dataclass(frozen=True)
class Canonical:
    """``nest`` with its parameters in the order of ``params``; their values in the plan at hand are ``values``."""

    nest: ir.LoopNest
    params: tuple[ir.Param, ...]

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(p.hint for p in self.params)


def canonicalize(nest: ir.LoopNest) -> Canonical:
    """Replaces each maximal expression of parameters by a parameter of its own; equal expressions share one."""
    rewriter = _Rewriter()
    buffers = tuple(rewriter.buffer(b) for b in nest.buffers)
    body = rewriter.body(nest.body)
    return Canonical(replace(nest, buffers=buffers, body=body), tuple(rewriter.params.values()))


@dataclass
class _Rewriter:
    params: dict[object, ir.Param] = field(default_factory=dict)
    buffers: dict[ir.Buffer, ir.Buffer] = field(default_factory=dict)
    names: ir.Names = field(default_factory=ir.Names)

    def buffer(self, b: ir.Buffer) -> ir.Buffer:
        known = self.buffers.get(b)
        if known is None:
            shape, strides = tuple(map(self.expr, b.shape)), tuple(map(self.expr, b.strides))
            base = None if b.base is None else self.buffer(b.base)
            start = None if b.start is None else self.expr(b.start)
            known = self.buffers[b] = replace(b, shape=shape, strides=strides, base=base, start=start)
        return known

    def expr(self, e: ir.Expr) -> ir.Expr:
        if isinstance(e, ir.Const | ir.Var):
            return e
        key = _key(e)
        if key is not None:
            known = self.params.get(key)
            if known is None:
                stem = e.name if isinstance(e, ir.Param) else "p"
                known = self.params[key] = ir.Param(self.names(stem), ir.hint(e))
            return known
        match e:
            case ir.Load(buffer, index):
                return ir.Load(self.buffer(buffer), tuple(map(self.expr, index)))
            case ir.Unary(op, a):
                return ir.Unary(op, self.expr(a))
            case ir.Binary(op, a, b):
                return ir.Binary(op, self.expr(a), self.expr(b))
            case ir.Select(c, a, b):
                return ir.Select(self.expr(c), self.expr(a), self.expr(b))
            case ir.Guarded(c, a, b):
                return ir.Guarded(self.expr(c), self.expr(a), self.expr(b))
            case ir.Cast(a, dtype, saturate):
                return ir.Cast(self.expr(a), dtype, saturate)
            case ir.Bitcast(a, dtype):
                return ir.Bitcast(self.expr(a), dtype)
            case _:
                return e

    def body(self, body: ir.Body) -> ir.Body:
        return tuple(self.statement(s) for s in body)

    def statement(self, stmt: ir.Stmt) -> ir.Stmt:
        match stmt:
            case ir.For():
                return replace(stmt, extent=self.expr(stmt.extent), body=self.body(stmt.body))
            case ir.While():
                return ir.While(self.expr(stmt.condition), self.body(stmt.body))
            case ir.If():
                return ir.If(self.expr(stmt.condition), self.body(stmt.then), self.body(stmt.orelse))
            case ir.Let() | ir.Declare() | ir.Assign():
                return replace(stmt, value=self.expr(stmt.value))
            case ir.Store(buffer, index, value):
                return ir.Store(self.buffer(buffer), tuple(map(self.expr, index)), self.expr(value))
            case ir.Prefetch(buffer, index):
                return replace(stmt, buffer=self.buffer(buffer), index=tuple(map(self.expr, index)))
            case ir.Fail(condition, code, value):
                return ir.Fail(self.expr(condition), code, self.expr(value))
            case ir.Alloc(buffer):
                return ir.Alloc(self.buffer(buffer))
            case ir.Tile(body):
                return ir.Tile(self.body(body))
            case _:
                raise TypeError(type(stmt).__name__)


def _key(e: ir.Expr) -> object:
    """A value equal for equal expressions of parameters and constants; None for any other expression."""
    match e:
        case ir.Const():
            return e.value if e.dtype is ir.INDEX else None
        case ir.Param():
            return (e.name, e.hint, id(e))
        case ir.Binary(op, a, b) if op in ("add", "sub", "mul", "floordiv", "mod", "min", "max"):
            left = _key(a)
            right = None if left is None else _key(b)
            return None if right is None else (op, left, right)
        case _:
            return None
