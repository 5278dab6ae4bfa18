"""Statements of the loop IR (loops, stores, scalars, conditions) and the nest that is a kernel.

A ``Tile`` marks the region that is emitted as LLVM vector code; what surrounds it becomes Numba source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .loop_expressions import Buffer, Expr, Var

LoopKind = Literal["serial", "parallel", "vector", "unroll"]


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
