"""What both schedules of attention read and write: the elements of one head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from math import prod
from typing import Protocol

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType
from ..ops.context import Op
from .reduction import step_of

FEW = 4
"""Queries, at most, that are done one by one."""


LOG2_E = 1.4426950408889634


class Score(Protocol):
    """A step of the score (see ``ops.attention``)."""

    @property
    def op(self) -> str: ...

    @property
    def position(self) -> int: ...

    @property
    def operands(self) -> tuple[int, ...]: ...

    def __call__(self, score: ir.Expr, read: Callable[[int], ir.Expr]) -> ir.Expr: ...


class Heads:
    """The operands of ``op`` by query, key and feature, for the head that the variables of ``loops`` stand for."""

    def __init__(self, op: Op, steps: Sequence[Score]) -> None:
        self.op, self.steps = op, steps
        sizes, shape = op.out_sizes(), op.out_shape()
        self.perm: Sequence[int] = op.attr("perm", range(len(sizes)))
        order = sorted(range(len(sizes)), key=lambda axis: self.perm[axis])
        self.sizes = tuple(sizes[axis] for axis in order)
        extents = tuple(shape[axis] for axis in order)
        self.place = [
            ir.ZERO if size == 1 else ir.Var(f"h{axis}", extent=extent)
            for axis, (size, extent) in enumerate(zip(self.sizes[:-2], extents[:-2], strict=True))
        ]
        self.loops = [var for var in self.place if isinstance(var, ir.Var)]
        self.m, self.e = self.sizes[-2:]
        self.d, self.n = op.input(1).sizes[-2:]
        self.queries, self.keys = extents[-2], op.input(1).shape[-1]
        self.causal: int | None = op.attr("causal")
        self.dtype = op.input(0).dtype
        self.factor = 1.0
        self.base2 = False

    def scale_queries(self) -> None:
        """Takes the factors that products are multiplied by first to the queries (``factor``), and with them log2(e), where the other steps
        only add or select: probabilities are powers of 2 then (``base2``)."""
        factors = list(takewhile(bool, map(self._factor, self.steps)))
        self.steps = self.steps[len(factors) :]
        self.base2 = all(step.op in ("Add", "Sub", "Where") for step in self.steps)
        self.factor = prod(factors) * (LOG2_E if self.base2 else 1.0)

    def _factor(self, step: Score) -> float:
        """The number that a step multiplies by; 0 where it does something else."""
        number = self.operand(step.operands[0], ir.ZERO, ir.ZERO) if step.op in ("Mul", "Div") else None
        if not isinstance(number, ir.Const) or isinstance(number.value, complex) or (step.op == "Div" and step.position):
            return 0.0
        value = float(number.value)
        if not 1e-6 < abs(value) < 1e6:
            return 0.0
        return value if step.op == "Mul" else 1.0 / value

    def by_rows(self) -> bool:
        """Whether there are too few queries to fill the lanes, and the features of k and v are neighbours in memory."""
        d, e = ir.Var("d", extent=ir.Const(self.d)), ir.Var("e", extent=ir.Const(self.e))
        walks = _walks(self.k(d, ir.ZERO), d) and _walks(self.v(ir.ZERO, e), e)
        return self.m <= FEW and walks

    def converted(self, number: int) -> bool:
        """Whether elements of an input are computed with in another type than they have in memory."""
        return self.op.input(number).element is not self.dtype

    def scattered(self, number: int) -> bool:
        """Whether keys (1) or values (2) are not neighbours in memory, as where heads lie side by side, but their features are."""
        j, c = ir.Var("j", extent=self.keys), ir.Var("c", extent=ir.Const(self.d if number == 1 else self.e))
        element = self.k(c, j) if number == 1 else self.v(j, c)
        return _walks(element, c) and not _walks(element, j, self.d if number == 1 else self.e)

    # --- elements --------------------------------------------------------------------------------------------------------------

    def q(self, i: ir.Expr, d: ir.Expr) -> ir.Expr:
        return self._element(0, i, d)

    def k(self, d: ir.Expr, j: ir.Expr) -> ir.Expr:
        return self._element(1, d, j)

    def v(self, j: ir.Expr, e: ir.Expr) -> ir.Expr:
        return self._element(2, j, e)

    def _element(self, number: int, row: ir.Expr, column: ir.Expr) -> ir.Expr:
        """An element of a matrix of this head. A head of k and v may serve a group of them."""
        x = self.op.input(number)
        count = x.rank - 2
        own: list[ir.Expr] = []
        for i, size, mine in zip(_last(self.place, count), x.sizes, _last(self.sizes[:-2], count), strict=False):
            own.append(ir.ZERO if size == 1 else i if size == mine else i // (mine // size))
        return x(*own, row, column)

    def operand(self, number: int, i: ir.Expr, j: ir.Expr) -> ir.Expr:
        """What a step reads for query ``i`` and key ``j``."""
        x = self.op.input(number)
        index = _last([*self.place, i, j], x.rank)
        return x(*(ir.ZERO if size == 1 else at for at, size in zip(index, x.sizes, strict=True)))

    def by_query(self) -> list[int]:
        """The steps' operands that differ from query to query."""
        numbers = [number for step in self.steps for number in step.operands]
        return [n for n in numbers if self.op.input(n).rank > 1 and self.op.input(n).sizes[-2] > 1]

    def by_key(self) -> list[int]:
        """Numbers among the steps' operands that are the same for all queries, and are to be brought to the unit of the scores."""
        numbers = [number for step in self.steps for number in step.operands if self.op.input(number).dtype.is_float]
        alike = [n for n in numbers if n not in self.by_query()]
        return [n for n in alike if self.base2 and not isinstance(self.operand(n, ir.ZERO, ir.ZERO), ir.Const)]

    def as_number(self, value: ir.Expr) -> ir.Expr:
        """A truth value as 1 or 0, so that it can be kept with numbers."""
        return ir.select(value, ir.Const(1.0, self.dtype), 0.0) if value.dtype is dtypes.bool_ else value

    def as_operand(self, number: int, value: ir.Expr) -> ir.Expr:
        """The inverse of ``as_number``."""
        return value.ne(0.0) if self.op.input(number).element is dtypes.bool_ else value

    def as_score(self, value: ir.Expr) -> ir.Expr:
        """What a step adds or selects, in the unit of the scores. What would overflow is that large in either unit."""
        if not self.base2 or not value.dtype.is_float:
            return value
        most = 1e38 if self.dtype is not dtypes.float64 else 1e308
        if isinstance(value, ir.Const) and not isinstance(value.value, complex):
            number = float(value.value)
            return ir.Const(number * LOG2_E if abs(number) < most else number, value.dtype)
        return ir.select(ir.unary("abs", value) < most, value * LOG2_E, value)

    def power(self, score: ir.Expr) -> ir.Expr:
        """The exponential of a score that is at most 0."""
        return ir.unary("exp2_down" if self.base2 else "exp_down", score)

    def score(self, total: ir.Expr, read: Callable[[int], ir.Expr]) -> ir.Expr:
        """The score of a product of query and key."""
        for step in self.steps:
            total = step(total, read)
        return total

    def inverse(self, total: ir.Expr, i: ir.Expr) -> ir.Expr:
        """What the sum of query ``i`` is divided by, as a factor; 0 where its probabilities are 0."""
        factor = 1.0 / total
        if self.op.attr("zero_nan", 0):
            factor = ir.select(total > 0.0, factor, 0.0)
        if self.op.has(3):
            factor = ir.select(self.operand(3, i, ir.ZERO), ir.Const(0.0, self.dtype), factor)
        return factor

    def store(self, i: ir.Expr, e: ir.Expr, value: ir.Expr) -> None:
        index = [*self.place, i, e]
        self.op.output(0).store([index[axis] for axis in self.perm], value)


def lowest(dtype: DType) -> ir.Const:
    """The lowest number: unlike -inf it can be subtracted from -inf."""
    return ir.Const(-1.7976931348623157e308 if dtype is dtypes.float64 else -3.4028234663852886e38, dtype)


def _last(values: Sequence[ir.Expr] | Sequence[int], count: int) -> list:
    return list(values)[len(values) - count :]


def _walks(e: ir.Expr, var: ir.Var, step: int = 1) -> bool:
    """Whether an element moves by ``step`` in memory when ``var`` grows by one."""
    return any(isinstance(x, ir.Load) and step_of(x, var) == step for x in ir.walk(e))
