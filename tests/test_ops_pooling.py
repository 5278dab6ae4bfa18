"""Pooling against ONNX Runtime: windows of every kind, plain and in blocks of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.ir.errors import KernelError, ModelError
from tests.graphs import assert_same, make_model, onnxruntime, reference, tensor, values


def infos(feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    return {n: tensor(n, a.shape, oh.np_dtype_to_tensor_dtype(a.dtype)) for n, a in feeds.items()}


def agrees(node: Any, feeds: dict[str, np.ndarray], judge: Any = onnxruntime, tolerance: float = 1e-5, opset: int = 22) -> None:
    model = make_model([node], infos(feeds), list(node.output), opset=opset)
    assert_same(loopnest.compile(model).run(None, feeds), judge(model, feeds), tolerance)


@st.composite
def windows(draw: Any, rank: int) -> dict[str, Any]:
    """Attributes of a pooling node that ONNX Runtime accepts: padding smaller than the kernel."""
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    attrs: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, min(3, k))) for k in kernel],
        "ceil_mode": draw(st.integers(0, 1)),
    }
    if draw(st.booleans()):
        attrs["dilations"] = [draw(st.integers(1, 2)) for _ in range(rank)]
    mode = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode == "NOTSET":
        attrs["pads"] = [draw(st.integers(0, k - 1)) for k in kernel] + [draw(st.integers(0, k - 1)) for k in kernel]
    elif mode != "VALID" or not attrs["ceil_mode"]:
        attrs["auto_pad"] = mode
        attrs["ceil_mode"] = 0
        attrs.pop("dilations", None)
    return attrs


def fits(attrs: dict[str, Any], extents: list[int]) -> bool:
    rank = len(extents)
    pads, dilations = attrs.get("pads", [0] * 2 * rank), attrs.get("dilations", [1] * rank)
    reaches = [(k - 1) * d + 1 for k, d in zip(attrs["kernel_shape"], dilations, strict=True)]
    return all(n + p + q >= r for n, p, q, r in zip(extents, pads, pads[rank:], reaches, strict=False))


@settings(max_examples=25)
@given(
    windows(2), st.sampled_from(["MaxPool", "AveragePool", "LpPool"]), st.sampled_from([5, 9, 17]), st.sampled_from([5, 16, 33])
)
def test_two_axes(attrs: dict[str, Any], op: str, height: int, width: int) -> None:
    assume(fits(attrs, [height, width]))
    assume(op == "MaxPool" or "dilations" not in attrs)
    if op == "LpPool":
        attrs.pop("ceil_mode")
    agrees(oh.make_node(op, ["x"], ["y"], **attrs), {"x": values(1, 3, height, width)}, opset=18)


@settings(max_examples=8)
@given(windows(3), st.sampled_from(["MaxPool", "AveragePool"]))
def test_three_axes(attrs: dict[str, Any], op: str) -> None:
    assume(fits(attrs, [5, 6, 9]))
    assume(op == "MaxPool" or "dilations" not in attrs)
    agrees(oh.make_node(op, ["x"], ["y"], **attrs), {"x": values(1, 2, 5, 6, 9)}, opset=18)


@settings(max_examples=8)
@given(windows(1), st.sampled_from(["MaxPool", "AveragePool"]), st.sampled_from([8, 33]))
def test_one_axis(attrs: dict[str, Any], op: str, extent: int) -> None:
    assume(fits(attrs, [extent]))
    assume(op == "MaxPool" or "dilations" not in attrs)
    agrees(oh.make_node(op, ["x"], ["y"], **attrs), {"x": values(2, 3, extent)}, opset=18)


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("include", [0, 1])
def test_average_counts_padding_or_not(include: int, ceil: int) -> None:
    attrs = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": include, "ceil_mode": ceil}
    agrees(oh.make_node("AveragePool", ["x"], ["y"], **attrs), {"x": values(1, 2, 9, 10)})


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("shape", "kernel"), [((2, 3, 9), [3]), ((2, 2, 9, 7), [3, 2]), ((1, 2, 5, 6, 7), [2, 3, 2])])
def test_positions_of_the_maxima(shape: tuple[int, ...], kernel: list[int], order: int) -> None:
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": [2] * len(kernel), "pads": [1] * 2 * len(kernel)}
    x = np.random.default_rng(0).integers(0, 9, shape).astype(np.float32)
    agrees(oh.make_node("MaxPool", ["x"], ["y", "i"], storage_order=order, **attrs), {"x": x})


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float64, np.float16])
def test_dtypes(dtype: Any) -> None:
    x = np.random.default_rng(0).integers(0, 100, (1, 2, 9, 33)).astype(dtype)
    judge = reference if dtype is np.float16 else onnxruntime
    agrees(oh.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), {"x": x}, judge)


@pytest.mark.parametrize("channels", [8, 12, 32])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"])
def test_between_convolutions(pool: str, channels: int) -> None:
    """The channels of a pooling node between convolutions lie in blocks."""
    attrs: dict[str, Any] = (
        {} if pool.startswith("Global") else {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    )
    nodes = [
        oh.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        oh.make_node(pool, ["a"], ["p"], **attrs),
        oh.make_node("Relu", ["p"], ["r"]),
        oh.make_node("Conv", ["r", "v"], ["y"]),
    ]
    constants = {"w": values(channels, 3, 3, 3, seed=1), "v": values(16, channels, 1, 1, seed=2)}
    model = make_model(nodes, {"x": ["N", 3, "H", "W"]}, ["y"], constants)
    f = loopnest.compile(model)
    for height, width in ((9, 14), (17, 12)):
        feeds = {"x": values(2, 3, height, width)}
        assert_same(f.run(None, feeds), onnxruntime(model, feeds), 1e-4)


@settings(max_examples=12)
@given(
    st.sampled_from(["MaxPool", "AveragePool", "LpPool"]),
    st.sampled_from([(6, 7), (13, 13), (1, 40), (33, 2), (4, 3, 5)]),
    st.sampled_from([8, 12]),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 1),
)
def test_large_windows_in_blocks(
    pool: str, kernel: tuple[int, ...], channels: int, stride: int, padded: bool, flag: int
) -> None:
    """Their outer axes are reduced for a row at once."""
    rank = len(kernel)
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": [stride if k > 2 else 1 for k in kernel]}
    if padded:
        attrs["pads"] = [k // 2 for k in kernel] + [(k - 1) // 3 for k in kernel]
    if pool != "LpPool":
        attrs["count_include_pad" if pool == "AveragePool" else "ceil_mode"] = flag
    nodes = [
        oh.make_node("Conv", ["x", "w"], ["a"]),
        oh.make_node(pool, ["a"], ["p"], **attrs),
        oh.make_node("Relu", ["p"], ["y"]),
    ]
    feeds = {"x": values(1, 3, *(k + 4 for k in kernel))}
    model = make_model(nodes, infos(feeds), ["y"], {"w": values(channels, 3, *[1] * rank, seed=1)})
    assert_same(loopnest.compile(model).run(None, feeds), onnxruntime(model, feeds), 1e-5)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("op", ["LpPool", "GlobalLpPool"])
def test_norms(op: str, p: int) -> None:
    attrs = {"kernel_shape": [2, 3]} if op == "LpPool" else {}
    agrees(oh.make_node(op, ["x"], ["y"], p=p, **attrs), {"x": values(2, 3, 9, 17)}, opset=18)


def test_unpool() -> None:
    x = values(2, 3, 8, 8)
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [oh.make_node("MaxPool", ["x"], ["p", "i"], **attrs), oh.make_node("MaxUnpool", ["p", "i"], ["y"], **attrs)]
    model = make_model(nodes, {"x": [2, 3, 8, 8]}, ["y"])
    assert_same(loopnest.compile(model).run(None, {"x": x}), onnxruntime(model, {"x": x}))


@pytest.mark.parametrize("position", [-1, 16])
def test_unpool_to_nowhere(position: int) -> None:
    feeds = {"x": values(1, 1, 2, 2), "i": np.array([[[[0, position], [3, 4]]]], np.int64)}
    model = make_model([oh.make_node("MaxUnpool", ["x", "i"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], infos(feeds), ["y"])
    with pytest.raises(KernelError, match=rf"position {position} is outside \[0, 15\]"):
        loopnest.compile(model).run(None, feeds)


@pytest.mark.parametrize(
    "attrs",
    [{"kernel_shape": [3]}, {"kernel_shape": [3, 0]}, {"kernel_shape": [3, 3], "pads": [1, 1]}, {"kernel_shape": [9, 9]}],
)
def test_windows_are_checked(attrs: dict[str, Any]) -> None:
    model = make_model([oh.make_node("MaxPool", ["x"], ["y"], **attrs)], {"x": [None, None, None, None]}, ["y"])
    with pytest.raises(ModelError):
        loopnest.compile(model).run(None, {"x": values(1, 1, 5, 5)})
