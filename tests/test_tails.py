"""The last iterations of a vector loop, fewer than a vector: done twice where that changes nothing, one by one elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from loopnest.codegen.tails import repeatable
from loopnest.ir import loops as ir
from loopnest.ir.loops import Assign, Const, Declare, For, LoopNest, Store, Var
from tests.kernels import compiled, interpreted, source_of
from tests.nests import F32, buffer

SIZES = [1, 3, 7, 8, 9, 15, 16, 17, 31, 40, 41, 63, 65, 71]


def extent(n: int, *, constant: bool) -> ir.Expr:
    return Const(n) if constant else ir.Param("n", n)


def doubled(n: ir.Expr, inplace: bool = False) -> LoopNest:
    """y = x + x"""
    x, y, i = buffer("x", "input", n), buffer("y", "output", n), Var("i", extent=n)
    body = (For(i, n, (Store(y, (i,), x(i) + x(i)),), "vector"),)
    return LoopNest("doubled", (x, y), body, inplace=(("x", "y"),) if inplace else ())


def squares(n: ir.Expr) -> LoopNest:
    """y[i] = x[i] ** 2, and y[n] their sum"""
    x, y, i = buffer("x", "input", n), buffer("y", "output", n + 1), Var("i", extent=n)
    total = Var("total", F32)
    square = x(i) * x(i)
    body = (Store(y, (i,), square), Assign(total, total + square))
    return LoopNest("squares", (x, y), (Declare(total, Const(0.0, F32)), For(i, n, body, "vector"), Store(y, (n,), total)))


def powers(n: ir.Expr, times: ir.Expr) -> LoopNest:
    """y = x ** (times + 1), factor by factor: what has a loop inside is done in halves of a vector where there are fewer than a vector"""
    x, y, i, k = buffer("x", "input", n), buffer("y", "output", n), Var("i", extent=n), Var("k", extent=times)
    product = Var("product", F32)
    inner = For(k, times, (Assign(product, product * x(i)),), "serial")
    body = (For(i, n, (Declare(product, x(i)), inner, Store(y, (i,), product)), "vector"),)
    return LoopNest("powers", (x, y), body)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("n", range(1, 10))
def test_loops_inside(n: int, constant: bool) -> None:
    source = source_of(powers(extent(n, constant=constant), ir.Param("times", 3)))
    x = np.arange(1, n + 1, dtype=np.float32)
    for run in (compiled, interpreted):
        y = np.zeros(n, np.float32)
        extents = np.array([0, *(p.hint for p in source.params)], np.int64)
        assert run(source, [x, y], extents) == 0
        assert y.tolist() == (x**4).tolist()


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_elements(n: int, constant: bool) -> None:
    source = source_of(doubled(extent(n, constant=constant)))
    x, y = np.arange(n, dtype=np.float32), np.zeros(n, np.float32)
    assert compiled(source, [x, y], np.array([0, n], np.int64)) == 0
    assert y.tolist() == (x + x).tolist()


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_in_place(n: int, constant: bool) -> None:
    source = source_of(doubled(extent(n, constant=constant), inplace=True))
    x = np.arange(n, dtype=np.float32)
    expected = (x + x).tolist()
    assert compiled(source, [x, x], np.array([0, n], np.int64)) == 0
    assert x.tolist() == expected


@pytest.mark.parametrize("n", SIZES)
def test_reduced(n: int) -> None:
    source = source_of(squares(extent(n, constant=False)))
    x = np.arange(n, dtype=np.float32) % 5
    expected = [*(x * x).tolist(), float((x * x).sum())]
    for run in (compiled, interpreted):
        y = np.zeros(n + 1, np.float32)
        extents = np.array([0, *(p.hint for p in source.params)], np.int64)
        assert run(source, [x, y], extents) == 0
        assert y.tolist() == expected


def test_what_is_stored_and_loaded_is_not_done_twice() -> None:
    n = Const(9)
    x, y, i = buffer("x", "input", n), buffer("y", "output", n), Var("i", extent=n)
    once = (Store(y, (i,), x(i)),)
    again = (Store(y, (i,), y(i) + x(i)),)
    seen = (Store(y.view((Const(3), Const(3))), (i // 3, i % 3), y(i)),)
    assert repeatable(once, frozenset())
    assert not repeatable(once, frozenset({"x", "y"}))
    assert not repeatable(again, frozenset())
    assert not repeatable(seen, frozenset())
