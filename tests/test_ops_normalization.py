"""Normalizations against ONNX Runtime, ONNX's reference, or NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import given
from hypothesis import strategies as st

import loopnest
from loopnest.ir.errors import ModelError
from tests.graphs import assert_same, make_model, onnxruntime, reference, tensor, values

EXTENTS = st.sampled_from([1, 7, 8, 9, 15, 16, 17, 31, 33])


def agrees(node: Any, feeds: dict[str, np.ndarray], judge: Any = onnxruntime, tolerance: float = 1e-5, opset: int = 17) -> None:
    inputs = {n: tensor(n, a.shape, oh.np_dtype_to_tensor_dtype(a.dtype)) for n, a in feeds.items()}
    model = make_model([node], inputs, list(node.output), opset=opset)
    assert_same(loopnest.compile(model).run(None, feeds), judge(model, feeds), tolerance)


@given(EXTENTS, EXTENTS, st.sampled_from([1, 2, -1]), st.booleans())
def test_layer_normalization(rows: int, columns: int, axis: int, bias: bool) -> None:
    x = values(rows, 5, columns) * 3 + 100
    feeds = {"x": x, "scale": values(*x.shape[axis:], seed=1)}
    if bias:
        feeds["bias"] = values(*x.shape[axis:], seed=2)
    agrees(oh.make_node("LayerNormalization", list(feeds), ["y"], axis=axis), feeds, tolerance=2e-4)


def test_layer_normalization_with_statistics() -> None:
    feeds = {"x": values(3, 4, 33), "scale": values(33, seed=1), "bias": values(33, seed=2)}
    agrees(oh.make_node("LayerNormalization", list(feeds), ["y", "mean", "scale_used"], epsilon=1e-3), feeds)


def test_layer_normalization_is_accurate_far_from_zero() -> None:
    x = (values(4, 768) + 1000).astype(np.float32)
    feeds = {"x": x, "scale": np.ones(768, np.float32)}
    model = make_model([oh.make_node("LayerNormalization", ["x", "scale"], ["y"])], {"x": [4, 768], "scale": [768]}, ["y"])
    (y,) = loopnest.compile(model).run(None, feeds)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=3e-4)


def test_layer_normalization_of_float16() -> None:
    x = values(5, 40).astype(np.float16)
    feeds = {"x": x, "scale": np.ones(40, np.float16)}
    agrees(oh.make_node("LayerNormalization", list(feeds), ["y"]), feeds, reference, 2e-3)


def test_layer_normalization_takes_its_surroundings_in() -> None:
    nodes = [
        oh.make_node("Add", ["x", "r"], ["sum"]),
        oh.make_node("LayerNormalization", ["sum", "scale", "bias"], ["norm"]),
        oh.make_node("Relu", ["norm"], ["y"]),
    ]
    constants = {"scale": values(33, seed=1), "bias": values(33, seed=2)}
    model = make_model(nodes, {"x": ["N", 33], "r": ["N", 33]}, ["y"], constants)
    feeds = {"x": values(9, 33), "r": values(9, 33, seed=5)}
    f = loopnest.compile(model)
    assert_same(f.run(None, feeds), onnxruntime(model, feeds))
    assert "Add+LayerNormalization+Relu" in str(f)


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_normalization(axis: int) -> None:
    x = values(3, 5, 33)
    feeds = {"x": x, "scale": values(*x.shape[axis:], seed=1)}
    agrees(oh.make_node("RMSNormalization", list(feeds), ["y"], axis=axis), feeds, reference, opset=23)


@given(EXTENTS, EXTENTS, EXTENTS)
def test_instance_normalization(channels: int, height: int, width: int) -> None:
    feeds = {"x": values(2, channels, height, width), "scale": values(channels, seed=1), "bias": values(channels, seed=2)}
    agrees(oh.make_node("InstanceNormalization", list(feeds), ["y"]), feeds, tolerance=1e-4)


@pytest.mark.parametrize(("groups", "shape"), [(2, (2, 6, 5, 7)), (3, (1, 9, 33)), (1, (2, 4, 3, 3, 3)), (4, (2, 4, 9))])
def test_group_normalization(groups: int, shape: tuple[int, ...]) -> None:
    feeds = {"x": values(*shape), "scale": values(shape[1], seed=1), "bias": values(shape[1], seed=2)}
    agrees(oh.make_node("GroupNormalization", list(feeds), ["y"], num_groups=groups), feeds, reference, opset=21)


@pytest.mark.parametrize("shape", [(2, 9, 5, 7), (4, 17), (2, 3, 33)])
def test_batch_normalization_with_computed_statistics(shape: tuple[int, ...]) -> None:
    c = shape[1]
    feeds = {"x": values(*shape), "s": values(c, seed=1), "b": values(c, seed=2), "m": values(c, seed=3)}
    feeds["v"] = np.abs(values(c, seed=4)) + 0.1
    agrees(oh.make_node("BatchNormalization", list(feeds), ["y"]), feeds)


def test_batch_normalization_that_trains() -> None:
    feeds = {"x": values(3, 9, 5, 7), "s": values(9, seed=1), "b": values(9, seed=2), "m": values(9, seed=3)}
    feeds["v"] = np.abs(values(9, seed=4)) + 0.1
    node = oh.make_node("BatchNormalization", list(feeds), ["y", "rm", "rv"], training_mode=1, momentum=0.7)
    agrees(node, feeds, reference)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lp_normalization(axis: int, p: int) -> None:
    x = values(5, 9, 33)
    x[:, :, 3] = 0
    agrees(oh.make_node("LpNormalization", ["x"], ["y"], axis=axis, p=p), {"x": x})


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
@pytest.mark.parametrize("size", [1, 5, 21])
def test_local_response_normalization(size: int, beta: float) -> None:
    node = oh.make_node("LRN", ["x"], ["y"], size=size, beta=beta, alpha=0.02, bias=1.5)
    agrees(node, {"x": values(2, 9, 5, 17) * 5})


def test_local_response_normalization_of_even_size() -> None:
    x = values(1, 9, 3, 5)
    model = make_model([oh.make_node("LRN", ["x"], ["y"], size=4, alpha=0.1)], {"x": x.shape}, ["y"])
    squares = np.stack([(x[:, max(0, c - 1) : c + 3] ** 2).sum(1) for c in range(9)], 1)
    assert_same(loopnest.compile(model).run(None, {"x": x}), [x / (1 + 0.1 / 4 * squares) ** 0.75])


def test_mean_variance_normalization() -> None:
    agrees(oh.make_node("MeanVarianceNormalization", ["x"], ["y"]), {"x": values(3, 5, 7, 9)})


@pytest.mark.parametrize(
    ("op", "shapes", "attrs"),
    [
        ("LayerNormalization", [(3, 4), (5,)], {}),
        ("LayerNormalization", [(3, 4), (4,)], {"axis": 2}),
        ("InstanceNormalization", [(1, 3, 4), (2,), (3,)], {}),
        ("GroupNormalization", [(1, 4, 4), (4,), (4,)], {"num_groups": 3}),
        ("BatchNormalization", [(1, 3, 4), (3,), (3,), (2,), (3,)], {}),
    ],
)
def test_parameters_are_checked(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    feeds = {f"x{i}": values(*shape) for i, shape in enumerate(shapes)}
    inputs = {name: [None] * array.ndim for name, array in feeds.items()}
    model = make_model([oh.make_node(op, list(feeds), ["y"], **attrs)], inputs, ["y"], opset=21)
    with pytest.raises(ModelError):
        loopnest.compile(model).run(None, feeds)
