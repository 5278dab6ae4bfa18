"""Operators that work on one line of a tensor at a time: softmax, normalizations, arg-extrema, cumulative sums.

A line is what remains of a tensor when all axes but some are fixed. Where the line's last axis is the one that memory follows, the
loops along it are vector loops; otherwise neighbouring lines are done together, one in each lane. A definition is written once, for both:

    with lines(b, x, (axis,)) as line:                     for n in parallel:
        m = line.reduce("m", "max", x)               ->        m = max over k in vector: x[n, k]
        with line.each() as k:                                 for k in vector:
            y.store(line.at(k), x(*line.at(k)) - m)                y[n, k] = x[n, k] - m
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from ...ir import loops as ir
from ...ir.dtypes import DType
from ..schedule.reduction import step_of
from .builder import Builder, neutral
from .context import Operand, Result

SHORT = 8
"""A line of fewer elements does not fill the vectors."""
LARGE = 1 << 18
"""Elements of a tensor that does not stay in the second-level cache."""
_FAR = 1 << 15
"""Elements of a line that does not stay there until it is computed with."""
_CACHED = 4096
"""Elements of scratch memory that lines which are done together may fill: they stay in the first-level cache."""

Index = tuple[ir.Expr, ...]


@dataclass(frozen=True)
class Kept:
    """Scratch memory that holds a value for each element of a line."""

    line: Line
    buffer: ir.Buffer

    def __call__(self, k: Index) -> ir.Expr:
        return ir.Load(self.buffer, self.line.own(k))

    def store(self, k: Index, value: ir.Expr) -> None:
        self.line.b.store(self.buffer, self.line.own(k), value)


@dataclass(frozen=True)
class Stored:
    """A result that holds a value for each element of a line, until it is stored over."""

    line: Line
    y: Result

    def __call__(self, k: Index) -> ir.Expr:
        return self.y.load(*self.line.at(k))

    def store(self, k: Index, value: ir.Expr) -> None:
        self.y.store(self.line.at(k), value)


@dataclass(frozen=True)
class Line:
    """``axes`` are the line's axes and ``extents`` theirs; ``fixed`` is the index of the line, with None along ``axes``. ``lane`` counts
    the lines that are done together, up to ``lanes``; it is None where lines are done one by one."""

    b: Builder
    axes: tuple[int, ...]
    extents: tuple[ir.Expr, ...]
    fixed: tuple[ir.Expr | None, ...]
    lane: ir.Expr | None = None
    lanes: int = 1

    @property
    def length(self) -> ir.Expr:
        """Elements of the line."""
        total: ir.Expr = ir.ONE
        for extent in self.extents:
            total = ir.mul(total, extent)
        return total

    def at(self, k: Sequence[ir.Operand]) -> Index:
        """The tensor's index of the line's element ``k``."""
        along = dict(zip(self.axes, k, strict=True))
        return tuple(ir.index(along[axis]) if i is None else i for axis, i in enumerate(self.fixed))

    def own(self, k: Index) -> Index:
        """The place of element ``k`` in scratch memory of the line's shape."""
        return k if self.lane is None else (*k, self.lane)

    @contextmanager
    def each(self, *, ordered: bool = False) -> Generator[Index]:
        """Loops over the line's elements; one element after the other where ``ordered``."""
        variables = [ir.ZERO if ir.is_const(e, 1) else ir.Var(f"k{i}", extent=e) for i, e in enumerate(self.extents)]
        loops = [v for v in variables if isinstance(v, ir.Var)]
        with self.b.collect() as inner:
            yield tuple(variables)
        body: ir.Body = tuple(inner)
        for i, var in reversed(list(enumerate(loops))):
            assert var.extent is not None
            vector = i == len(loops) - 1 and self.lane is None and not ordered
            body = (ir.For(var, var.extent, body, "vector" if vector else "serial"),)
        for stmt in body:
            self.b.emit(stmt)

    def reduce(
        self,
        name: str,
        op: str,
        term: Callable[[Index], ir.Expr],
        *,
        keep: Kept | Stored | None = None,
        first: ir.Expr | None = None,
    ) -> ir.Expr:
        """The ``op``-reduction of ``term`` over the line, from ``first`` or the neutral element; the terms stay in ``keep``."""
        with self.b.collect() as body, self.each() as k:
            value = term(k)
            if keep is not None:
                value = self.b.let(f"{name}_term", value)
                keep.store(k, value)
            total = ir.Var(name, value.dtype)
            self.b.assign(total, ir.Binary(op, total, value))
        self.b.emit(ir.Declare(total, first if first is not None else neutral(op, value.dtype)))
        for stmt in body:
            self.b.emit(stmt)
        return total

    def ahead(self, x: Operand, k: Index) -> None:
        """In a loop that computes for longer than it reads: asks for element ``k`` of the next line, which memory brings meanwhile."""
        others = [axis for axis, i in enumerate(self.fixed) if isinstance(i, ir.Var)]
        short = prod(x.sizes) < LARGE or prod(x.sizes[axis] for axis in self.axes) > _FAR
        if short or not others or self.lane is not None or not isinstance(k[-1], ir.Var):
            return
        at = list(self.at(k))
        at[others[-1]] = at[others[-1]] + 1
        for load in ir.walk(x(*at)):
            if isinstance(load, ir.Load) and step_of(load, k[-1]) == 1:
                self.b.emit(ir.Prefetch(load.buffer, load.index))

    def keep(self, name: str, dtype: DType) -> Kept:
        """Scratch memory for a value for each element."""
        return Kept(self, self.b.scratch(name, dtype, self.extents if self.lane is None else (*self.extents, self.lanes)))

    def stored(self, y: Result) -> Stored:
        """The memory of a result, whose elements are stored a second time."""
        return Stored(self, y)

    def reader(self, x: Operand) -> tuple[Callable[[Index], ir.Expr], Kept | None]:
        """What reads ``x`` when it is read more than once, and where the first reduction has to keep it: what is computed on the way in is
        computed once."""
        if x.buffer is not None:
            return (lambda k: x(*self.at(k))), None
        kept = self.keep("x", x.dtype)
        return kept, kept


@contextmanager
def lines(b: Builder, x: Operand, axes: Sequence[int]) -> Generator[Line]:
    """Loops over all lines along ``axes`` of a tensor of the shape of ``x``: parallel, and vectors of lines that do not follow memory."""
    moving = [axis for axis in range(x.rank) if x.sizes[axis] != 1]
    others = [axis for axis in moving if axis not in axes]
    length = prod(x.sizes[axis] for axis in axes)
    along = not others or (moving[-1] in axes and (length >= SHORT or x.sizes[others[-1]] < SHORT))
    fixed: list[ir.Expr | None] = [None if axis in axes else ir.ZERO for axis in range(x.rank)]
    extents = tuple(x.shape[axis] for axis in axes)
    outer = others if along else others[:-1]
    variables = [ir.Var(f"i{axis}", extent=x.shape[axis]) for axis in outer]
    for axis, var in zip(outer, variables, strict=True):
        fixed[axis] = var
    with b.collect() as body:
        if along:
            yield Line(b, tuple(axes), extents, tuple(fixed))
        else:
            last = others[-1]
            together = _together(length)
            block = ir.Var("block", extent=(x.shape[last] + (together - 1)) // together)
            variables.append(block)
            start = block * together
            with b.loop("lane", ir.minimum(ir.Const(together), x.shape[last] - start), "vector") as lane:
                fixed[last] = start + lane
                yield Line(b, tuple(axes), extents, tuple(fixed), lane, together)
    nest: ir.Body = tuple(body)
    for var in reversed(variables):
        assert var.extent is not None
        nest = (ir.For(var, var.extent, nest, "parallel"),)
    for stmt in nest:
        b.emit(stmt)


def _together(length: int) -> int:
    """Lines that are done together: whole cache lines, and not more than the cache holds."""
    count = 16
    while count < 256 and count * 2 * length <= _CACHED:
        count *= 2
    return count


def aligned(x: Operand, index: Sequence[ir.Expr]) -> ir.Expr:
    """The element of a broadcast operand at an index of the whole."""
    own = index[len(index) - x.rank :]
    return x(*(ir.ZERO if size == 1 else i for i, size in zip(own, x.sizes, strict=True)))
