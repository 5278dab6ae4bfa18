"""Index arithmetic that is simplified while it is built says the same as the arithmetic that was asked for."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from loopnest.ir import dtypes
from loopnest.ir import loops as ir
from loopnest.ir.canonical import canonicalize

OPERATORS = {"add": operator.add, "mul": operator.mul, "floordiv": operator.floordiv, "mod": operator.mod}


def value(e: ir.Expr, variables: Mapping[ir.Var, int]) -> int:
    match e:
        case ir.Const():
            return int(e.value)
        case ir.Var():
            return variables[e]
        case ir.Binary():
            return OPERATORS[e.op](value(e.a, variables), value(e.b, variables))
        case _:
            raise AssertionError(e)


def var(name: str, extent: int) -> ir.Var:
    return ir.Var(name, extent=ir.Const(extent))


small = st.integers(1, 6)
factor = st.sampled_from((1, 2, 3, 4, 6, 8, 12, 16, 24))


@given(st.lists(st.tuples(small, factor), min_size=1, max_size=3), st.integers(-20, 20), factor, factor)
def test_quotients_and_remainders_are_exact(terms: list[tuple[int, int]], offset: int, divisor: int, scale: int) -> None:
    """(sum of variable * factor + offset) // divisor and % divisor, and one more division of what comes out."""
    variables = [var(f"i{n}", extent) for n, (extent, _) in enumerate(terms)]
    whole = ir.Const(offset)
    for v, (_, f) in zip(variables, terms, strict=True):
        whole = whole + v * f
    quotient, rest = whole // divisor, whole % divisor
    again = (quotient * scale + variables[0]) // 8
    for numbers in itertools.product(*(range(extent) for extent, _ in terms)):
        at = dict(zip(variables, numbers, strict=True))
        plain = offset + sum(n * f for n, (_, f) in zip(numbers, terms, strict=True))
        assert value(quotient, at) == plain // divisor
        assert value(rest, at) == plain % divisor
        assert value(again, at) == (plain // divisor * scale + numbers[0]) // 8


def test_a_division_that_lanes_do_not_change_loses_them() -> None:
    block, lane = var("co", 5), var("v", 8)
    half = ir.floordiv(block * 8 + lane, ir.Const(16))
    assert isinstance(half, ir.Binary)
    assert (half.op, half.a) == ("floordiv", block)
    assert ir.is_const(half.b, 2)
    assert ir.floordiv(block * 8 + lane, ir.Const(8)) is block
    assert lane in ir.walk(ir.floordiv(block * 8 + lane, ir.Const(4)))
    assert lane in ir.walk(ir.floordiv(block * 8 + lane + 1, ir.Const(16)))


def test_what_is_one_expression_in_several_places_stays_one() -> None:
    x = ir.Buffer("x", dtypes.float32, (ir.Param("n", 64),), (ir.ONE,), "input")
    lane, row = var("v", 8), var("r", 4)
    total = x(row * 8 + lane) + x(lane)
    relu = ir.select(total < 0.0, ir.Const(0.0, dtypes.float32), total)
    kept = ir.substitute(relu, {var("q", 2): ir.ZERO})
    assert kept is relu
    new = ir.substitute(relu, {row: ir.Const(3)})
    assert isinstance(new, ir.Select) and isinstance(new.condition, ir.Binary) and isinstance(new.b, ir.Binary)
    assert new.condition.a is new.b
    assert isinstance(total, ir.Binary) and new.b.b is total.b
    store = ir.Store(x, (lane,), relu)
    loop = ir.For(row, ir.Const(4), (ir.For(lane, ir.Const(8), (store,), "vector"),))
    nest = canonicalize(ir.LoopNest("relu", (x,), (loop,))).nest
    (same,) = (stmt.value for stmt in ir.statements(nest.body) if isinstance(stmt, ir.Store))
    assert isinstance(same, ir.Select) and isinstance(same.condition, ir.Binary) and same.condition.a is same.b
