"""ConvTranspose against ONNX Runtime: every way in which stride, kernel, padding and dilation can meet, and the layouts around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest

from .graphs import make_model, values
from .test_ops_contraction import agrees

CHANNELS = st.sampled_from([1, 3, 7, 8, 9, 16, 17, 33])


@st.composite
def axes(draw: st.DrawFn, rank: int) -> dict[str, Any]:
    """Attributes and extents that ONNX allows together: the padding leaves some output, output_padding is below the stride."""
    sizes = [draw(st.integers(1, 9)) for _ in range(rank)]
    kernel = [draw(st.integers(1, 5)) for _ in range(rank)]
    strides = [draw(st.integers(1, 4)) for _ in range(rank)]
    dilations = [draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in range(rank)]
    extra = [draw(st.integers(0, s - 1)) for s in strides]
    reach = [s * (n - 1) + d * (k - 1) for s, n, d, k in zip(strides, sizes, dilations, kernel, strict=True)]
    pads = [draw(st.integers(0, min(3, r // 2))) for r in [*reach, *reach]]
    attributes = {"strides": strides, "dilations": dilations, "output_padding": extra, "pads": pads}
    return {"sizes": sizes, "kernel": kernel, "attributes": attributes}


def transposed(ci: int, co: int, groups: int, case: dict[str, Any], *, bias: bool, constant: bool, batch: int) -> None:
    names = ["x", "w", "b"] if bias else ["x", "w"]
    node = oh.make_node("ConvTranspose", names, ["y"], group=groups, **case["attributes"])
    w, b = values(ci, co // groups, *case["kernel"], seed=1), values(co, seed=2)
    feeds, constants = {"x": values(batch, ci, *case["sizes"])}, {"b": b} if bias else {}
    if constant:
        constants["w"] = w
    else:
        feeds["w"] = w
    agrees(make_model([node], {name: list(array.shape) for name, array in feeds.items()}, ["y"], constants), feeds)


@settings(max_examples=12, deadline=None)
@given(ci=CHANNELS, co=CHANNELS, case=axes(2), bias=st.booleans(), constant=st.booleans(), batch=st.integers(1, 2))
def test_two_dimensions(ci: int, co: int, case: dict[str, Any], bias: bool, constant: bool, batch: int) -> None:
    transposed(ci, co, 1, case, bias=bias, constant=constant, batch=batch)


def test_phases_of_one_weight() -> None:
    """One channel and a stride as large as the window: a phase is the product with one number."""
    node = oh.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[3, 3], pads=[1, 0, 1, 1])
    agrees(make_model([node], {"x": [1, 1, 17, 5]}, ["y"], {"w": values(1, 1, 2, 2)}), {"x": values(1, 1, 17, 5)})


@settings(max_examples=10, deadline=None)
@given(ci=CHANNELS, co=CHANNELS, case=axes(1), bias=st.booleans())
def test_one_dimension(ci: int, co: int, case: dict[str, Any], bias: bool) -> None:
    transposed(ci, co, 1, case, bias=bias, constant=True, batch=1)


@settings(max_examples=3, deadline=None)
@given(ci=CHANNELS, co=CHANNELS, case=axes(3))
def test_three_dimensions(ci: int, co: int, case: dict[str, Any]) -> None:
    transposed(ci, co, 1, case, bias=True, constant=True, batch=1)


@settings(max_examples=7, deadline=None)
@given(
    shape=st.sampled_from([(8, 8, 8), (16, 16, 16), (17, 17, 17), (6, 10, 2), (16, 32, 2), (32, 16, 2), (24, 8, 8)]),
    case=axes(2),
)
def test_groups(shape: tuple[int, int, int], case: dict[str, Any]) -> None:
    transposed(*shape, case, bias=True, constant=True, batch=1)


@pytest.mark.parametrize("wanted", [[11, 13], [9, 10], [10, 17]])
@pytest.mark.parametrize("mode", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_output_shape(wanted: list[int], mode: str) -> None:
    node = oh.make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 3], output_shape=wanted, auto_pad=mode)
    model = make_model([node], {"x": [1, 9, 5, 6]}, ["y"], {"w": values(9, 8, 3, 3, seed=1), "b": values(8, seed=2)})
    agrees(model, {"x": values(1, 9, 5, 6)})


@pytest.mark.parametrize("channels", [(16, 24), (9, 17), (16, 3)])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (4, 2, 1), (3, 2, 1), (1, 2, 0)])
def test_between_convolutions(kernel: int, stride: int, pad: int, channels: tuple[int, int]) -> None:
    """Its input has a halo, its output has one, and what follows is computed on the way out."""
    middle, last = channels
    nodes = [
        oh.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        oh.make_node("ConvTranspose", ["a", "w2", "b"], ["t"], strides=[stride] * 2, pads=[pad] * 4),
        oh.make_node("Relu", ["t"], ["r"]),
        oh.make_node("Add", ["r", "c"], ["s"]),
        oh.make_node("Conv", ["s", "w3"], ["y"], pads=[1, 1, 1, 1]),
    ]
    constants = {
        "w1": values(middle, 5, 3, 3, seed=1), "w2": values(middle, last, kernel, kernel, seed=2), "b": values(last, seed=3),
        "c": values(last, 1, 1, seed=4), "w3": values(7, last, 3, 3, seed=5),
    }  # fmt: skip
    model = make_model(nodes, {"x": [1, 5, 7, 9]}, ["y"], constants)
    x = values(1, 5, 7, 9)
    agrees(model, {"x": x})
    one, two = (loopnest.compile(model, threads=n)(x) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_half_precision() -> None:
    node = oh.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    x, w = values(1, 9, 5, 6), values(9, 8, 3, 3, seed=1)
    model = make_model([node], {"x": [1, 9, 5, 6]}, ["y"], {"w": w})
    expected = loopnest.compile(model)(x.astype(np.float16).astype(np.float32))
    inputs = {"x": oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, [1, 9, 5, 6])}
    half = make_model([node], inputs, ["y"], {"w": w.astype(np.float16)})
    np.testing.assert_allclose(loopnest.compile(half)(x.astype(np.float16)), expected, atol=0.05)
