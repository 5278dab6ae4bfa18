"""A nest's identity: every value that only the plan knows becomes one numbered parameter, so that equal text means equal machine code.

An expression of parameters and constants alone (a stride H * W * 8, say) is the plan's work, not the kernel's: it becomes one parameter
whose value is passed in the extents array.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from . import loops as ir
from .loop_names import Names


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
    body = ir.map_expressions(nest.body, rewriter.expr, rewriter.buffer)
    return Canonical(replace(nest, buffers=buffers, body=body), tuple(rewriter.params.values()))


@dataclass
class _Rewriter:
    params: dict[object, ir.Param] = field(default_factory=dict)
    buffers: dict[ir.Buffer, ir.Buffer] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    made: dict[ir.Expr, ir.Expr] = field(default_factory=dict[ir.Expr, ir.Expr])
    """What was made of each expression: what is one object in several places stays one."""

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
        found = self.made.get(e)
        if found is None:
            found = self.made[e] = self.rewritten(e)
        return found

    def rewritten(self, e: ir.Expr) -> ir.Expr:
        key = _key(e)
        if key is not None:
            known = self.params.get(key)
            if known is None:
                stem = e.name if isinstance(e, ir.Param) else "p"
                known = self.params[key] = ir.Param(self.names(stem), ir.hint(e))
            return known
        if isinstance(e, ir.Load):
            return ir.Load(self.buffer(e.buffer), tuple(map(self.expr, e.index)))
        return ir.rebuild(e, self.expr)


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
