"""Resize, GridSample, RoiAlign, MaxRoiPool and Col2Im, against ONNX's reference and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from tests.graphs import make_model, onnxruntime, reference, values
from tests.test_ops_movement import run

COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def resize_model(x: np.ndarray, scales: Any = None, sizes: Any = None, roi: Any = None, **attrs: Any) -> Any:
    constants = {
        name: np.asarray(value, np.int64 if name == "sizes" else np.float32)
        for name, value in {"roi": roi, "scales": scales, "sizes": sizes}.items()
        if value is not None
    }
    names = [name if name in constants else "" for name in ("roi", "scales", "sizes")]
    node = oh.make_node("Resize", ["x", *names], ["y"], **attrs)
    typed = oh.make_tensor_value_info("x", oh.np_dtype_to_tensor_dtype(x.dtype), list(x.shape))
    return make_model([node], {"x": typed}, ["y"], constants, opset=19)


def agrees_with_reference(x: np.ndarray, **options: Any) -> None:
    model = resize_model(x, **options)
    (expected,) = reference(model, {"x": x})
    ours = loopnest.compile(model)(x)
    assert ours.shape == expected.shape and ours.dtype == expected.dtype
    if options.get("mode", "nearest") == "nearest":
        np.testing.assert_array_equal(ours, expected)
    elif x.dtype.kind == "f":
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(x).max())))
    else:  # what lies in the middle between two integers may be rounded to either
        np.testing.assert_allclose(ours.astype(np.float64), expected.astype(np.float64), rtol=0, atol=1)
        assert (ours != expected).mean() < 0.02


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("scale", [0.4, 1.7, 3.0])
def test_coordinates(mode: str, coordinates: str, scale: float) -> None:
    agrees_with_reference(values(1, 2, 7, 9), scales=[1, 1, scale, 1.6], mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("rounding", NEAREST)
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_rounding_of_nearest(rounding: str, coordinates: str) -> None:
    options = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": coordinates}
    agrees_with_reference(values(2, 3, 5, 6), scales=[1, 1, 2, 2.5], **options)
    agrees_with_reference(values(2, 3, 8, 9), sizes=[2, 3, 4, 5], **options)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scale", [0.2, 0.55, 2.0])
@pytest.mark.parametrize("exclude", [0, 1])
def test_antialias(mode: str, scale: float, exclude: int) -> None:
    agrees_with_reference(values(1, 1, 23, 17), scales=[1, 1, scale, scale], mode=mode, antialias=1, exclude_outside=exclude)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_aspect_ratio(policy: str, mode: str) -> None:
    agrees_with_reference(values(1, 1, 6, 8), sizes=[9, 20], axes=[2, 3], keep_aspect_ratio_policy=policy, mode=mode)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop(mode: str) -> None:
    options = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.5, "mode": mode}
    agrees_with_reference(values(1, 1, 6, 7), sizes=[1, 1, 5, 9], roi=[0, 0, 0.4, -0.2, 1, 1, 1.2, 0.7], **options)


@pytest.mark.parametrize("shape", [(9,), (2, 5, 6, 3), (1, 2, 5, 6, 7)])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_any_axes(shape: tuple[int, ...], mode: str) -> None:
    scales = {1: [1.5], 4: [1, 2, 0.7, 1], 5: [1, 1, 1.5, 2, 0.6]}[len(shape)]
    agrees_with_reference(values(*shape), scales=scales, mode=mode)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.float64])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_other_dtypes(dtype: Any, mode: str) -> None:
    x = np.random.default_rng(0).integers(-100 if dtype != np.uint8 else 0, 100, (1, 2, 7, 9)).astype(dtype)
    agrees_with_reference(x, scales=[1, 1, 1.3, 2], mode=mode)


def test_rows_longer_than_the_vectors_against_onnxruntime() -> None:
    x = values(1, 3, 33, 65)
    for mode in ("nearest", "linear", "cubic"):
        model = resize_model(x, scales=[1, 1, 2, 2], mode=mode)
        np.testing.assert_allclose(loopnest.compile(model)(x), onnxruntime(model, {"x": x})[0], rtol=1e-4, atol=1e-5)


def test_what_follows_joins_and_new_sizes_are_planned() -> None:
    nodes = [oh.make_node("Resize", ["x", "", "s"], ["a"], mode="linear"), oh.make_node("Add", ["a", "z"], ["y"])]
    scales = np.float32([1, 1, 2, 2])
    model = make_model(nodes, {"x": [1, 2, "h", "w"], "z": [1]}, ["y"], {"s": scales}, opset=19)
    f = loopnest.compile(model)
    for h, w in ((4, 5), (9, 3)):
        feeds = {"x": values(1, 2, h, w), "z": values(1)}
        np.testing.assert_allclose(f(**feeds), reference(model, feeds)[0], rtol=1e-5, atol=1e-5)
    assert "Resize+Add" in str(f)


# --- GridSample --------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    padding=st.sampled_from(["zeros", "border", "reflection"]),
    aligned=st.sampled_from([0, 1]),
    width=st.sampled_from([1, 5, 8, 17]),
)
def test_grid_sample(mode: str, padding: str, aligned: int, width: int) -> None:
    x, grid = values(2, 3, 5, 7), np.random.default_rng(1).uniform(-1.6, 1.6, (2, 4, width, 2)).astype(np.float32)
    node = oh.make_node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=aligned)
    model = make_model([node], {"x": x.shape, "g": grid.shape}, ["y"], opset=20)
    (expected,) = reference(model, {"x": x, "g": grid})
    np.testing.assert_allclose(loopnest.compile(model)(x, grid), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_grid_sample_of_volumes_and_wild_places(mode: str) -> None:
    x, grid = values(1, 2, 3, 4, 5), np.random.default_rng(1).uniform(-1.2, 1.2, (1, 2, 3, 9, 3)).astype(np.float32)
    node = oh.make_node("GridSample", ["x", "g"], ["y"], mode=mode)
    model = make_model([node], {"x": x.shape, "g": grid.shape}, ["y"], opset=20)
    f = loopnest.compile(model)
    np.testing.assert_allclose(f(x, grid), reference(model, {"x": x, "g": grid})[0], rtol=1e-4, atol=1e-4)
    grid[..., :4, :] = [[np.nan] * 3, [np.inf] * 3, [-np.inf] * 3, [1e30] * 3]
    assert f(x, grid).shape == (1, 2, 2, 3, 9)


# --- regions and blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(mode: str, coordinates: str, ratio: int) -> None:
    x = values(2, 3, 9, 11)
    rois = np.float32([[0, 0, 8, 8], [2.5, 1.5, 20, 6], [-4, -4, 3, 3], [5, 5, 5, 5]])
    batches = np.int64([0, 1, 1, 0])
    options = {"output_height": 3, "output_width": 9, "sampling_ratio": ratio, "spatial_scale": 0.7}
    node = oh.make_node("RoiAlign", ["x", "r", "b"], ["y"], mode=mode, coordinate_transformation_mode=coordinates, **options)
    typed = oh.make_tensor_value_info("b", 7, [4])
    model = make_model([node], {"x": x.shape, "r": rois.shape, "b": typed}, ["y"], opset=16)
    f = loopnest.compile(model)
    np.testing.assert_allclose(
        f(x, rois, batches), onnxruntime(model, {"x": x, "r": rois, "b": batches})[0], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(loopnest.KernelError, match=r"batch index 2 is outside \[0, 1\] of 'x'"):
        f(x, rois, np.int64([0, 2, 0, 0]))


def test_max_roi_pool() -> None:
    x = values(2, 3, 9, 11)
    rois = np.float32([[0, 0, 0, 8, 8], [1, 2, 1, 10, 6], [1, 3, 3, 4, 4], [0, 9, 7, 15, 20]])
    node = oh.make_node("MaxRoiPool", ["x", "r"], ["y"], pooled_shape=[3, 4], spatial_scale=0.9)
    model = make_model([node], {"x": x.shape, "r": rois.shape}, ["y"])
    np.testing.assert_allclose(loopnest.compile(model)(x, rois), onnxruntime(model, {"x": x, "r": rois})[0])


@pytest.mark.parametrize(("stride", "dilation", "pad"), [(1, 1, 0), (2, 1, 1), (1, 2, 1), (3, 2, 2)])
def test_col2im(stride: int, dilation: int, pad: int) -> None:
    count = [(n + 2 * pad - (dilation * (k - 1) + 1)) // stride + 1 for n, k in ((8, 2), (9, 3))]
    x = values(2, 3 * 6, count[0] * count[1])
    attrs = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [pad] * 4}
    constants = {"b": np.int64([8, 9]), "c": np.int64([2, 3])}
    ours = run("Col2Im", {"a": x}, constants, **attrs)
    model = make_model([oh.make_node("Col2Im", ["a", "b", "c"], ["y"], **attrs)], {"a": x.shape}, ["y"], constants, opset=18)
    np.testing.assert_allclose(ours, reference(model, {"a": x})[0], rtol=1e-5, atol=1e-5)
