"""Operators that move elements, against NumPy: every dtype, extents that straddle vectors and blocks, empty tensors, fused neighbours."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from tests.graphs import make_model

EXTENTS = st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33])
DTYPES = [
    *(np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    *(np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.complex64, np.complex128),
    *(ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4),
]


def array(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Bits at random, so that a move that goes through another dtype shows."""
    rng = np.random.default_rng(seed)
    if dtype in (ml_dtypes.int4, ml_dtypes.uint4):
        return rng.integers(0, 7, shape).astype(dtype)
    if dtype is np.bool_:
        return rng.integers(0, 2, shape).astype(dtype)
    width = np.dtype(dtype).itemsize
    return rng.integers(0, 256, (*shape, width), dtype=np.uint8).view(dtype)[..., 0]


def same(ours: np.ndarray, expected: np.ndarray) -> None:
    assert ours.dtype == expected.dtype and ours.shape == expected.shape
    assert np.ascontiguousarray(ours).tobytes() == np.ascontiguousarray(expected).tobytes()


def run(
    op: str, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray] | None = None, outputs: int = 1, **attrs: Any
) -> Any:
    """One node, its inputs in order of name: data as graph inputs, and what decides shapes as constants."""
    constants = constants or {}
    names = sorted([*inputs, *constants])
    made = [f"y{i}" for i in range(outputs)]
    node = oh.make_node(op, names, made, **attrs)
    types = {name: (oh.np_dtype_to_tensor_dtype(value.dtype), list(value.shape)) for name, value in inputs.items()}
    graph = oh.make_graph(
        [node],
        op,
        [oh.make_tensor_value_info(name, *kind) for name, kind in types.items()],
        [oh.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in made],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return loopnest.compile(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 24)]))(**inputs)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# --- Transpose ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.lists(EXTENTS, min_size=2, max_size=4).flatmap(lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))))
def test_transpose(case: tuple[list[int], list[int]]) -> None:
    shape, perm = case
    x = array(tuple(shape))
    same(run("Transpose", {"x": x}, perm=perm), x.transpose(perm))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_transpose_of_every_dtype(dtype: Any) -> None:
    x = array((17, 33), dtype)
    same(run("Transpose", {"x": x}, perm=[1, 0]), x.T)
    x = array((67, 130), dtype)
    same(run("Transpose", {"x": x}, perm=[1, 0]), x.T)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (200, 65), (64, 128)])
def test_transpose_of_odd_matrices(shape: tuple[int, ...]) -> None:
    x = array(shape)
    same(run("Transpose", {"x": x}), x.T)


@pytest.mark.parametrize("shape", [(1033, 17), (31, 1049), (1100, 1047), (2, 1031, 1031), (152, 1000), (200, 488)])
@pytest.mark.parametrize("threads", [1, 2])
def test_transpose_of_large_matrices(shape: tuple[int, ...], threads: int) -> None:
    """More blocks a row than a band has, the last band and the last blocks with less than others; of a line or half of one."""
    x = array(shape)
    perm = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    node = oh.make_node("Transpose", ["x"], ["y"], perm=perm)
    same(loopnest.compile(make_model([node], {"x": shape}, ["y"]), threads=threads)(x), x.transpose(perm))


def test_pointwise_neighbours_join_a_transpose() -> None:
    x, z = np.random.default_rng(0).standard_normal((2, 9, 17), np.float32), np.float32([[2.0], [3.0]])
    nodes = [
        oh.make_node("Relu", ["x"], ["a"]),
        oh.make_node("Transpose", ["a"], ["b"], perm=[1, 2, 0]),
        oh.make_node("Add", ["b", "z"], ["y"]),
    ]
    f = loopnest.compile(make_model(nodes, {"x": x.shape, "z": [1, 1, 2]}, ["y"]))
    y = f(x, z.reshape(1, 1, 2))
    np.testing.assert_array_equal(y, np.maximum(x, 0).transpose(1, 2, 0) + z.reshape(2))
    assert "Relu+Transpose+Add" in str(f)


# --- Concat, Split, Slice ----------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(
    shape=st.lists(EXTENTS, min_size=1, max_size=3), parts=st.lists(st.integers(0, 17), min_size=1, max_size=4), data=st.data()
)
def test_concat_and_split(shape: list[int], parts: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    arrays = []
    for i, part in enumerate(parts):
        shape[axis] = part
        arrays.append(array(tuple(shape), seed=i))
    whole = np.concatenate(arrays, axis)
    same(run("Concat", {f"x{i}": a for i, a in enumerate(arrays)}, axis=axis), whole)
    if whole.size:
        split = run("Split", {"a": whole}, {"b": ints(*parts)}, outputs=len(parts), axis=axis)
        for ours, expected in zip(split if len(parts) > 1 else [split], arrays, strict=True):
            same(ours, expected)


def test_split_into_equal_parts_with_a_smaller_last_one() -> None:
    x = array((7, 3))
    parts = run("Split", {"a": x}, outputs=3, num_outputs=3)
    for ours, expected in zip(parts, (x[:3], x[3:6], x[6:]), strict=True):
        same(ours, expected)


def test_what_follows_a_concat_joins_it() -> None:
    a, c = (np.random.default_rng(i).standard_normal((2, 3 + i, 5), np.float32) for i in range(2))
    nodes = [oh.make_node("Concat", ["a", "b"], ["c"], axis=1), oh.make_node("Relu", ["c"], ["y"])]
    f = loopnest.compile(make_model(nodes, {"a": a.shape, "b": c.shape}, ["y"]))
    np.testing.assert_array_equal(f(a, c), np.maximum(np.concatenate([a, c], 1), 0))
    assert "Concat+Relu" in str(f)


@settings(max_examples=10, deadline=None)
@given(shape=st.lists(EXTENTS, min_size=1, max_size=3), data=st.data())
def test_slice(shape: list[int], data: st.DataObject) -> None:
    bound = st.integers(-40, 40)
    count = data.draw(st.integers(1, len(shape)))
    axes = data.draw(st.permutations(range(len(shape))))[:count]
    starts, ends = (data.draw(st.lists(bound, min_size=count, max_size=count)) for _ in range(2))
    steps = data.draw(st.lists(st.sampled_from([1, 2, 3, -1, -2]), min_size=count, max_size=count))
    x = array(tuple(shape))
    expected = x
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        n = shape[axis]
        first, last = (bound + n * (bound < 0) for bound in (start, end))
        first = np.clip(first, 0, n if step > 0 else n - 1)
        last = np.clip(last, 0 if step > 0 else -1, n if step > 0 else n - 1)
        expected = expected.take(np.arange(first, last, step), axis)
    constants = {"b": ints(*starts), "c": ints(*ends), "d": ints(*axes), "e": ints(*steps)}
    same(run("Slice", {"a": x}, constants), expected)


@pytest.mark.parametrize("dtype", DTYPES[:15], ids=lambda d: np.dtype(d).name)
def test_slice_and_concat_of_many_dtypes(dtype: Any) -> None:
    x = array((5, 19), dtype)
    same(run("Slice", {"a": x}, {"b": ints(18), "c": ints(-100), "d": ints(1), "e": ints(-2)}), x[:, ::-2])
    same(run("Concat", {"a": x, "b": x}, axis=1), np.concatenate([x, x], 1))


def test_many_starts_share_a_kernel() -> None:
    x = array((4, 24))
    starts = (1, 5, 9)
    nodes = [oh.make_node("Slice", ["x", f"s{i}", f"e{i}", "axes"], [f"y{i}"]) for i in starts]
    constants = {f"s{i}": ints(i) for i in starts} | {f"e{i}": ints(i + 8) for i in starts} | {"axes": ints(1)}
    f = loopnest.compile(make_model(nodes, {"x": x.shape}, [f"y{i}" for i in starts], constants))
    for ours, i in zip(f(x), starts, strict=True):
        same(ours, x[:, i : i + 8])


# --- Pad, Tile, Expand and the rest ---------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.sampled_from([2, 3, 8, 9, 17]), min_size=1, max_size=3),
    mode=st.sampled_from(["constant", "reflect", "edge", "wrap"]),
    data=st.data(),
)
def test_pad(shape: list[int], mode: str, data: st.DataObject) -> None:
    pads = [data.draw(st.tuples(st.integers(-1, 9), st.integers(0, 5))) for _ in shape]
    x = array(tuple(shape))
    cut = x[tuple(slice(max(0, -p), None) for p, _ in pads)]
    options = {"constant_values": 3.0} if mode == "constant" else {}
    expected = np.pad(cut, [(max(0, p), q) for p, q in pads], mode, **options)
    constants = {"b": ints(*(p for p, _ in pads), *(q for _, q in pads))}
    if mode == "constant":
        constants["c"] = np.array(3.0, np.float32)
    same(run("Pad", {"a": x}, constants, mode=mode), expected)


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.int8, np.float16, ml_dtypes.bfloat16, np.int64, np.float64], ids=lambda d: np.dtype(d).name
)
def test_pad_of_other_dtypes_and_named_axes(dtype: Any) -> None:
    x = array((3, 5, 7), dtype)
    constants = {"b": ints(1, 2, 3, 0), "c": np.array(1, dtype), "d": ints(-1, 0)}
    same(run("Pad", {"a": x}, constants), np.pad(x, [(2, 0), (0, 0), (1, 3)], constant_values=np.array(1, dtype)))


def test_pads_may_cut_both_ends() -> None:
    x = array((9, 9))
    same(run("Pad", {"a": x}, {"b": ints(-2, 1, -3, -4)}), np.pad(x[2:-3, :-4], [(0, 0), (1, 0)]))


@settings(max_examples=10, deadline=None)
@given(shape=st.lists(EXTENTS, min_size=1, max_size=3), data=st.data())
def test_tile_and_expand(shape: list[int], data: st.DataObject) -> None:
    repeats = data.draw(st.lists(st.integers(0, 3), min_size=len(shape), max_size=len(shape)))
    x = array(tuple(shape))
    same(run("Tile", {"a": x}, {"b": ints(*repeats)}), np.tile(x, repeats))
    kept = [data.draw(st.sampled_from([1, extent])) for extent in shape]
    small = array(tuple(kept))
    same(run("Expand", {"a": small}, {"b": ints(4, *shape)}), np.broadcast_to(small, (4, *shape)))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("block", [2, 3])
def test_depth_to_space(mode: str, block: int) -> None:
    x = array((2, 5 * block * block, 3, 7))
    n, _, h, w = x.shape
    split = (n, block, block, 5, h, w) if mode == "DCR" else (n, 5, block, block, h, w)
    perm = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    expected = x.reshape(split).transpose(perm).reshape(n, 5, h * block, w * block)
    same(run("DepthToSpace", {"x": x}, blocksize=block, mode=mode), expected)
    if mode == "DCR":
        same(run("SpaceToDepth", {"x": expected}, blocksize=block), x)


@pytest.mark.parametrize("k", [-20, -2, 0, 1, 16, 20])
@pytest.mark.parametrize("upper", [0, 1])
def test_trilu(k: int, upper: int) -> None:
    x = array((2, 9, 17))
    same(run("Trilu", {"a": x}, {"b": np.array(k, np.int64)}, upper=upper), (np.triu if upper else np.tril)(x, k))


@pytest.mark.parametrize("batch_axis", [0, 1])
def test_reverse_sequence(batch_axis: int) -> None:
    x, lengths = array((4, 4, 9)), ints(0, 4, 1, 3)
    expected = x.copy()
    for i, length in enumerate(lengths):
        row = (i, slice(0, length)) if batch_axis == 0 else (slice(0, length), i)
        expected[row] = expected[row][::-1]
    same(run("ReverseSequence", {"a": x, "b": lengths}, batch_axis=batch_axis, time_axis=1 - batch_axis), expected)
    with pytest.raises(loopnest.KernelError, match=r"sequence length 5 is outside \[0, 4\]"):
        run("ReverseSequence", {"a": x, "b": ints(1, 5, 1, 1)}, batch_axis=batch_axis, time_axis=1 - batch_axis)


@pytest.mark.parametrize(
    ("start", "limit", "delta"),
    [(0, 10, 3), (10, 0, -3), (5, 5, 1), (0.0, 1.0, 0.3), (2.5, -1.0, -0.5)],
)
def test_range_of_values_known_at_run_time_only(start: float, limit: float, delta: float) -> None:
    dtype = np.float32 if isinstance(start, float) else np.int32
    values = {name: np.array(v, dtype) for name, v in zip("abc", (start, limit, delta), strict=True)}
    ours, expected = run("Range", values), np.arange(start, limit, delta).astype(dtype)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis: int) -> None:
    indices, values = ints(0, 4, -1, 7, -6), np.float32([2, 9])
    expected = np.where(
        np.arange(5) == (indices % 5 * ((indices >= -5) & (indices < 5)) - 99 * ((indices < -5) | (indices > 4)))[:, None], 9, 2
    )
    expected = expected.astype(np.float32)
    same(run("OneHot", {"a": indices, "c": values}, {"b": np.array(5)}, axis=axis), expected.T if axis == 0 else expected)


# --- views, and shapes that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "allowzero", "expected"),
    [((0, -1), 0, (4, 6)), ((2, 0, -1), 0, (2, 2, 6)), ((-1,), 0, (24,)), ((3, 8), 1, (3, 8))],
)
def test_reshape(target: tuple[int, ...], allowzero: int, expected: tuple[int, ...]) -> None:
    x = array((4, 2, 3))
    same(run("Reshape", {"a": x}, {"b": ints(*target)}, allowzero=allowzero), x.reshape(expected))


@pytest.mark.parametrize(
    ("op", "constants", "attrs", "message"),
    [
        ("Reshape", {"b": ints(5, -1)}, {}, "24 elements are no multiple of 5"),
        ("Reshape", {"b": ints(5, 5)}, {}, "24 elements against 25"),
        ("Squeeze", {"b": ints(0)}, {}, "its extent is 4"),
        ("Transpose", {}, {"perm": [2, 2, 0]}, r"Transpose.*perm \(2, 2, 0\) is no permutation"),
        ("Transpose", {}, {"perm": [0, 0, 1]}, r"Transpose.*perm \(0, 0, 1\) is no permutation"),
        ("Transpose", {}, {"perm": [0, 1, 7]}, r"Transpose.*perm \(0, 1, 7\) is no permutation"),
        ("Transpose", {}, {"perm": [0, 1]}, r"Transpose.*perm \(0, 1\) is no permutation"),
        ("Pad", {"b": ints(0, 0, 0, 0, 0, -5)}, {}, "cut more than axis 2"),
        ("Split", {"b": ints(1, 1)}, {}, "does not cut an extent of 4"),
        ("Slice", {"b": ints(0), "c": ints(1), "d": ints(9)}, {}, "axis 9 is outside"),
        ("DepthToSpace", {}, {"blocksize": 2}, "rank 4"),
    ],
)
def test_what_does_not_fit_is_said(op: str, constants: dict[str, np.ndarray], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(loopnest.ModelError, match=message):
        run(op, {"a": array((4, 2, 3))}, constants, outputs=2 if op == "Split" else 1, **attrs)
