"""Images whose channels are scaled on the way into a sum of products (squeeze and excite): the weights are scaled instead.

    sum_i (x[i, p] * s[i]) * w[i, c]     =>     sum_i x[i, p] * (s[i] * w[i, c])

There are far fewer weights than products; a task scales the ones it reads once, into scratch memory, part by part of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...ir import loops as ir
from ..ops.context import Reduce

Define = Callable[..., Reduce]


def scale_of(term: ir.Expr, spatial: Sequence[ir.Var]) -> ir.Buffer | None:
    """The memory of ``s`` in a term ``(x * s) * w`` or ``(s * x) * w``, where ``x`` alone differs between the places of an image."""
    match term:
        case ir.Binary("mul", ir.Binary("mul", ir.Load() as x, ir.Load() as s), ir.Load()):
            moves = [any(e is var for e in ir.walk(load) for var in spatial) for load in (x, s)]
            return None if moves[0] == moves[1] else s.buffer if moves[0] else x.buffer
        case _:
            return None


def with_scaled_weights(define: Define, scale: ir.Buffer) -> Define:
    """``define`` with terms ``x * (s * w)``."""

    def regrouped(term: ir.Expr) -> ir.Expr:
        assert isinstance(term, ir.Binary) and isinstance(term.a, ir.Binary)
        x, s = term.a.a, term.a.b
        if isinstance(x, ir.Load) and x.buffer is scale:
            x, s = s, x
        return ir.Binary("mul", x, ir.Binary("mul", s, term.b))

    def apply(*place: ir.Expr) -> Reduce:
        reduce = define(*place)
        return replace(reduce, term=lambda *axes: regrouped(reduce.term(*axes)))

    return apply
