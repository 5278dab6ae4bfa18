"""Attention as one operator, which ``passes.attention`` makes of two matrix products with a softmax between them:

    y = softmax(score(q @ k)) @ v

Inputs: 0 q [..., M, D], 1 k [..., D, N], 2 v [..., N, E], 3 rows of zeros (bool [..., M, 1], optional), then the operands of the score's
steps, each broadcast to [..., M, N]. Batch axes broadcast; the last of them, the heads, may be a multiple of those of k and v: each
of these then serves a group of neighbouring heads of q.

Attributes: ``steps``, what happens to a score, in order, as "Operator:position of the score among the operator's inputs"; ``causal``:
query i sees keys 0 to i + causal only; ``zero_nan``: probabilities that are NaN are 0; ``perm``: the axes of y, transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir import loops as ir
from ...ir.graph import Node, TensorType
from ..schedule.attention import lower_attention
from .builder import Builder
from .context import Op
from .infer import Attributes, InferContext, broadcast_shapes
from .registry import lookup, nest

ARITY = {"Add": 2, "Sub": 2, "Mul": 2, "Div": 2, "Where": 3, "Tanh": 1}
"""The operators that a step can be, with the number of their inputs."""
FIRST_OPERAND = 4


@dataclass(frozen=True)
class Step:
    """One operator of the score: ``position`` is that of the score among its inputs, ``operands`` are the numbers of the others."""

    op: str
    position: int
    operands: tuple[int, ...]

    def __call__(self, score: ir.Expr, read: Callable[[int], ir.Expr]) -> ir.Expr:
        """The score after this step; ``read`` gives the element of an operand."""
        definition = lookup("", self.op)
        assert definition is not None
        values = [read(number) for number in self.operands]
        values.insert(self.position, score)
        return definition.define(Attributes(Node(self.op, (), ())), *values)


def steps_of(attributes: Attributes) -> list[Step]:
    """The steps of a node's score."""
    found: list[Step] = []
    number = FIRST_OPERAND
    for text in attributes.attr("steps", ()):
        op, position = text.split(":")
        count = ARITY[op] - 1
        found.append(Step(op, int(position), tuple(range(number, number + count))))
        number += count
    return found


def infer_attention(context: InferContext) -> TensorType:
    """[..., M, E], transposed by ``perm``."""
    q, k, v = (context.shape(i) for i in range(3))
    if min(len(q), len(k), len(v)) < 2 or q[-1] != k[-2] or k[-1] != v[-2]:
        raise context.fail(f"operands of shapes {q}, {k} and {v} do not fit together")
    shape = (*batch_shape(context, q, k, v), q[-2], v[-1])
    perm: Sequence[int] = context.attr("perm", range(len(shape)))
    return TensorType(context.dtype(0), tuple(shape[axis] for axis in perm))


def batch_shape(context: Attributes, q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> tuple[int, ...]:
    """The batch axes of the result; heads of k and v that serve several heads of q count as those."""
    batches = [tuple(shape[:-2]) for shape in (q, k, v)]
    heads = max((batch[-1] for batch in batches if batch), default=1)
    grouped = [(*batch[:-1], heads) if batch and heads % max(1, batch[-1]) == 0 else batch for batch in batches]
    return broadcast_shapes(context, *grouped)


@nest("Attention", domain="loopnest", infer=infer_attention, moves=True)
def attention(op: Op, b: Builder) -> None:
    """y[..., i, e] = sum_j softmax_j(score(sum_d q[..., i, d] * k[..., d, j])) * v[..., j, e]"""
    lower_attention(op, b, steps_of(op))
