"""Reductions, extrema, softmax, running totals, selection and Einsum against ONNX Runtime or ONNX's reference."""

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
from loopnest.ir.errors import ModelError
from tests.graphs import assert_same, make_model, onnxruntime, reference, tensor, values

EXTENTS = (1, 7, 8, 9, 15, 16, 17, 31, 33, 70)


def infos(feeds: dict[str, np.ndarray]) -> dict[str, onnx.ValueInfoProto]:
    return {n: tensor(n, a.shape, oh.np_dtype_to_tensor_dtype(a.dtype)) for n, a in feeds.items()}


def agrees(
    node: onnx.NodeProto, feeds: dict[str, np.ndarray], judge: Any = onnxruntime, tolerance: float = 1e-5, **parts: Any
) -> None:
    """Runs one node in loopnest and in ``judge`` and compares."""
    model = make_model([node], infos(feeds), list(node.output), parts.get("constants"), opset=parts.get("opset", 20))
    assert_same(loopnest.compile(model).run(None, feeds), judge(model, feeds), tolerance)


def reduced(op: str, x: np.ndarray, axes: list[int] | None, **attrs: Any) -> None:
    """One reduction, in float64 by NumPy's sums (the runtimes differ in what they round)."""
    constants = None if axes is None else {"axes": np.array(axes, np.int64)}
    node = oh.make_node(op, ["x"] if axes is None else ["x", "axes"], ["y"], **attrs)
    agrees(node, {"x": x}, reference, 1e-4, constants=constants)


@pytest.mark.parametrize("axes", [[0], [1], [2], [-1], [0, 1], [1, 2], [0, 2], [2, 0, 1], None])
def test_every_choice_of_axes(axes: list[int] | None) -> None:
    reduced("ReduceSum", values(5, 9, 70), axes, keepdims=0)


@settings(max_examples=15)
@given(st.sampled_from(EXTENTS), st.sampled_from(EXTENTS), st.booleans(), st.booleans())
def test_extents_around_the_vectors(rows: int, columns: int, first: bool, keepdims: bool) -> None:
    reduced("ReduceMean", values(rows, columns), [0 if first else 1], keepdims=int(keepdims))


@pytest.mark.parametrize(
    "op", ["ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"]
)
def test_every_kind(op: str) -> None:
    reduced(op, np.abs(values(3, 17, 33)) + 0.5, [1])
    reduced(op, np.abs(values(3, 17, 11)) + 0.5, [-1, 0])


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.uint32, np.uint64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd"])
def test_dtypes(op: str, dtype: Any) -> None:
    x = np.random.default_rng(1).integers(1, 4, (4, 19)).astype(dtype)
    if op == "ReduceProd":
        x = x[:, :5]
    constants = {"axes": np.array([1], np.int64)}
    model = make_model([oh.make_node(op, ["x", "axes"], ["y"])], infos({"x": x}), ["y"], constants, opset=18)
    (y,) = loopnest.compile(model).run(None, {"x": x})
    function = {"ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceMax": np.max, "ReduceProd": np.prod}[op]
    wide = x.astype(np.float64)
    assert y.dtype == x.dtype
    np.testing.assert_allclose(
        y.astype(np.float64), function(wide, 1, keepdims=True).astype(dtype).astype(np.float64), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8])
@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_extrema_of_small_types(op: str, dtype: Any) -> None:
    x = np.random.default_rng(1).integers(0, 2 if dtype is np.bool_ else 100, (6, 37)).astype(dtype)
    reduced(op, x, [0])
    reduced(op, x, [1])


def test_float16_sums_in_float32() -> None:
    x = np.full((2, 5000), 1.0, np.float16)
    model = make_model([oh.make_node("ReduceMean", ["x"], ["y"], axes=[1])], infos({"x": x}), ["y"], opset=13)
    assert loopnest.compile(model).run(None, {"x": x})[0].tolist() == [[1.0], [1.0]]


def test_nothing_to_reduce() -> None:
    x = values(3, 4)
    for op in ("ReduceSum", "ReduceMax", "ReduceSumSquare"):
        agrees(oh.make_node(op, ["x"], ["y"], noop_with_empty_axes=1), {"x": x}, reference)
    reduced("ReduceSum", np.zeros((2, 0, 4), np.float32), [1])
    reduced("ReduceProd", np.zeros((2, 0, 4), np.float32), [1])
    reduced("ReduceMax", np.zeros((2, 0, 4), np.float32), [1])


def test_extremum_of_nan_is_nan() -> None:
    x = values(3, 20)
    x[1, 7] = np.nan
    model = make_model([oh.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)], {"x": [3, 20]}, ["y"], opset=13)
    assert np.isnan(loopnest.compile(model).run(None, {"x": x})[0]).tolist() == [False, True, False]


def test_log_sum_exp_does_not_overflow() -> None:
    x = np.array([[1000.0, 1000.0], [-np.inf, -np.inf], [np.inf, 0.0], [-1000.0, -1000.0]], np.float32)
    model = make_model([oh.make_node("ReduceLogSumExp", ["x"], ["y"], axes=[1], keepdims=0)], {"x": [4, 2]}, ["y"], opset=13)
    (y,) = loopnest.compile(model).run(None, {"x": x})
    np.testing.assert_allclose(y, [1000 + np.log(2), -np.inf, np.inf, -1000 + np.log(2)], rtol=1e-6)


def test_what_surrounds_a_reduction_is_fused() -> None:
    nodes = [
        oh.make_node("Mul", ["x", "x"], ["square"]),
        oh.make_node("ReduceMean", ["square"], ["mean"], axes=[1, 2]),
        oh.make_node("Sigmoid", ["mean"], ["y"]),
    ]
    model = make_model(nodes, {"x": ["N", 7, 9, 40]}, ["y"], opset=13)
    x = values(3, 7, 9, 40)
    f = loopnest.compile(model)
    assert_same(f.run(None, {"x": x}), onnxruntime(model, {"x": x}))
    assert "Mul+ReduceMean+Sigmoid" in str(f)


@pytest.mark.parametrize("axes", [[3], [-4], [1, -2]])
def test_axes_are_checked(axes: list[int]) -> None:
    with pytest.raises(ModelError, match="axis|axes"):
        reduced("ReduceSum", values(2, 3, 4), axes)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_position_of_extremum(op: str, axis: int, last: int) -> None:
    x = np.random.default_rng(3).integers(0, 6, (5, 33, 9)).astype(np.float32)
    agrees(oh.make_node(op, ["x"], ["y"], axis=axis, select_last_index=last, keepdims=axis % 2), {"x": x})


def test_position_of_nan() -> None:
    x = values(2, 50)
    x[1, 20] = x[1, 30] = np.nan
    model = make_model([oh.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)], {"x": [2, 50]}, ["y"], opset=13)
    assert loopnest.compile(model).run(None, {"x": x})[0].tolist() == np.argmax(x, 1).tolist()


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 70), -1), ((3, 5, 17), 1), ((33, 9), 0), ((2, 1000, 1, 1), 1), ((9, 3), 1), ((8,), 0)]
)
def test_softmax(op: str, shape: tuple[int, ...], axis: int) -> None:
    agrees(oh.make_node(op, ["x"], ["y"], axis=axis), {"x": values(*shape) * 20}, tolerance=2e-6)


@pytest.mark.parametrize("columns", [256, 1001, 40000])
def test_softmax_of_much(columns: int) -> None:
    x = values(-(-300_000 // columns), columns) * 5
    agrees(oh.make_node("Softmax", ["x"], ["y"]), {"x": x}, tolerance=2e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_softmax_dtypes(dtype: Any) -> None:
    x = values(4, 33).astype(dtype)
    agrees(oh.make_node("Softmax", ["x"], ["y"]), {"x": x}, reference, tolerance=1e-3 if dtype is np.float16 else 1e-12)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_of_what_is_not_finite(op: str) -> None:
    x = values(4, 37)
    x[0, 5], x[1, :], x[2, 3] = np.nan, -np.inf, -np.inf
    agrees(oh.make_node(op, ["x"], ["y"]), {"x": x})


def test_softmax_takes_its_surroundings_in() -> None:
    nodes = [
        oh.make_node("Mul", ["x", "scale"], ["scaled"]),
        oh.make_node("Add", ["scaled", "mask"], ["masked"]),
        oh.make_node("Softmax", ["masked"], ["soft"], axis=-1),
        oh.make_node("Mul", ["soft", "soft"], ["y"]),
    ]
    model = make_model(nodes, {"x": [2, 3, 9, 37], "mask": [2, 1, 1, 37]}, ["y"], {"scale": np.array(0.3, np.float32)})
    feeds = {"x": values(2, 3, 9, 37), "mask": np.where(values(2, 1, 1, 37) > 1, -np.inf, 0).astype(np.float32)}
    f = loopnest.compile(model)
    assert_same(f.run(None, feeds), onnxruntime(model, feeds), 1e-6)
    assert "Mul+Add+Softmax+Mul" in str(f)


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_running_sum(axis: int, exclusive: int, reverse: int) -> None:
    node = oh.make_node("CumSum", ["x", "axis"], ["y"], exclusive=exclusive, reverse=reverse)
    agrees(node, {"x": values(5, 9, 33)}, constants={"axis": np.array(axis, np.int64)}, tolerance=1e-4)


@pytest.mark.parametrize(("shape", "axis"), [((3, 5000), 0), ((2, 3, 2, 2100), 0), ((4, 5, 70, 40), 1), ((1, 7, 3, 1), 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_running_sums_of_rows(shape: tuple[int, ...], axis: int, dtype: Any) -> None:
    """Rows in blocks, of one axis or of several, of which the last is not full."""
    x = (values(*shape) * 8).astype(dtype)
    node = oh.make_node("CumSum", ["x", "axis"], ["y"], exclusive=axis, reverse=1 - axis)
    agrees(node, {"x": x}, constants={"axis": np.array(axis, np.int64)}, tolerance=1e-4)


def test_running_product() -> None:
    node = oh.make_node("CumProd", ["x", "axis"], ["y"], reverse=1)
    x = np.random.default_rng(0).integers(1, 3, (9, 5)).astype(np.int32)
    agrees(node, {"x": x}, reference, constants={"axis": np.array(0, np.int64)}, opset=26)


@settings(max_examples=20)
@given(st.sampled_from([1, 2, 9, 33, 100]), st.data(), st.booleans(), st.sampled_from([0, 1, 2]))
def test_top_k(extent: int, data: Any, largest: bool, axis: int) -> None:
    shape = [3, 4, 5]
    shape[axis] = extent
    k = data.draw(st.integers(1, extent))
    x = np.random.default_rng(k).integers(0, 30, shape).astype(np.float32)
    node = oh.make_node("TopK", ["x", "k"], ["y", "i"], axis=axis, largest=int(largest))
    agrees(node, {"x": x}, constants={"k": np.array([k], np.int64)})


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int32])
def test_top_k_dtypes(dtype: Any) -> None:
    x = np.random.default_rng(2).integers(-50, 50, (2, 40)).astype(dtype)
    agrees(oh.make_node("TopK", ["x", "k"], ["y", "i"]), {"x": x}, constants={"k": np.array([7], np.int64)})


@pytest.mark.parametrize("largest", [0, 1])
def test_nan_is_larger_than_any_number(largest: int) -> None:
    x = values(1, 100)
    x[0, [40, 70]] = np.nan
    node = oh.make_node("TopK", ["x", "k"], ["y", "i"], largest=largest)
    model = make_model([node], {"x": [1, 100]}, ["y", "i"], {"k": np.array([4], np.int64)})
    _, places = loopnest.compile(model).run(None, {"x": x})
    order = np.argsort(np.where(np.isnan(x), np.inf, x) * (-1 if largest else 1), kind="stable")
    assert places.tolist() == order[:, :4].tolist()


def test_top_k_of_more_than_there_is() -> None:
    with pytest.raises(ModelError, match="k is"):
        agrees(oh.make_node("TopK", ["x", "k"], ["y", "i"]), {"x": values(2, 4)}, constants={"k": np.array([5], np.int64)})


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(9, 17), (17, 33)]),
        ("bij,bkj->bik", [(2, 5, 16), (2, 7, 16)]),
        ("...ij,...jk", [(3, 1, 4, 5), (2, 5, 6)]),
        ("ii->i", [(7, 7)]),
        ("ii", [(7, 7)]),
        ("ij->ji", [(9, 33)]),
        ("i,j->ij", [(9,), (17,)]),
        ("i,i,i->", [(50,), (50,), (50,)]),
        ("b...->...", [(4, 3, 9)]),
        ("ij, jk , kl -> il", [(3, 4), (4, 5), (5, 6)]),
        ("bhqd,bhkd->bhqk", [(2, 3, 5, 8), (2, 3, 7, 8)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    feeds = {f"x{i}": values(*shape, seed=i) for i, shape in enumerate(shapes)}
    agrees(oh.make_node("Einsum", list(feeds), ["y"], equation=equation), feeds, reference)


@pytest.mark.parametrize("equation", ["ij,jk->il", "ij->ij", "ijk,jk->i", "i1,jk->ik", "ij,jk->iik"])
def test_malformed_equations(equation: str) -> None:
    model = make_model(
        [oh.make_node("Einsum", ["a", "b"], ["y"], equation=equation)], {"a": ["A", "B"], "b": ["C", "D"]}, ["y"]
    )
    with pytest.raises(ModelError):
        loopnest.compile(model).run(None, {"a": values(2, 3), "b": values(3, 4)})


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_determinant(n: int) -> None:
    x = values(3, n, n)
    x[1, 0, 0] = 0
    x[2] = 1
    agrees(oh.make_node("Det", ["x"], ["y"]), {"x": x}, reference, 1e-4)
