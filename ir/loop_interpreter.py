"""Runs any loop nest, scheduled or not, on NumPy arrays: the oracle for every schedule and for the code generator.

A schedule changes nothing here but the order: ``Tile`` and ``unroll`` mean what is inside them, a ``vector`` loop evaluates each statement
for all its iterations at once, a ``parallel`` loop runs in the order of its iterations or, with several workers, in a shuffled one.
What machine code would do silently is an error: an access outside of a buffer's shape, a load of memory that nothing stored to,
two parallel iterations that touch one element of an output, an output that is not stored in full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from . import loop_values as values
from . import loops as ir
from .loop_evaluator import Evaluate, Evaluator, shared_among
from .loop_memory import NOBODY, Memory

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
    random = np.random.default_rng(seed)
    machine = _Machine(nest, dict(params or {}), workers=workers if nest.parallel else 1, random=random)
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
class _Machine(Evaluator):
    """A run: the translation of statements into closures, and what workers do with them."""

    workers: int = 1
    random: np.random.Generator = field(default_factory=np.random.default_rng)
    inner: set[ir.Var] | None = None
    """While a vector loop is translated: the scalars declared inside of it."""

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

    def run(self) -> None:
        """Workers one after the other, in a random order: each runs the whole body, with its share of every parallel loop."""
        scratch = [b for b in self.nest.buffers if b.scope == "scratch"]
        owners: dict[int, np.ndarray] = {}
        for worker in self.random.permutation(self.workers).tolist():
            self.variables = {}
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
        chain = ir.parallel_chain(loop)
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
        self.shared = shared_among(ir.expressions(stmt))
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
                return self.store(buffer, [self.expression(i) for i in index], self.expression(value))
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

    def store(self, buffer: ir.Buffer, index: list[Evaluate], value: Evaluate) -> Run:
        if buffer.scope == "input":
            raise self.error(f"stores into input {buffer.name!r}")

        def execute() -> None:
            new = value()
            self.live(buffer).write([i() for i in index], new, self.mask, self.task)

        return execute
