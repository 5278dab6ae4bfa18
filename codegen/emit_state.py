"""What the parts of the emitter share: the function being written, the vector loop being emitted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..ir import loops as ir
from . import arith
from . import llvm as ll
from .arith import I64
from .bodies import Bodies
from .numbering import Builder
from .target import Target


@dataclass
class Lanes:
    """The vector loop being emitted: iterations base, base + 1, ..., base + count - 1 of ``var``, those in ``mask`` being active.
    Those not in ``fresh`` are done a second time, and do not count in reductions."""

    var: ir.Var
    base: ll.Value
    count: int
    mask: ll.Value | None = None
    fresh: ll.Value | None = None


@dataclass
class Linear:
    """An index as base + step * lane; ``step`` None means that it is not of that form."""

    base: ll.Value
    step: ll.Value | None


@dataclass
class State(ABC):
    """``buffers`` maps arguments to pointers, ``places`` parameters to their places in ``extents``, ``values`` those that are used, and
    variables, to scalars (or vectors, inside a vector loop)."""

    builder: Builder
    target: Target
    extents: ll.Value
    buffers: Mapping[ir.Buffer, ll.Value]
    places: Mapping[ir.Param, int]
    values: dict[ir.Expr, ll.Value] = field(default_factory=dict)
    linear: dict[ir.Var, Linear] = field(default_factory=dict)
    cells: dict[ir.Var, ll.Cell] = field(default_factory=dict)
    registers: dict[tuple[ir.Buffer, tuple[int, ...]], ll.Cell] = field(default_factory=dict)
    reductions: dict[ir.Var, ll.Cell] = field(default_factory=dict)
    lanes: Lanes | None = None
    memo: dict[ir.Expr, ll.Value] = field(default_factory=dict)
    varying_memo: dict[ir.Expr, bool] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    """Names of buffers that may be the same memory."""
    long_loops: int = 0
    """Loops so far that LLVM is not to unroll."""
    bodies: Bodies = field(default_factory=Bodies)
    preloaded: dict[ir.Expr, ll.Value] = field(default_factory=dict)
    """Loads whose vectors are there already: see ``transpose``."""

    @abstractmethod
    def value(self, e: ir.Expr) -> ll.Value:
        """``e`` as an LLVM value: a vector where it varies between lanes."""

    @abstractmethod
    def varying(self, e: ir.Expr) -> bool:
        """Whether ``e`` differs between the lanes."""

    @abstractmethod
    def linear_form(self, e: ir.Expr) -> Linear:
        """An index expression as base + step * lane."""

    @contextmanager
    def masked(self, condition: ll.Value) -> Generator[ll.Value]:
        assert self.lanes is not None
        outer = self.lanes.mask
        self.lanes.mask = condition if outer is None else self.builder.and_(outer, condition)
        try:
            yield self.lanes.mask
        finally:
            self.lanes.mask = outer

    def any(self, mask: ll.Value) -> ll.Value:
        return arith.any_lane(self.builder, mask)

    def iota(self) -> ll.Value:
        assert self.lanes is not None
        return ll.Constant(ll.VectorType(I64, self.lanes.count), [I64(i) for i in range(self.lanes.count)])

    def stack(self, type_: ll.Type, name: str) -> ll.Cell:
        """A stack cell, made in the entry block, that LLVM promotes to a register."""
        return self.builder.alloca(type_, name)


def number(value: ll.Value | None) -> int | None:
    """The number that an integer constant is; None for any other value."""
    if isinstance(value, ll.Constant) and isinstance(value.type, ll.IntType) and isinstance(value.constant, int):
        return value.constant
    return None


def is_zero(value: ll.Value | None) -> bool:
    return number(value) == 0


def is_one(value: ll.Value | None) -> bool:
    return number(value) == 1
