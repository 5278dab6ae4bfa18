"""Expressions of a nest as closures over the state of a run: NumPy scalars, or arrays over the lanes of a vector loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import loop_values as values
from . import loops as ir
from .dtypes import DType
from .errors import VerificationError
from .loop_memory import NOBODY, Memory
from .loop_values import Value

Evaluate = Callable[[], Value]


@dataclass
class Evaluator:
    """The state of a run, and the translation of expressions into closures over it."""

    nest: ir.LoopNest
    params: Mapping[Any, int]
    """By ``Param`` or by name."""
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

    def error(self, problem: str) -> VerificationError:
        return VerificationError(f"nest {self.nest.name!r}: {problem}")

    # --- memory ---------------------------------------------------------------------------------------------------------------------

    def place(self, buffer: ir.Buffer) -> Memory:
        """A buffer's shape and strides, without elements."""
        shape, strides = (tuple(int(self.once(e)()) for e in axes) for axes in (buffer.shape, buffer.strides))
        start = 0 if buffer.start is None else int(self.once(buffer.start)())
        return Memory(self.nest.name, buffer, shape, strides, start, np.empty(0, values.storage(buffer.dtype)))

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

    def load(self, buffer: ir.Buffer, index: list[Evaluate]) -> Evaluate:
        def evaluate() -> Value:
            found = self.live(buffer).read([i() for i in index], self.mask, self.task)
            return values.wrap_bits(found, buffer.dtype)

        return evaluate

    # --- expressions ----------------------------------------------------------------------------------------------------------------

    def once(self, e: ir.Expr) -> Evaluate:
        """An expression that is evaluated with a memo of its own: a condition or an extent, around statements that have theirs."""
        self.shared = shared_among((e,))
        evaluate, memo = self.expression(e), self.memo
        if not self.shared:
            return evaluate

        def fresh() -> Value:
            memo.clear()
            return evaluate()

        return fresh

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
                return self.load(buffer, [self.expression(i) for i in index])
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

    @contextmanager
    def masked(self, condition: np.ndarray) -> Generator[bool]:
        """Inside, only the lanes where ``condition`` holds are active; gives whether there are any."""
        outer = self.mask
        self.mask = condition if outer is None else condition & outer
        try:
            yield bool(self.mask.any())
        finally:
            self.mask = outer


def _select(condition: Evaluate, a: Evaluate, b: Evaluate) -> Evaluate:
    def evaluate() -> Value:
        holds, first, second = condition(), a(), b()
        if np.ndim(holds) == 0:
            return first if holds else second
        return np.where(holds, first, second)

    return evaluate


def shared_among(roots: Sequence[ir.Expr]) -> dict[ir.Expr, Evaluate | None]:
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
