"""Convolutions in regions that read no padding: what each reads, when they are chosen, and results against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.codegen.target import resolve
from loopnest.compiler import algorithms
from loopnest.compiler.algorithms import Algorithm, algorithm_of
from loopnest.compiler.config import NodeOptions
from loopnest.compiler.ops.convolution import runs
from loopnest.compiler.tensor import Layout, Tensor
from loopnest.ir import dtypes
from loopnest.ir.graph import Node

from .graphs import make_model, values
from .test_ops_contraction import agrees


@given(
    size=st.integers(1, 20),
    kernel=st.integers(1, 6),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 25),
    before=st.integers(0, 30),
    after=st.integers(0, 30),
)
def test_runs_read_every_pixel_once_and_nothing_else(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> None:
    out = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    if out < 1:
        return
    found = runs(size, out, kernel, stride, dilation, before)
    made = [
        (run.start + i * run.apart + o, tap + run.first + i * run.shift)
        for run in found
        for i in range(run.several)
        for o in range(run.count)
        for tap in range(run.taps)
    ]
    wanted = [(o, tap) for o in range(out) for tap in range(kernel) if 0 <= o * stride + tap * dilation - before < size]
    assert sorted(made) == wanted
    places = [run.start + i * run.apart + o for run in found for i in range(run.several) for o in range(run.count)]
    assert sorted(places) == list(range(out))


@st.composite
def axes(draw: st.DrawFn, rank: int) -> dict[str, Any]:
    """Windows that reach far into the padding."""
    sizes = [draw(st.integers(1, 17)) for _ in range(rank)]
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 9)) for _ in range(rank)]
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    pads = [draw(st.integers((r + 1) // 2, r + 2)) for r in [*reach, *reach]]
    strides = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    return {"sizes": sizes, "kernel": kernel, "attributes": {"dilations": dilations, "pads": pads, "strides": strides}}


CHANNELS = st.sampled_from([(8, 8, 1), (9, 17, 1), (16, 3, 1), (33, 24, 1), (64, 7, 1), (32, 16, 2), (16, 32, 2), (18, 14, 2)])


def dilated(channels: tuple[int, int, int], case: dict[str, Any], batch: int, constant: bool, config: Any = None) -> None:
    """A convolution with what comes before and after it, wherever there are several regions."""
    ci, co, groups = channels
    nodes = [
        oh.make_node("Abs", ["x"], ["a"]),
        oh.make_node("Conv", ["a", "w", "b"], ["c"], group=groups, **case["attributes"]),
        oh.make_node("Relu", ["c"], ["y"]),
    ]
    feeds = {"x": values(batch, ci, *case["sizes"])}
    constants = {"b": values(co, seed=2)}
    (constants if constant else feeds)["w"] = values(co, ci // groups, *case["kernel"], seed=1)
    agrees(make_model(nodes, {name: list(array.shape) for name, array in feeds.items()}, ["y"], constants), feeds, config)


@settings(max_examples=6, deadline=None)
@given(channels=CHANNELS, case=axes(2), batch=st.integers(1, 2), constant=st.booleans())
def test_two_dimensions(channels: tuple[int, int, int], case: dict[str, Any], batch: int, constant: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithms, "MIN_REGION_GAIN", 0.0)
        dilated(channels, case, batch, constant)


@settings(max_examples=5, deadline=None)
@given(channels=CHANNELS, case=axes(1), batch=st.integers(1, 2))
def test_one_dimension(channels: tuple[int, int, int], case: dict[str, Any], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithms, "MIN_REGION_GAIN", 0.0)
        dilated(channels, case, batch, True)


@pytest.mark.parametrize(("size", "dilation", "channels"), [(9, 6, (16, 24)), (14, 12, (9, 17))])
def test_between_convolutions(size: int, dilation: int, channels: tuple[int, int]) -> None:
    """Its input has a halo for another reader, its output has one, a residual is added, and threads change nothing."""
    middle, last = channels
    nodes = [
        oh.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        oh.make_node("Conv", ["a", "w2", "b"], ["d"], dilations=[dilation] * 2, pads=[dilation] * 4),
        oh.make_node("Conv", ["a", "w3"], ["e"], pads=[1, 1, 1, 1]),
        oh.make_node("Add", ["d", "e"], ["s"]),
        oh.make_node("Conv", ["s", "w4"], ["y"], pads=[1, 1, 1, 1]),
    ]
    constants = {
        "w1": values(middle, 5, 3, 3, seed=1), "w2": values(last, middle, 3, 3, seed=2), "b": values(last, seed=3),
        "w3": values(last, middle, 3, 3, seed=4), "w4": values(9, last, 3, 3, seed=5),
    }  # fmt: skip
    model = make_model(nodes, {"x": [1, 5, size, size]}, ["y"], constants)
    x = values(1, 5, size, size)
    agrees(model, {"x": x}, config={"conv": "direct"})
    one, two = (loopnest.compile(model, threads=n, config={"conv": "direct"})(x) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("size", "kernel"), [(6, 5), (14, 5), (7, 7)])
def test_without_dilations(size: int, kernel: int) -> None:
    """Regions of one place each, of which two that are alike are the rows of one tile."""
    attributes = {"pads": [kernel // 2] * 4}
    dilated(
        (64, 64, 1), {"sizes": [size, size], "kernel": [kernel, kernel], "attributes": attributes}, 1, True, {"conv": "direct"}
    )


def choice(size: int, dilation: int, inputs: int = 64, pad: int | None = None, block: int = 8) -> Algorithm:
    pad = dilation if pad is None else pad
    node = Node("Conv", ("x", "w"), ("y",), {"dilations": (dilation,) * 2, "pads": (pad,) * 4})
    out = size + 2 * (pad - dilation)
    shapes = {"x": (1, inputs, size, size), "w": (64, inputs, 3, 3), "y": (1, 64, out, out)}
    tensors = {name: Tensor(name, dtypes.float32, shape, Layout(block if name == "y" else 0)) for name, shape in shapes.items()}
    return algorithm_of(node, tensors, {"w"}, NodeOptions(), resolve("cpu-avx2"))


def test_choice() -> None:
    """Regions where a good part of the products would be with padding; not for few rows of it, nor for few channels."""
    assert choice(28, 12).regions and choice(28, 24).regions
    assert choice(28, 12).title == "by regions" and "times as fast" in choice(28, 12).reason
    assert not choice(28, 12, block=0).regions  # pixels are a vector there
    assert not choice(56, 2).regions and not choice(28, 12, inputs=3).regions and not choice(60, 12, pad=0).regions
