"""Building loop nests: statements in the order they are written, loops and conditions as ``with`` blocks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType


@dataclass
class Builder:
    """Collects the body, the scratch buffers and the error messages of one nest.

    >>> b = Builder()
    >>> with b.loop("i", ir.Const(4), "parallel") as i:
    ...     total = b.reduce("total", "add", ir.Const(8), lambda k: x(i, k))
    ...     b.store(y, (i,), total)
    """

    body: list[ir.Stmt] = field(default_factory=list)
    scratches: list[ir.Buffer] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def emit(self, stmt: ir.Stmt) -> None:
        self.body.append(stmt)

    @contextmanager
    def collect(self) -> Generator[list[ir.Stmt]]:
        """The statements emitted inside, apart."""
        outer, self.body = self.body, []
        inner = self.body
        try:
            yield inner
        finally:
            self.body = outer

    @contextmanager
    def loop(self, name: str, extent: ir.Operand, kind: ir.LoopKind = "serial") -> Generator[ir.Var]:
        """``for name in range(extent)``. Kinds: "parallel" only outermost (nested directly, or alone), "vector" only innermost, with
        independent iterations or reductions into scalars of the form x = op(x, e); "unroll" and "serial" anywhere."""
        bound = ir.index(extent)
        var = ir.Var(name, extent=bound)
        with self.collect() as inner:
            yield var
        self.emit(ir.For(var, bound, tuple(inner), kind))

    @contextmanager
    def loops(self, stem: str, extents: Sequence[ir.Operand], kind: ir.LoopKind = "serial") -> Generator[tuple[ir.Var, ...]]:
        """Perfectly nested loops, the first outermost."""
        variables = tuple(ir.Var(f"{stem}{i}", extent=ir.index(e)) for i, e in enumerate(extents))
        with self.collect() as inner:
            yield variables
        body = tuple(inner)
        for var in reversed(variables):
            assert var.extent is not None
            body = (ir.For(var, var.extent, body, kind),)
        for stmt in body:
            self.emit(stmt)

    @contextmanager
    def nested(self, variables: Sequence[ir.Var]) -> Generator[None]:
        """Serial loops over variables that are there already, the first outermost."""
        with self.collect() as inner:
            yield
        body = tuple(inner)
        for var in reversed(variables):
            assert var.extent is not None
            body = (ir.For(var, var.extent, body, "serial"),)
        self.body.extend(body)

    @contextmanager
    def vector_loops(self, stem: str, extents: Sequence[ir.Operand]) -> Generator[tuple[ir.Var, ...]]:
        """Perfectly nested loops, the innermost one a vector loop."""
        with self.loops(stem, extents[:-1]) as outer, self.loop(f"{stem}{len(extents) - 1}", extents[-1], "vector") as last:
            yield (*outer, last)

    @contextmanager
    def when(self, condition: ir.Expr) -> Generator[None]:
        with self.collect() as inner:
            yield
        self.emit(ir.If(condition, tuple(inner)))

    @contextmanager
    def otherwise(self) -> Generator[None]:
        """The other branch of the ``when`` just closed."""
        last = self.body[-1]
        assert isinstance(last, ir.If) and not last.orelse
        with self.collect() as inner:
            yield
        self.body[-1] = ir.If(last.condition, last.then, tuple(inner))

    @contextmanager
    def repeat_while(self, condition: ir.Expr) -> Generator[None]:
        with self.collect() as inner:
            yield
        self.emit(ir.While(condition, tuple(inner)))

    def let(self, name: str, value: ir.Expr) -> ir.Expr:
        """A name for a value, computed once; constants and variables stay what they are. Of a narrow float in float32, the narrow one gets
        the name, so that storing it again converts nothing."""
        if isinstance(value, ir.Const | ir.Param | ir.Var):
            return value
        if isinstance(value, ir.Cast) and value.dtype is dtypes.float32 and value.a.dtype.is_float and value.a.dtype.bits < 32:
            return ir.Cast(self.let(name, value.a), value.dtype)
        var = ir.Var(name, value.dtype)
        self.emit(ir.Let(var, value))
        return var

    def scalar(self, name: str, value: ir.Expr) -> ir.Var:
        """A mutable scalar."""
        var = ir.Var(name, value.dtype)
        self.emit(ir.Declare(var, value))
        return var

    def assign(self, var: ir.Var, value: ir.Expr) -> None:
        self.emit(ir.Assign(var, value))

    def store(self, buffer: ir.Buffer, index: Sequence[ir.Operand], value: ir.Expr) -> None:
        self.emit(ir.Store(buffer, tuple(ir.index(i) for i in index), value))

    def fail_if(self, condition: ir.Expr, message: str, value: ir.Expr) -> None:
        """Stops the kernel with ``message``, in which ``{value}`` stands for the offending value."""
        if message not in self.errors:
            self.errors.append(message)
        if not (isinstance(condition, ir.Const) and not condition.value):
            self.emit(ir.Fail(condition, self.errors.index(message) + 1, value))

    def scratch(self, name: str, dtype: DType, shape: Sequence[ir.Operand]) -> ir.Buffer:
        """Memory private to each worker, undefined at first, the same for all its iterations."""
        extents = tuple(ir.index(e) for e in shape)
        buffer = ir.Buffer(name, dtype, extents, ir.contiguous(extents), "scratch")
        self.scratches.append(buffer)
        return buffer

    def registers(self, name: str, dtype: DType, shape: Sequence[int]) -> ir.Buffer:
        """Vector registers: indexed by what is constant after unrolling, and a vector loop's variable on the last axis."""
        extents = tuple(ir.Const(e) for e in shape)
        buffer = ir.Buffer(name, dtype, extents, ir.contiguous(extents), "register")
        self.emit(ir.Alloc(buffer))
        return buffer

    def reduce(
        self, name: str, op: str, extent: ir.Operand, term: Callable[[ir.Var], ir.Expr], first: ir.Expr | None = None
    ) -> ir.Var:
        """A scalar ``op``-reduction ("add", "mul", "min", "max", "and", "or") of ``term(k)`` for k < extent, vectorized; ``first`` or the
        neutral element is what it starts from."""
        with self.collect() as inner:
            k = ir.Var(f"{name}_k", extent=ir.index(extent))
            value = term(k)
        total = self.scalar(name, first if first is not None else neutral(op, value.dtype))
        inner.append(ir.Assign(total, ir.Binary(op, total, value)))
        self.emit(ir.For(k, ir.index(extent), tuple(inner), "vector"))
        return total


def neutral(op: str, dtype: DType) -> ir.Const:
    """The neutral element of a reduction."""
    if op in ("add", "or", "xor"):
        return ir.Const(False if dtype.kind == "bool" else 0.0 if dtype.is_float else 0, dtype)
    if op in ("mul", "and"):
        if op == "and" and dtype.is_integer:
            return ir.Const(-1, dtype)
        return ir.Const(True if dtype.kind == "bool" else 1.0 if dtype.is_float else 1, dtype)
    return lowest(dtype) if op in ("max", "max_fast") else highest(dtype)


def lowest(dtype: DType) -> ir.Const:
    """-inf, or the lowest integer."""
    if dtype.is_float:
        return ir.Const(float("-inf"), dtype)
    return ir.Const(False if dtype.kind == "bool" else -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0, dtype)


def highest(dtype: DType) -> ir.Const:
    """inf, or the highest integer."""
    if dtype.is_float:
        return ir.Const(float("inf"), dtype)
    if dtype.kind == "bool":
        return ir.Const(True, dtype)
    return ir.Const((1 << (dtype.bits - (dtype.kind == "int"))) - 1, dtype)
