"""Runs any loop nest, scheduled or not, on NumPy arrays: the oracle for every schedule and for the code generator.

A schedule changes nothing here but the order: ``Tile`` and ``unroll`` mean what is inside them, a ``vector`` loop evaluates each statement
for all its iterations at once, a ``parallel`` loop runs in the order of its iterations or, with several workers, in a shuffled one.
What machine code would do silently is an error: an access outside of a buffer's shape, a load of memory that nothing stored to,
two parallel iterations that touch one element of an output, an output that is not stored in full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from . import loop_values as values
from . import loops as ir
from .dtypes import DType
from .errors import VerificationError
from .loop_memory import NOBODY, Memory
from .loop_values import Value

Evaluate = Callable[[], Value]
Run = Callable[[], None]


def run(
    nest: ir.LoopNest,
    buffers: Sequence[np.ndarray | None],
    params: Mapping[Any, int] | None = None,
    workers: int = 1,
    *,
    seed: int = 0,
) -> int:
    """Runs ``nest`` on flat arrays, one per buffer of the nest and in its order, which are changed in place; returns 0 or the error code.

    Parameters missing in ``params`` (by ``Param`` or by name) have their hints. Scratch is made here, one per worker; what is passed for it
    (None, or nothing at the end of the list) is not used. With ``workers`` > 1 the iterations of parallel loops are dealt to
    workers at random and run in a random order that ``seed`` decides.

    Raises ``VerificationError`` naming nest, buffer, index and shape where the nest is invalid.
    """
    machine = _Machine(nest, dict(params or {}), workers if nest.parallel else 1, np.random.default_rng(seed))
    machine.bind(buffers)
    with np.errstate(all="ignore"):
        try:
            machine.run()
        except _StopError as stop:
            return stop.code
    machine.check_outputs()
    return 0


class _StopError(Exception):
    """A ``Fail`` whose condition held."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class _Machine:
    """The state of a run, and the translation of a nest into closures over it."""

    nest: ir.LoopNest
    params: Mapping[Any, int]
    """By ``Param`` or by name."""
    workers: int
    random: np.random.Generator
    memory: dict[ir.Buffer, Memory] = field(default_factory=dict)
    variables: dict[ir.Var, Value] = field(default_factory=dict)
    lanes: int = 0
    """Iterations of the vector loop being run; 0 outside of one."""
    mask: np.ndarray | None = None
    """The lanes that are active; None for all."""
    task: int = NOBODY
    """Who runs: a number for each parallel iteration, a negative one for a worker outside of parallel loops."""
    memo: dict[ir.Expr, Value] = field(default_factory=dict)
    shared: dict[ir.Expr, Evaluate | None] = field(default_factory=dict)
    """The expressions that occur more than once in the statement being translated, with what evaluates them."""
    inner: set[ir.Var] | None = None
    """While a vector loop is translated: the scalars declared inside of it."""

    # --- set-up and the whole run ---------------------------------------------------------------------------------------------------

    def bind(self, buffers: Sequence[np.ndarray | None]) -> None:
        arguments = [b for b in self.nest.buffers if b.scope != "scratch"]
        arrays = dict(zip(self.nest.buffers, buffers, strict=False))
        if len(buffers) > len(self.nest.buffers):
            raise self.error(f"takes {len(self.nest.buffers)} buffers; {len(buffers)} were given")
        for buffer in arguments:
            array = arrays.get(buffer)
            if array is None:
                raise self.error(f"no array was given for {buffer.scope} {buffer.name!r}")
            self.memory[buffer] = self.argument(buffer, array)

    def argument(self, buffer: ir.Buffer, array: np.ndarray) -> Memory:
        memory = self.place(buffer)
        if array.ndim != 1 or not array.flags.c_contiguous or array.dtype.itemsize != memory.data.itemsize:
            raise self.error(
                f"buffer {buffer.name!r} takes a flat array of {buffer.dtype}, not {array.dtype}{list(array.shape)}"
            )
        if len(array) < memory.size:
            raise self.error(f"buffer {buffer.name!r} needs {memory.size} elements; the array has {len(array)}")
        memory.data = array.view(memory.data.dtype)
        if buffer.scope == "output":
            memory.written = np.zeros(len(array), np.bool_)
            memory.writers = np.full(len(array), NOBODY, np.int64) if self.nest.parallel else None
        return memory

    def private(self, buffer: ir.Buffer) -> Memory:
        """Scratch or registers with undefined content."""
        memory = self.place(buffer)
        memory.forget()
        return memory

    def place(self, buffer: ir.Buffer) -> Memory:
        """A buffer's shape and strides, without elements."""
        shape, strides = (tuple(int(self.once(e)()) for e in axes) for axes in (buffer.shape, buffer.strides))
        start = 0 if buffer.start is None else int(self.once(buffer.start)())
        return Memory(self.nest.name, buffer, shape, strides, start, np.empty(0, values.storage(buffer.dtype)))

    def run(self) -> None:
        """Workers one after the other, in a random order: each runs the whole body, with its share of every parallel loop."""
        scratch = [b for b in self.nest.buffers if b.scope == "scratch"]
        owners: dict[int, np.ndarray] = {}
        for worker in self.random.permutation(self.workers).tolist():
            self.variables = {ir.WORKER: worker}
            self.memory = {b: memory for b, memory in self.memory.items() if b.scope != "scratch"}
            self.memory.update((b, self.private(b)) for b in scratch)
            for stmt in self.nest.body:
                self.task = -1 - worker
                if isinstance(stmt, ir.For) and stmt.kind == "parallel":
                    self.parallel(stmt, worker, owners)
                else:
                    self.statement(stmt)()

    def parallel(self, loop: ir.For, worker: int, owners: dict[int, np.ndarray]) -> None:
        """A worker's iterations of a parallel loop and of those perfectly nested in it. Equally many tasks are dealt alike."""
        chain = parallel_chain(loop)
        extents = [int(self.once(inner.extent)()) for inner in chain]
        tasks = prod(extents)
        if tasks not in owners:
            owners[tasks] = self.random.integers(self.workers, size=tasks) if self.workers > 1 else np.zeros(tasks, np.int64)
        mine = np.flatnonzero(owners[tasks] == worker)
        if self.workers > 1:
            self.random.shuffle(mine)
        body = self.body(chain[-1].body)
        for task in mine.tolist():
            self.task = (tasks << 32) + task + 1
            indices = np.unravel_index(task, extents)
            self.variables.update((inner.var, int(i)) for inner, i in zip(chain, indices, strict=True))
            body()

    def check_outputs(self) -> None:
        for memory in self.memory.values():
            if memory.buffer.scope == "output" and memory.buffer.base is None:
                memory.check_complete()

    def error(self, problem: str) -> VerificationError:
        return VerificationError(f"nest {self.nest.name!r}: {problem}")

    # --- statements -----------------------------------------------------------------------------------------------------------------

    def body(self, body: ir.Body) -> Run:
        runs = [self.statement(stmt) for stmt in body]
        if len(runs) == 1:
            return runs[0]

        def execute() -> None:
            for step in runs:
                step()

        return execute

    def statement(self, stmt: ir.Stmt) -> Run:
        if ir.children(stmt):
            return self.translate(stmt)
        self.shared = _shared(ir.expressions(stmt))
        run, memo = self.translate(stmt), self.memo
        if not self.shared:
            return run

        def fresh() -> None:
            memo.clear()
            run()

        return fresh

    def translate(self, stmt: ir.Stmt) -> Run:
        match stmt:
            case ir.For():
                return self.loop(stmt)
            case ir.While(condition, body):
                return self.while_(condition, body)
            case ir.If(condition, then, orelse):
                return self.if_(self.once(condition), self.body(then), self.body(orelse))
            case ir.Let(var, value) | ir.Declare(var, value):
                if isinstance(stmt, ir.Declare) and self.inner is not None:
                    self.inner.add(var)
                return self.define(var, self.expression(value))
            case ir.Assign(var, value):
                return self.assign(var, value)
            case ir.Store(buffer, index, value):
                return self.store(buffer, self.index(buffer, index), self.expression(value))
            case ir.Fail(condition, code, _):
                return self.fail(self.expression(condition), code)
            case ir.Alloc(buffer):
                return self.alloc(self.private(buffer))
            case ir.Prefetch():
                return lambda: None
            case ir.Tile(body):
                return self.body(body)
            case _:
                raise TypeError(type(stmt).__name__)

    def once(self, e: ir.Expr) -> Evaluate:
        """An expression that is evaluated with a memo of its own: a condition or an extent, around statements that have theirs."""
        self.shared = _shared((e,))
        evaluate, memo = self.expression(e), self.memo
        if not self.shared:
            return evaluate

        def fresh() -> Value:
            memo.clear()
            return evaluate()

        return fresh

    def loop(self, loop: ir.For) -> Run:
        var, extent = loop.var, self.once(loop.extent)
        if loop.kind == "vector" and self.inner is None:
            return self.vector_loop(loop, extent)
        body = self.body(loop.body)

        def execute() -> None:
            count = extent()
            if np.ndim(count):
                raise self.error(f"the extent of loop {var.name!r} differs between the iterations of the vector loop around it")
            for i in range(int(count)):
                self.variables[var] = i
                body()

        return execute

    def vector_loop(self, loop: ir.For, extent: Evaluate) -> Run:
        self.inner = set()
        body = self.body(loop.body)
        self.inner = None

        def execute() -> None:
            self.lanes = int(extent())
            if self.lanes:
                self.variables[loop.var] = np.arange(self.lanes)
                body()
            self.lanes = 0

        return execute

    def while_(self, condition: ir.Expr, body: ir.Body) -> Run:
        if self.inner is not None:
            raise self.error("a while loop stands inside a vector loop")
        holds, inside = self.once(condition), self.body(body)

        def execute() -> None:
            while holds():
                inside()

        return execute

    def if_(self, condition: Evaluate, then: Run, orelse: Run) -> Run:
        def execute() -> None:
            holds = condition()
            if not np.ndim(holds):
                (then if holds else orelse)()
                return
            for side, branch in ((holds, then), (~holds, orelse)):
                with self.masked(side) as any_active:
                    if any_active:
                        branch()

        return execute

    @contextmanager
    def masked(self, condition: np.ndarray) -> Generator[bool]:
        """Inside, only the lanes where ``condition`` holds are active; gives whether there are any."""
        outer = self.mask
        self.mask = condition if outer is None else condition & outer
        try:
            yield bool(self.mask.any())
        finally:
            self.mask = outer

    def define(self, var: ir.Var, value: Evaluate) -> Run:
        def execute() -> None:
            self.variables[var] = value()

        return execute

    def assign(self, var: ir.Var, value: ir.Expr) -> Run:
        if self.inner is not None and var not in self.inner:
            return self.reduce(var, value)
        evaluate = self.expression(value)

        def execute() -> None:
            new = evaluate()
            if var not in self.variables:
                raise self.error(f"{var.name!r} is assigned, but not declared")
            self.variables[var] = new if self.mask is None else np.where(self.mask, new, self.variables[var])

        return execute

    def reduce(self, var: ir.Var, value: ir.Expr) -> Run:
        """var = op(var, e) in a vector loop, for a scalar declared outside of it."""
        if not (isinstance(value, ir.Binary) and value.a is var and value.op in values.REDUCTIONS):
            raise self.error(f"a vector loop assigns the outer scalar {var.name!r} in a form that is not a reduction")
        term, fold, held = self.expression(value.b), values.REDUCTIONS[value.op], values.storage(var.dtype)

        def execute() -> None:
            lanes = np.broadcast_to(np.asarray(term(), held), (self.lanes,))
            active = lanes if self.mask is None else lanes[self.mask]
            start = np.asarray(self.variables[var], held)
            self.variables[var] = fold.reduce(np.concatenate([start[None], active]), dtype=held)

        return execute

    def alloc(self, memory: Memory) -> Run:
        def execute() -> None:
            memory.forget()
            self.memory[memory.buffer] = memory

        return execute

    def fail(self, condition: Evaluate, code: int) -> Run:
        def execute() -> None:
            holds = condition()
            if self.mask is not None:
                holds = holds & self.mask
            if np.any(holds):
                raise _StopError(code)

        return execute

    # --- memory ---------------------------------------------------------------------------------------------------------------------

    def live(self, buffer: ir.Buffer) -> Memory:
        memory = self.memory.get(buffer)
        if memory is None and buffer.base is not None:
            return self.seen_as(buffer)
        if memory is None:
            raise self.error(f"{buffer.scope} buffer {buffer.name!r} is used, but it is no argument and was not allocated")
        return memory

    def seen_as(self, buffer: ir.Buffer) -> Memory:
        """The memory of a buffer's base, with the buffer's own shape."""
        memory, base = self.place(buffer), self.live(buffer.root)
        memory.data, memory.written, memory.writers = base.data, base.written, base.writers
        if buffer.scope != "register":
            self.memory[buffer] = memory
        return memory

    def index(self, buffer: ir.Buffer, index: Sequence[ir.Expr]) -> list[Evaluate]:
        """Scratch that is indexed by the worker's number has one row here: it is private."""
        private = buffer.scope == "scratch" and index[:1] == (ir.WORKER,)
        return [self.expression(ir.ZERO if private and not axis else i) for axis, i in enumerate(index)]

    def load(self, buffer: ir.Buffer, index: list[Evaluate]) -> Evaluate:
        def evaluate() -> Value:
            found = self.live(buffer).read([i() for i in index], self.mask, self.task)
            return values.wrap_bits(found, buffer.dtype)

        return evaluate

    def store(self, buffer: ir.Buffer, index: list[Evaluate], value: Evaluate) -> Run:
        if buffer.scope == "input":
            raise self.error(f"stores into input {buffer.name!r}")

        def execute() -> None:
            new = value()
            self.live(buffer).write([i() for i in index], new, self.mask, self.task)

        return execute

    # --- expressions ----------------------------------------------------------------------------------------------------------------

    def expression(self, e: ir.Expr) -> Evaluate:
        if e not in self.shared:
            return self.compute(e)
        known = self.shared[e]
        if known is None:
            known = self.shared[e] = self.memoized(e, self.compute(e))
        return known

    def memoized(self, e: ir.Expr, evaluate: Evaluate) -> Evaluate:
        def once() -> Value:
            found = self.memo.get(e)
            if found is None:
                found = self.memo[e] = evaluate()
            return found

        return once

    def compute(self, e: ir.Expr) -> Evaluate:
        match e:
            case ir.Const(value, dtype):
                number = values.constant(value, dtype)
                return lambda: number
            case ir.Param(name, hint):
                number = int(self.params.get(e, self.params.get(name, hint)))
                return lambda: number
            case ir.Var():
                return self.variable(e)
            case ir.Load(buffer, index):
                return self.load(buffer, self.index(buffer, index))
            case ir.Unary(op, a):
                return self.apply(values.unary, op, a.dtype, self.expression(a))
            case ir.Binary(op, a, b):
                return self.apply(values.binary, op, a.dtype, self.expression(a), self.expression(b))
            case ir.Select(c, a, b):
                return _select(self.expression(c), self.expression(a), self.expression(b))
            case ir.Guarded(c, a, b):
                return self.guarded(self.expression(c), self.expression(a), self.expression(b))
            case ir.Cast(a, dtype, saturate):
                given = self.expression(a)
                return lambda: values.cast(given(), a.dtype, dtype, saturate)
            case ir.Bitcast(a, dtype):
                given = self.expression(a)
                return lambda: values.bitcast(given(), a.dtype, dtype)
            case _:
                raise TypeError(type(e).__name__)

    def variable(self, var: ir.Var) -> Evaluate:
        def evaluate() -> Value:
            try:
                return self.variables[var]
            except KeyError:
                raise self.error(f"variable {var.name!r} is used before it has a value") from None

        return evaluate

    def apply(
        self, table: Callable[[str, DType], Callable[..., Value]], op: str, dtype: DType, *operands: Evaluate
    ) -> Evaluate:
        try:
            function = table(op, dtype)
        except KeyError:
            raise self.error(f"there is no operation {op!r} on {dtype}") from None
        if values.is_narrow(dtype):
            raise self.error(f"{op!r} is computed on {dtype}, which must be cast to float32 first")
        if len(operands) == 1:
            (given,) = operands
            return lambda: function(given())
        first, second = operands
        return lambda: function(first(), second())

    def guarded(self, condition: Evaluate, a: Evaluate, b: Evaluate) -> Evaluate:
        def evaluate() -> Value:
            holds, fallback = condition(), b()
            if np.ndim(holds) == 0:
                return a() if holds else fallback
            outer, self.memo = self.memo, dict(self.memo)
            with self.masked(holds) as any_active:
                result = np.where(holds, a(), fallback) if any_active else fallback
            self.memo = outer
            return result

        return evaluate


def _select(condition: Evaluate, a: Evaluate, b: Evaluate) -> Evaluate:
    def evaluate() -> Value:
        holds, first, second = condition(), a(), b()
        if np.ndim(holds) == 0:
            return first if holds else second
        return np.where(holds, first, second)

    return evaluate


def parallel_chain(loop: ir.For) -> list[ir.For]:
    """A parallel loop and the parallel loops perfectly nested in it, whose iterations are dealt out together."""
    chain = [loop]
    while len(chain[-1].body) == 1:
        inner = chain[-1].body[0]
        if not (isinstance(inner, ir.For) and inner.kind == "parallel"):
            break
        chain.append(inner)
    return chain


def _shared(roots: Sequence[ir.Expr]) -> dict[ir.Expr, Evaluate | None]:
    """The compound expressions that occur more than once in ``roots``."""
    count: Counter[ir.Expr] = Counter()
    pending = list(roots)
    while pending:
        e = pending.pop()
        if ir.operands(e):
            count[e] += 1
            if count[e] == 1:
                pending.extend(ir.operands(e))
    return {e: None for e, n in count.items() if n > 1}
