"""Facts about the bodies of loops that decide how they are emitted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..ir import loops as ir

_FAR = 1 << 20
"""What counts as the value of a parameter: that of the plan at hand is not to decide how a kernel is emitted."""


@dataclass
class Bodies:
    """Loops and copies of their iterations; what is known of a loop is known of its copies."""

    _widths: dict[ir.For, tuple[int, int]] = field(default_factory=dict[ir.For, tuple[int, int]])
    """Of the widest vector register that a loop uses, and of the widest element in memory; 0 where there is none."""

    def at(self, loop: ir.For, value: ir.Expr) -> ir.Body:
        """The body of one iteration."""
        mapping, made = {loop.var: value}, dict[ir.Expr, ir.Expr]()
        body = ir.map_expressions(loop.body, lambda e: ir.substitute(e, mapping, made))
        for stmt, copy in zip(ir.statements(loop.body), ir.statements(body), strict=True):
            if isinstance(stmt, ir.For) and isinstance(copy, ir.For):
                self._widths[copy] = self._widths_of(stmt)
        return body

    def width(self, loop: ir.For) -> int:
        """The width by which lanes of a loop are counted: of the vector registers in use, on which loops must agree, else of the widest
        element."""
        registers, memory = self._widths_of(loop)
        return registers or memory or 32

    def _widths_of(self, loop: ir.For) -> tuple[int, int]:
        found = self._widths.get(loop)
        if found is None:
            found = self._widths[loop] = _largest(map(self._widths_in, loop.body))
        return found

    def _widths_in(self, stmt: ir.Stmt) -> tuple[int, int]:
        own = max((b.dtype.bits for b in registers_of(stmt)), default=0), max(memory_bits_of(stmt), default=0)
        if isinstance(stmt, ir.For):
            return _largest((own, self._widths_of(stmt)))
        return _largest((own, *(self._widths_in(inner) for body in ir.children(stmt) for inner in body)))


def _largest(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The largest first and the largest second number; 0 where there are none."""
    first = second = 0
    for a, b in pairs:
        first, second = max(first, a), max(second, b)
    return first, second


def constant_extent(loop: ir.For) -> int:
    if not isinstance(loop.extent, ir.Const):
        raise ValueError(f"loop {loop.var.name!r} is unrolled, but its extent is not constant")
    return int(loop.extent.value)  # type: ignore[arg-type]


def memory_bits(body: ir.Body) -> list[int]:
    """The widths of all elements that ``body`` loads or stores (loads inside index expressions left out), and of its scalars."""
    return [bits for stmt in ir.statements(body) for bits in memory_bits_of(stmt)] or [32]


def memory_bits_of(stmt: ir.Stmt) -> Iterator[int]:
    """Those of one statement, without what is inside it."""
    if isinstance(stmt, ir.Store | ir.Declare | ir.Assign):
        yield (stmt.buffer if isinstance(stmt, ir.Store) else stmt.var).dtype.itemsize * 8
    if isinstance(stmt, ir.Store | ir.Declare | ir.Assign | ir.Let):
        yield from loaded_bits(stmt.value)


def loaded_bits(e: ir.Expr) -> Iterator[int]:
    if isinstance(e, ir.Load):
        yield e.buffer.dtype.itemsize * 8
        return
    if isinstance(e, ir.Cast):
        yield e.dtype.itemsize * 8
    for child in ir.operands(e):
        yield from loaded_bits(child)


def narrowest(body: ir.Body) -> int:
    return min(memory_bits(body))


def has_registers(body: ir.Body) -> bool:
    return any(True for stmt in ir.statements(body) for _ in registers_of(stmt))


def registers_of(stmt: ir.Stmt) -> Iterator[ir.Buffer]:
    """The register buffers that a statement itself, not one inside it, loads from or stores to."""
    if isinstance(stmt, ir.Store) and stmt.buffer.scope == "register":
        yield stmt.buffer
    for e in ir.expressions(stmt):
        for x in ir.walk(e):
            if isinstance(x, ir.Load) and x.buffer.scope == "register":
                yield x.buffer


def accumulators(body: ir.Body, lanes: int) -> int:
    """The vectors in registers that ``body`` stores to in one go, loops that are not unrolled counted as one iteration."""
    total = 0
    for stmt in body:
        match stmt:
            case ir.Store(buffer):
                total += buffer.scope == "register"
            case ir.For(_, extent, inner, kind):
                count = int(extent.value) if kind in ("unroll", "vector") and isinstance(extent, ir.Const) else 1  # type: ignore[arg-type]
                total += accumulators(inner, lanes) * (-(-count // lanes) if kind == "vector" else count)
            case _:
                pass
    return total


def overlap(loop: ir.For, times: int, lanes: int) -> bool:
    """Whether some of ``times`` iterations in a row may load what others of them load too, as the taps of neighbouring windows do."""
    statements = list(ir.statements(loop.body))
    inner = [stmt for stmt in statements if isinstance(stmt, ir.For) and isinstance(stmt.extent, ir.Const)]
    loads = {e for stmt in statements for top in ir.expressions(stmt) for e in ir.walk(top) if isinstance(e, ir.Load)}
    return any(_overlap(load, loop, inner, times, lanes) for load in loads if load.buffer.scope != "register")


def _overlap(load: ir.Load, loop: ir.For, inner: Iterable[ir.For], times: int, lanes: int) -> bool:
    """The same of one load, in the loops ``inner`` of an iteration."""
    offset = load.buffer.offset(load.index)
    if not any(x is loop.var for x in ir.walk(offset)):
        return False
    starts = {0}
    try:
        for stmt in inner:
            each = range(0, constant_extent(stmt), lanes if stmt.kind == "vector" else 1)
            moves = {_at(offset, stmt.var, i) for i in each} if any(x is stmt.var for x in ir.walk(offset)) else {0}
            starts = {start + move for start in starts for move in moves}
        steps = [_at(offset, loop.var, i) for i in range(times)]
        return len({start + step for start in starts for step in steps}) < times * len(starts)
    except ValueError:
        return True


def _at(e: ir.Expr, var: ir.Var, value: int) -> int:
    """An index where ``var`` has a value and all other variables are 0. Raises ``ValueError`` where memory decides."""
    match e:
        case ir.Var():
            return value if e is var else 0
        case ir.Param():
            return _FAR
        case ir.Binary(op, a, b):
            return ir.hint(ir.binary(op, ir.Const(_at(a, var, value)), ir.Const(_at(b, var, value))))
        case _:
            return ir.hint(e)


_SIMPLE = frozenset({"neg", "not", "abs", "isnan", "isinf", "sqrt"})
"""Functions of an instruction or two."""


def computes(body: ir.Body) -> bool:
    """Whether ``body`` calls functions of many instructions: one iteration hides the latency of adding to a total."""
    tops = (e for stmt in ir.statements(body) for e in ir.expressions(stmt))
    return any(isinstance(x, ir.Unary) and x.op not in _SIMPLE for e in tops for x in ir.walk(e))


def reduced(loop: ir.For) -> dict[ir.Var, str]:
    """The scalars declared outside of ``loop`` that it reduces into, with the operation."""
    inside = {s.var for s in ir.statements(loop.body) if isinstance(s, ir.Declare)}
    found: dict[ir.Var, str] = {}
    for stmt in ir.statements(loop.body):
        if isinstance(stmt, ir.Assign) and stmt.var not in inside:
            if not (isinstance(stmt.value, ir.Binary) and stmt.value.a is stmt.var):
                raise ValueError(f"vector loop {loop.var.name!r} assigns {stmt.var.name!r} in a form that is not a reduction")
            found[stmt.var] = stmt.value.op
    return found
