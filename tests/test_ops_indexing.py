"""Operators that read or write where data say: against NumPy, with negative, repeated and out-of-range indices; results that data size."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from tests.graphs import make_model
from tests.test_ops_movement import DTYPES, array, ints, run, same

EXTENTS = st.sampled_from([1, 2, 7, 8, 9, 17])


def indices(shape: tuple[int, ...], extent: int, dtype: Any = np.int64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-extent, extent, shape).astype(dtype)


# --- Gather ------------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(EXTENTS, min_size=1, max_size=3),
    picked=st.lists(st.sampled_from([1, 3, 8, 9]), max_size=2),
    dtype=st.sampled_from([np.int32, np.int64]),
    data=st.data(),
)
def test_gather(shape: list[int], picked: list[int], dtype: Any, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x, k = array(tuple(shape)), indices(tuple(picked), shape[axis], dtype)
    same(run("Gather", {"a": x, "b": k}, axis=axis), np.take(x, k, axis))


@pytest.mark.parametrize("dtype", DTYPES[:15], ids=lambda d: np.dtype(d).name)
def test_gather_of_every_dtype(dtype: Any) -> None:
    x, k = array((5, 19), dtype), indices((7,), 5)
    same(run("Gather", {"a": x, "b": k}), x[k])
    same(
        run("GatherElements", {"a": x, "b": indices((5, 33), 19)}, axis=1), np.take_along_axis(x, indices((5, 33), 19) % 19, 1)
    )


def test_what_follows_a_gather_joins_it() -> None:
    table, k, z = (np.random.default_rng(i) for i in range(3))
    x, index, other = (
        table.standard_normal((20, 12), np.float32),
        k.integers(0, 20, (3, 5)),
        z.standard_normal((5, 12), np.float32),
    )
    nodes = [oh.make_node("Gather", ["x", "k"], ["a"]), oh.make_node("Add", ["a", "z"], ["y"])]
    typed = oh.make_tensor_value_info("k", 7, index.shape)
    f = loopnest.compile(make_model(nodes, {"k": typed, "z": other.shape}, ["y"], {"x": x}))
    np.testing.assert_array_equal(f(index, other), x[index] + other)
    assert "Gather+Add" in str(f)


@pytest.mark.parametrize(("op", "shape"), [("Gather", (3,)), ("GatherElements", (3, 4)), ("GatherND", (3, 1))])
@pytest.mark.parametrize("bad", [5, -6, 2**40])
def test_an_index_out_of_range_stops_the_kernel(op: str, shape: tuple[int, ...], bad: int) -> None:
    x, k = array((5, 4)), np.zeros(shape, np.int64)
    k.reshape(-1)[-1] = bad
    with pytest.raises(loopnest.KernelError, match=rf"index {bad} is outside \[-5, 4\] of axis 0 of 'a'"):
        run(op, {"a": x, "b": k})
    k[...] = -5
    expected = x[k] if op == "Gather" else x[k[:, 0]] if op == "GatherND" else np.take_along_axis(x, k + 5, 0)
    same(run(op, {"a": x, "b": k}), expected)


@settings(max_examples=12, deadline=None)
@given(shape=st.lists(EXTENTS, min_size=1, max_size=3), data=st.data())
def test_gather_elements(shape: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    taken = [data.draw(st.integers(1, 20 if i == axis else extent)) for i, extent in enumerate(shape)]
    x, k = array(tuple(shape)), indices(tuple(taken), shape[axis])
    part = x[tuple(slice(None) if i == axis else slice(0, n) for i, n in enumerate(taken))]
    same(run("GatherElements", {"a": x, "b": k}, axis=axis), np.take_along_axis(part, k % shape[axis], axis))


@pytest.mark.parametrize(("shape", "batch", "middle", "depth"), [
    ((4, 5, 6), 0, (3,), 2), ((4, 5, 6), 0, (), 3), ((4, 5, 6), 1, (2, 2), 1), ((4, 5, 6, 9), 2, (3,), 1), ((4, 5), 0, (7,), 1),
])  # fmt: skip
def test_gather_nd(shape: tuple[int, ...], batch: int, middle: tuple[int, ...], depth: int) -> None:
    x = array(shape)
    rng = np.random.default_rng(1)
    parts = [rng.integers(-n, n, (*shape[:batch], *middle)) for n in shape[batch : batch + depth]]
    k = np.stack(parts, -1).astype(np.int64)
    expected = np.empty((*k.shape[:-1], *shape[batch + depth :]), x.dtype)
    for place in np.ndindex(*k.shape[:-1]):
        expected[place] = x[(*place[:batch], *k[place])]
    same(run("GatherND", {"a": x, "b": k}, batch_dims=batch), expected)


# --- Scatter -----------------------------------------------------------------------------------------------------------------


def scattered(x: np.ndarray, place: tuple[Any, ...], update: np.ndarray, reduction: str) -> None:
    """Applies one update as the specification does, in the order of the updates."""
    combine = {"none": lambda _, new: new, "add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}[reduction]
    x[place] = combine(x[place], update)


REDUCTIONS = ["none", "add", "mul", "min", "max"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8, np.int64], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("axis", [0, -1])
def test_scatter_elements(reduction: str, dtype: Any, axis: int) -> None:
    rng = np.random.default_rng(0)
    x, u = rng.integers(0, 9, (5, 9)).astype(dtype), rng.integers(0, 9, (4, 7)).astype(dtype)
    k = indices(u.shape, x.shape[axis])
    expected = x.copy()
    for i in np.ndindex(*u.shape):
        scattered(expected, (k[i], i[1]) if axis == 0 else (i[0], k[i]), u[i], reduction)
    same(run("ScatterElements", {"a": x, "b": k, "c": u}, axis=axis, reduction=reduction), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd(reduction: str, depth: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (4, 5, 17)).astype(np.float32)
    k = np.stack([rng.integers(-n, n, (6,)) for n in x.shape[:depth]], -1).astype(np.int64)
    u = rng.integers(0, 9, (6, *x.shape[depth:])).astype(np.float32)
    expected = x.copy()
    for i in range(6):
        scattered(expected, tuple(k[i]), u[i], reduction)
    same(run("ScatterND", {"a": x, "b": k, "c": u}, reduction=reduction), expected)


@pytest.mark.parametrize("dtype", DTYPES[:15], ids=lambda d: np.dtype(d).name)
def test_scatter_of_every_dtype(dtype: Any) -> None:
    x, u, k = array((5, 9), dtype), array((3, 9), dtype, 1), ints(0, -1, 2)[:, None]
    expected = x.copy()
    expected[k[:, 0]] = u
    same(run("ScatterND", {"a": x, "b": k, "c": u}), expected)
    same(run("ScatterElements", {"a": x, "b": np.repeat(k, 9, 1), "c": u}), expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
def test_sums_are_rounded_after_each_update(dtype: Any) -> None:
    x, u, k = np.ones(1, dtype), np.full(64, 0.001, dtype), np.zeros(64, np.int64)
    same(
        run("ScatterElements", {"a": x, "b": k, "c": u}, reduction="add"),
        np.ones(1, dtype) if dtype != np.float16 else _sum(x, u),
    )


def _sum(x: np.ndarray, updates: np.ndarray) -> np.ndarray:
    total = x.copy()
    for update in updates:
        total += update
    return total


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_a_scattered_index_out_of_range_stops_the_kernel(op: str) -> None:
    x, u = array((5, 4)), array((2, 4))
    k = np.full((2, 4) if op == "ScatterElements" else (2, 1), 5)
    with pytest.raises(loopnest.KernelError, match=r"index 5 is outside \[-5, 4\] of axis 0 of 'a'"):
        run(op, {"a": x, "b": k, "c": u})


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    past, update, first = array((3, 2, 9, 8)), array((3, 2, 4, 8), seed=1), ints(0, 5, 3 if mode == "linear" else 7)
    expected = past.copy()
    for n in range(3):
        for s in range(4):
            expected[n, :, (first[n] + s) % 9] = update[n, :, s]
    same(run("TensorScatter", {"a": past, "b": update, "c": first}, mode=mode), expected)
    with pytest.raises(loopnest.KernelError, match="write index 9 is outside"):
        run("TensorScatter", {"a": past, "b": update, "c": ints(0, 0, 9)}, mode=mode)


# --- results whose extent data gives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.bool_, np.float32, np.int8, np.int64, np.float64], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", [(33,), (4, 9), (2, 3, 5), (0, 3), ()])
def test_non_zero(dtype: Any, shape: tuple[int, ...]) -> None:
    x = (np.random.default_rng(0).integers(-2, 2, shape) * np.random.default_rng(1).integers(0, 2, shape)).astype(dtype)
    expected = np.array(np.nonzero(x), np.int64) if shape else np.zeros((0, int(x != 0)), np.int64)
    same(run("NonZero", {"x": x}), expected)
    same(run("NonZero", {"x": np.zeros(shape, dtype)}), np.zeros((len(shape), 0), np.int64))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.float16, np.int64], ids=lambda d: np.dtype(d).name)
def test_compress(axis: int | None, dtype: Any) -> None:
    x = array((4, 5, 9), dtype)
    condition = np.random.default_rng(0).integers(0, 2, 100 if axis is None else x.shape[axis] - 1).astype(np.bool_)
    attrs = {} if axis is None else {"axis": axis}
    same(run("Compress", {"a": x, "b": condition}, **attrs), np.compress(condition, x, axis))
    same(run("Compress", {"a": x, "b": ~condition & condition}, **attrs), np.compress(~condition & condition, x, axis))


@settings(max_examples=15, deadline=None)
@given(numbers=st.lists(st.integers(-4, 4), max_size=40), dtype=st.sampled_from([np.float32, np.int8, np.int64, np.uint8]))
def test_unique(numbers: list[int], dtype: Any) -> None:
    x = np.array(numbers).astype(dtype)
    y, first, inverse, counts = run("Unique", {"x": x}, outputs=4)
    expected = np.unique(x, return_index=True, return_inverse=True, return_counts=True)
    for ours, theirs in zip((y, first, inverse, counts), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert y.dtype == dtype


def test_unique_in_the_order_of_first_occurrence() -> None:
    x = np.float32([2, 1, 1, 3, 4, 3, np.nan, np.nan])
    y, first, inverse, counts = run("Unique", {"x": x}, outputs=4, sorted=0)
    np.testing.assert_array_equal(y, np.float32([2, 1, 3, 4, np.nan]))
    np.testing.assert_array_equal(first, [0, 1, 3, 4, 6])
    np.testing.assert_array_equal(inverse, [0, 1, 1, 2, 3, 2, 4, 4])
    np.testing.assert_array_equal(counts, [1, 2, 2, 1, 2])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_unique_slices(axis: int) -> None:
    x = np.random.default_rng(0).integers(0, 2, (7, 6, 2)).astype(np.float32)
    x = np.concatenate([x, x], axis)
    ours = run("Unique", {"x": x}, outputs=4, axis=axis)
    expected = np.unique(x, True, True, True, axis=axis)
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(mine, np.reshape(theirs, mine.shape))


def test_what_follows_is_planned_for_the_extent_that_came_out() -> None:
    nodes = [
        oh.make_node("NonZero", ["x"], ["k"]),
        oh.make_node("Transpose", ["k"], ["t"]),
        oh.make_node("GatherND", ["x", "t"], ["v"]),
        oh.make_node("Relu", ["v"], ["y"]),
    ]
    f = loopnest.compile(make_model(nodes, {"x": ["n", 5]}, ["y"]))
    for seed, rows in enumerate((3, 7, 1)):
        x = (np.random.default_rng(seed).integers(-2, 3, (rows, 5))).astype(np.float32)
        np.testing.assert_array_equal(f(x), np.maximum(x[x != 0], 0))


# --- of constants ------------------------------------------------------------------------------------------------------------


def test_constants_that_the_reference_cannot_compute() -> None:
    """Indices smaller than the data along other axes are legal; ONNX's reference implementation refuses them."""
    x, k = array((31, 8)), np.array([[1, 7], [0, 3], [2, 2]])
    f = loopnest.compile(make_model([oh.make_node("GatherElements", ["x", "k"], ["y"], axis=1)], {}, ["y"], {"x": x, "k": k}))
    np.testing.assert_array_equal(f(), x[np.arange(3)[:, None], k])
