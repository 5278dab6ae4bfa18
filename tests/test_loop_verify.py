"""The verifier of loop nests: what it proves, what it refuses and what it leaves undecided."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from loopnest.ir import dtypes
from loopnest.ir import loops as ir
from loopnest.ir.dtypes import DType
from loopnest.ir.errors import VerificationError
from loopnest.ir.loop_ranges import Ranges
from loopnest.ir.loop_verify import verify
from loopnest.ir.loops import Assign, Const, Declare, Fail, For, If, Let, LoopNest, Param, Store, Tile, Var, While
from tests import nests

EXTENTS = [1, 7, 8, 9, 15, 16, 17, 31, 33]
ZERO = nests.const(0.0)


def _undecided(nest: LoopNest) -> str:
    return "; ".join(verify(nest).undecided)


def _copy(
    rows: int = 4, columns: int = 6, **kinds: ir.LoopKind
) -> tuple[ir.Buffer, ir.Buffer, Var, Var, Callable[..., LoopNest]]:
    """x and y of rows x columns, variables i and j over them, and what makes a nest of a body inside of their loops."""
    x, y = nests.buffer("x", "input", rows, columns), nests.buffer("y", "output", rows, columns)
    (i, n), (j, m) = nests.loop("i", rows), nests.loop("j", columns)

    def nest(*body: ir.Stmt) -> LoopNest:
        inner = For(j, m, body, kinds.get("j", "serial"))
        return LoopNest("copy", (x, y), (For(i, n, (inner,), kinds.get("i", "serial")),))

    return x, y, i, j, nest


# --- what is proved ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", EXTENTS)
def test_blocks_with_a_cut_last_one_stay_inside(n: int) -> None:
    for extent in (n, Param("n", n)):
        assert not verify(nests.elementwise(extent)).undecided


@pytest.mark.parametrize(
    "nest",
    [
        nests.row_sums(3, 17),
        nests.gemm(6, 16, 5),
        nests.gather(5, 9, 3),
        nests.gather(5, 9, 3, dtype=dtypes.int32),
        nests.pad(4, 2, 3),
        nests.positive_prefix(6),
        nests.lanes_of_two(9),
    ],
    ids=lambda nest: nest.name,
)
def test_valid_nests_are_proved(nest: LoopNest) -> None:
    assert not verify(nest).undecided


def test_clamped_indices_are_inside() -> None:
    x, indices, y = (
        nests.buffer("x", "input", 5),
        nests.buffer("k", "input", 9, dtype=dtypes.int64),
        nests.buffer("y", "output", 9),
    )
    i, n = nests.loop("i", 9)
    clamped = ir.minimum(ir.maximum(indices(i), ir.ZERO), Const(4))
    assert not verify(LoopNest("clamp", (x, indices, y), (For(i, n, (Store(y, (i,), x(clamped)),)),))).undecided


def test_a_condition_protects_the_statements_inside() -> None:
    x, y, i, j, nest = _copy()
    assert not verify(nest(If(i + 1 < 4, (Store(y, (i, j), x(i + 1, j)),), (Store(y, (i, j), ZERO),)))).undecided
    with pytest.raises(VerificationError, match="'x' of shape .* at 4"):
        verify(nest(Store(y, (i, j), x(i + 1, j))))


def test_fused_loops_are_taken_apart_by_quotient_and_remainder() -> None:
    x, y = nests.buffer("x", "input", 4, 6), nests.buffer("y", "output", 4, 6)
    k, n = nests.loop("k", 24)
    at = (k // Const(6), k % Const(6))
    assert not verify(LoopNest("fused", (x, y), (For(k, n, (Store(y, at, x(*at)),), "parallel"),))).undecided


@pytest.mark.parametrize("overlap", [False, True])
def test_parallel_blocks_must_not_overlap(overlap: bool) -> None:
    y = nests.buffer("y", "output", 40)
    (i, n), (j, m) = nests.loop("i", 4), nests.loop("j", 9 if overlap else 8)
    nest = LoopNest("blocks", (y,), (For(i, n, (For(j, m, (Store(y, (i * 8 + j,), ZERO),)),), "parallel"),))
    assert ("may store to one element of 'y'" in _undecided(nest)) is overlap


def test_a_best_index_stays_in_the_range_of_what_is_assigned() -> None:
    x, y, z = nests.buffer("x", "input", 7), nests.buffer("y", "output", 1), nests.buffer("z", "output", 7)
    best = Var("best")
    i, n = nests.loop("i", 7)
    better = ir.select(x(i) > x(best), i, best)
    body = (Declare(best, ir.ZERO), For(i, n, (Assign(best, better), Store(z, (i,), x(i)))), Store(y, (ir.ZERO,), x(best)))
    assert not verify(LoopNest("argmax", (x, y, z), body)).undecided


def test_views_share_memory_with_another_shape() -> None:
    x, y, i, j, nest = _copy(i="parallel")
    flat = y.view((Const(24),))
    assert not verify(nest(Store(flat, (i * 6 + j,), x(i, j)))).undecided
    with pytest.raises(VerificationError, match="seen as 25 elements"):
        verify(nest(Store(y.view((Const(25),)), (i * 6 + j,), x(i, j))))


def test_empty_loops_access_nothing() -> None:
    x, y = nests.buffer("x", "input", Param("n", 0)), nests.buffer("y", "output", Param("n", 0))
    i, n = nests.loop("i", Param("n", 0))
    assert not verify(LoopNest("empty", (x, y), (For(i, n, (Store(y, (i,), x(i)),)),))).undecided


def test_it_is_cheap() -> None:
    nest = nests.gemm(6, 16, 5)
    verify(nest)
    start = time.perf_counter()
    for _ in range(20):
        verify(nest)
    assert (time.perf_counter() - start) / 20 < 0.05


def test_shared_subexpressions_are_walked_once() -> None:
    x, y, i, j, nest = _copy()
    value = x(i, j)
    at = ir.Binary("min", j, j)
    for _ in range(60):
        value = value + value
        at = ir.Binary("min", at, at)
    assert not verify(nest(Store(y, (i, at), value))).undecided


# --- what is left undecided ----------------------------------------------------------------------------------------------------------


def test_an_unchecked_index_from_memory_is_undecided() -> None:
    assert "input 'x' of shape [5, 9] is loaded on axis 0" in _undecided(nests.gather(5, 9, 3, checked=False))


def test_a_store_at_an_index_from_memory_may_collide() -> None:
    indices, y = nests.buffer("k", "input", 5, dtype=dtypes.int64), nests.buffer("y", "output", 9)
    i, n = nests.loop("i", 5)
    at = ir.minimum(ir.maximum(indices(i), ir.ZERO), Const(8))
    nest = LoopNest("scatter", (indices, y), (For(i, n, (Store(y, (at,), ZERO),), "parallel"),))
    assert "iterations of parallel loop 'i' may store to one element of 'y'" in _undecided(nest)


# --- bounds ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", EXTENTS)
def test_a_shifted_load_is_out_of_bounds(n: int) -> None:
    with pytest.raises(
        VerificationError, match=rf"nest 'elementwise': .*store to 'y': input 'x' of shape \[{n}\] is loaded .* at {n}"
    ):
        verify(nests.elementwise(n, shift=1))


def test_select_does_not_protect_a_load() -> None:
    with pytest.raises(VerificationError, match="vector loop 'i', store to 'y': input 'x'.*out of bounds"):
        verify(nests.pad(4, 2, 3, guard=False))


def test_a_constant_index_out_of_bounds() -> None:
    y = nests.buffer("y", "output", 3)
    with pytest.raises(VerificationError, match=r"output 'y' of shape \[3\] is stored on axis 0 at -1"):
        verify(LoopNest("negative", (y,), (Store(y, (Const(-1),), ZERO),)))


# --- races -----------------------------------------------------------------------------------------------------------------------------


def test_a_store_that_does_not_depend_on_the_parallel_variable_is_a_race() -> None:
    with pytest.raises(
        VerificationError, match="race: every iteration of parallel loop 'i' stores to the same elements of 'y'"
    ):
        verify(nests.shared_element(4))


def test_the_second_of_two_parallel_loops_counts_too() -> None:
    x, y = nests.buffer("x", "input", 4, 6), nests.buffer("y", "output", 4)
    (i, n), (j, m) = nests.loop("i", 4), nests.loop("j", 6)
    body = For(i, n, (For(j, m, (Store(y, (i,), x(i, j)),), "parallel"),), "parallel")
    with pytest.raises(VerificationError, match="race: every iteration of parallel loop 'j'"):
        verify(LoopNest("rows", (x, y), (body,)))


def test_one_iteration_may_store_alone() -> None:
    x, y = nests.buffer("x", "input", 4), nests.buffer("y", "output", 1)
    i, n = nests.loop("i", 4)
    body = If(i.eq(0), (Store(y, (ir.ZERO,), x(i)),))
    assert not verify(LoopNest("first", (x, y), (For(i, n, (body,), "parallel"),))).undecided


def test_two_stores_of_neighbours_may_collide() -> None:
    y = nests.buffer("y", "output", 9)
    i, n = nests.loop("i", 8)
    body = (Store(y, (i,), ZERO), Store(y, (i + 1,), ZERO))
    assert "may store to one element" in _undecided(LoopNest("neighbours", (y,), (For(i, n, body, "parallel"),)))
    pairs = nests.buffer("y", "output", 16)
    body = (Store(pairs, (i * 2,), ZERO), Store(pairs, (i * 2 + 1,), ZERO))
    assert not verify(LoopNest("pairs", (pairs,), (For(i, n, body, "parallel"),))).undecided


def test_a_loop_of_one_iteration_does_not_matter() -> None:
    y = nests.buffer("y", "output", 4)
    (i, n), (j, m) = nests.loop("i", 4), nests.loop("j", 1)
    body = For(i, n, (For(j, m, (Store(y, (j + i,), ZERO),)),), "parallel")
    assert not verify(LoopNest("one", (y,), (body,))).undecided


def test_scratch_belongs_to_a_worker() -> None:
    s, y = nests.buffer("s", "scratch", 1), nests.buffer("y", "output", 4)
    i, n = nests.loop("i", 4)
    body = (Store(s, (ir.ZERO,), ZERO), Store(y, (i,), s(0)))
    assert not verify(LoopNest("scratch", (y, s), (For(i, n, body, "parallel"),))).undecided


def test_parallel_loops_stand_at_the_top() -> None:
    _, y, i, j, nest = _copy(j="parallel")
    with pytest.raises(VerificationError, match="parallel loop 'j' is not at the top"):
        verify(nest(Store(y, (i, j), ZERO)))


def test_beside_parallel_loops_only_tiles_that_store_no_output() -> None:
    y = nests.buffer("y", "output", 4)
    i, n = nests.loop("i", 4)
    loop = For(i, n, (Store(y, (i,), ZERO),), "parallel")
    first = Store(y, (ir.ZERO,), ZERO)
    with pytest.raises(VerificationError, match="store to 'y' stands beside a parallel loop"):
        verify(LoopNest("beside", (y,), (first, loop)))
    with pytest.raises(VerificationError, match="every worker stores to 'y'"):
        verify(LoopNest("beside", (y,), (Tile((first,)), loop)))


def test_parallel_extents_do_not_depend_on_each_other() -> None:
    y = nests.buffer("y", "output", 4, 4)
    i, n = nests.loop("i", 4)
    j, m = nests.loop("j", i + 1)
    with pytest.raises(VerificationError, match="extent of parallel loop 'j' depends on"):
        verify(LoopNest("triangle", (y,), (For(i, n, (For(j, m, (Store(y, (i, j), ZERO),), "parallel"),), "parallel"),)))


# --- vector loops ------------------------------------------------------------------------------------------------------------------------


def _vector(
    *body: ir.Stmt, before: tuple[ir.Stmt, ...] = (), i: tuple[Var, ir.Expr], buffers: tuple[ir.Buffer, ...]
) -> LoopNest:
    return LoopNest("vector", buffers, (*before, For(*i, body, "vector")))


def test_a_vector_loop_must_not_load_what_another_iteration_stored() -> None:
    y = nests.buffer("y", "output", 9)
    i, n = nests.loop("i", 8)
    with pytest.raises(
        VerificationError, match="an iteration of vector loop 'i' loads an element of 'y' that another one stores"
    ):
        verify(_vector(Store(y, (i + 1,), y(i)), i=(i, n), buffers=(y,)))
    assert not verify(_vector(Store(y, (i,), y(i)), i=(i, n), buffers=(y,))).undecided
    far = nests.buffer("y", "output", 16)
    assert not verify(_vector(Store(far, (i + 8,), far(i)), i=(i, n), buffers=(far,))).undecided


def test_a_vector_loop_must_not_accumulate_in_memory() -> None:
    x, y = nests.buffer("x", "input", 8), nests.buffer("y", "output", 1)
    i, n = nests.loop("i", 8)
    with pytest.raises(VerificationError, match="race: every iteration of vector loop 'i'"):
        verify(_vector(Store(y, (ir.ZERO,), y(0) + x(i)), i=(i, n), buffers=(x, y)))


def test_a_scalar_that_only_falls_may_wrap_around() -> None:
    x, y = (nests.buffer(name, scope, 1, dtype=dtypes.int32) for name, scope in (("x", "input"), ("y", "output")))
    total = Var("total", dtypes.int32)
    falling = Assign(total, ir.Binary("sub", total, ir.Binary("and", x(0), Const(7, dtypes.int32))))
    body = (Declare(total, Const(0, dtypes.int32)), falling, Store(y, (Const(0),), total))
    assert not verify(LoopNest("falling", (x, y), body)).undecided


def test_outer_scalars_change_in_a_vector_loop_by_reduction_only() -> None:
    x = nests.buffer("x", "input", 8)
    i, n = nests.loop("i", 8)
    total = Var("total", dtypes.float32)
    declare = Declare(total, ZERO)
    sums = Assign(total, total + x(i))
    assert not verify(_vector(sums, before=(declare,), i=(i, n), buffers=(x,))).undecided
    with pytest.raises(VerificationError, match="'total' is declared outside and assigned in a form that is not a reduction"):
        verify(_vector(Assign(total, x(i)), before=(declare,), i=(i, n), buffers=(x,)))
    with pytest.raises(VerificationError, match="'total' is reduced and read in one loop"):
        verify(_vector(sums, Let(Var("t", dtypes.float32), total), before=(declare,), i=(i, n), buffers=(x,)))


def test_no_while_in_a_vector_loop() -> None:
    x, y = nests.buffer("x", "input", 8), nests.buffer("y", "output", 8)
    i, n = nests.loop("i", 8)
    with pytest.raises(VerificationError, match="a while loop stands inside vector loop 'i'"):
        verify(_vector(While(x(i) > 0.0, (Store(y, (i,), ZERO),)), i=(i, n), buffers=(x, y)))


# --- scopes, dtypes, structure ------------------------------------------------------------------------------------------------------------


def _single(stmt: ir.Stmt, *buffers: ir.Buffer, **parts: tuple[str, ...]) -> LoopNest:
    return LoopNest("single", buffers, (stmt,), **parts)


X, Y = nests.buffer("x", "input", 3), nests.buffer("y", "output", 3)
HALF = nests.buffer("h", "input", 3, dtype=dtypes.float16)
LOOSE = Var("loose")
REGISTER = nests.buffer("acc", "register", 2)


@pytest.mark.parametrize(
    ("nest", "message"),
    [
        (_single(Store(Y, (LOOSE,), ZERO), Y), "variable 'loose' is used where it has no value"),
        (_single(If(X(0) > 0.0, (Let(LOOSE, ir.ONE),)), X), None),
        (LoopNest("scope", (Y,), (If(ir.TRUE, (Let(LOOSE, ir.ONE),)), Store(Y, (LOOSE,), ZERO))), "'loose' is used where"),
        (_single(Assign(LOOSE, ir.ONE)), "'loose' is assigned, but not declared"),
        (LoopNest("let", (), (Let(LOOSE, ir.ONE), Assign(LOOSE, ir.ONE))), "'loose' is assigned, but not declared"),
        (_single(Let(LOOSE, ZERO)), "'loose' is a int64 and gets a float32"),
        (_single(Store(Y, (ir.ZERO,), ir.ONE), Y), "stores a int64 into 'y', which holds float32"),
        (_single(Store(Y, (ZERO,), ZERO), Y), "'y' is indexed with a float32"),
        (_single(Store(Y, (ir.ZERO, ir.ZERO), ZERO), Y), "'y', of rank 1, is stored with 2 indices"),
        (_single(Store(Y, (ir.ZERO,), Y(0, 1)), Y), "'y', of rank 1, is loaded with 2 indices"),
        (_single(Store(X, (ir.ZERO,), ZERO), X), "stores into input 'x'"),
        (_single(Store(Y, (ir.ZERO,), ZERO), X), "output buffer 'y' is stored, but it is no argument"),
        (
            _single(Store(REGISTER, (ir.ZERO,), ZERO)),
            "register buffer 'acc' is stored, but it is no argument and not allocated",
        ),
        (_single(ir.Alloc(Y), Y), "output buffer 'y' is allocated"),
        (_single(Tile(()), REGISTER), "register buffer 'acc' is an argument"),
        (_single(Tile(()), X, nests.buffer("x", "output", 1)), "two buffers are called 'x'"),
        (_single(If(ir.ONE, ())), "the condition is a int64"),
        (_single(Let(LOOSE, ir.Select(ir.ONE, ir.ONE, ir.ONE))), "the condition is a int64"),
        (_single(Let(LOOSE, ir.Select(X(0) > 0.0, ir.ONE, ZERO)), X), "the sides of a select are int64 and float32"),
        (_single(Fail(X(0) > 0.0, 1, ir.ONE), X), "error code 1 has no message"),
        (_single(Fail(X(0) > 0.0, 1, ir.ONE), X, errors=("bad",)), None),
        (_single(Let(Var("h", dtypes.float16), HALF(0) + HALF(1)), HALF), "'add' is computed on float16"),
        (_single(Let(Var("b", dtypes.int8), ir.Bitcast(X(0), dtypes.int8)), X), "the bits of a float32 are read as int8"),
        (_single(Tile(()), X, Y, inplace=(("y", "x"),)), "the in-place pair"),
        (_single(For(LOOSE, Param("n", 3), (), "unroll")), "loop 'loose' is unrolled, but its extent is not constant"),
        (_single(For(LOOSE, ir.ONE, (For(LOOSE, ir.ONE, ()),))), "loop variable 'loose' is that of a loop around it"),
        (_single(For(Var("i", dtypes.int32), ir.ONE, ())), "loop 'i' counts in int32"),
    ],
)
def test_structure(nest: LoopNest, message: str | None) -> None:
    if message is None:
        assert not verify(nest).undecided
        return
    with pytest.raises(VerificationError, match=message):
        verify(nest)


# --- intervals ----------------------------------------------------------------------------------------------------------------------------


def _in_loop(extent: int) -> tuple[Ranges, Var]:
    ranges, (i, n) = Ranges(), nests.loop("i", extent)
    ranges.enter(For(i, n, ()))
    return ranges, i


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda i: i * 3 - 4, (-4, 23)),
        (lambda i: ir.sub(i * 2, i), (0, 9)),
        (lambda i: ir.Binary("floordiv", i - 1, Const(4)), (-1, 2)),
        (lambda i: ir.Binary("mod", i + 10, Const(16)), (0, 15)),
        (lambda i: ir.Binary("mod", i + 16, Const(32)), (16, 25)),
        (lambda i: ir.Binary("mul", i - 2, i - 3), (-21, 42)),
        (lambda i: ir.minimum(i, Const(5)), (0, 5)),
        (lambda i: ir.Unary("abs", i - 7), (0, 7)),
        (lambda i: ir.minimum(i, ir.sub(Const(9), i)), (0, 4)),
        (lambda i: ir.maximum(i, ir.sub(Const(9), i)), (5, 9)),
        (lambda i: ir.select(i < 4, i, 3), (0, 3)),
        (lambda i: ir.select(i >= 4, i, 4), (4, 9)),
        (lambda i: ir.cast(ir.cast(i, dtypes.int8), ir.INDEX), (0, 9)),
        (lambda i: ir.cast(ir.cast(i * 100, dtypes.int8), ir.INDEX), (-128, 127)),
        (lambda i: ir.cast(ir.cast(i * 100, dtypes.int8, saturate=True), ir.INDEX), (0, 127)),
        (lambda i: ir.cast(i < 3, ir.INDEX), (0, 1)),
    ],
)
def test_intervals(make: Callable[[ir.Expr], ir.Expr], expected: tuple[int, int]) -> None:
    ranges, i = _in_loop(10)
    assert ranges.interval(make(i)) == expected


@pytest.mark.parametrize(
    ("condition", "holds", "expected"),
    [
        (lambda i: i < 4, True, (0, 3)),
        (lambda i: i < 4, False, (4, 9)),
        (lambda i: i * 3 > 10, True, (4, 9)),
        (lambda i: (i >= 2) & (i <= 5), True, (2, 5)),
        (lambda i: (i < 2) | (i > 5), False, (2, 5)),
        (lambda i: ~(i < 4), True, (4, 9)),
        (lambda i: i.eq(7), True, (7, 7)),
        (lambda i: i.ne(7), False, (7, 7)),
        (lambda i: i < ir.minimum(Const(6), Const(3) * 1), True, (0, 2)),
    ],
)
def test_conditions_narrow_intervals(condition: Callable[[ir.Expr], ir.Expr], holds: bool, expected: tuple[int, int]) -> None:
    ranges, i = _in_loop(10)
    with ranges.assuming(condition(i), holds):
        assert ranges.interval(i) == expected
    assert ranges.interval(i) == (0, 9)


@pytest.mark.parametrize("dtype", [dtypes.int8, dtypes.uint8, dtypes.int32, dtypes.bool_], ids=str)
def test_a_loaded_value_has_the_range_of_its_dtype(dtype: DType) -> None:
    low, high = Ranges().interval(nests.buffer("x", "input", 1, dtype=dtype)(0))
    assert (low, high) == (
        (0, 1)
        if dtype is dtypes.bool_
        else (-(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1)
        if dtype.kind == "int"
        else (0, 255)
    )


def test_facts_about_sums_bound_what_is_built_from_them() -> None:
    ranges, i = _in_loop(10)
    j, n = nests.loop("j", ir.minimum(Const(4), ir.sub(Const(30), i * 4)))
    ranges.enter(For(j, n, ()))
    assert ranges.interval(i * 4 + j) == (0, 29)
    assert ranges.interval((i * 4 + j) * 5 + 2) == (2, 147)


@pytest.mark.parametrize(
    ("buffer", "index", "says"),
    [(X, (ir.ZERO, ir.ZERO), "2 indices"), (replace(X, scope="register"), (ir.ZERO,), "register"), (X, (ZERO,), "no int64")],
)
def test_a_prefetch_may_lie_outside_of_a_buffer(buffer: ir.Buffer, index: tuple[ir.Expr, ...], says: str) -> None:
    nest = LoopNest("hint", (X, Y), (ir.Prefetch(X, (Const(1 << 20),)),))
    assert not verify(nest).undecided
    with pytest.raises(VerificationError, match=says):
        verify(replace(nest, body=(ir.Prefetch(buffer, index),)))
