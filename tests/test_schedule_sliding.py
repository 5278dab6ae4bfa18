"""Depthwise convolutions against ONNX Runtime, over extents that straddle channel blocks and tiles of pixels."""

from __future__ import annotations

import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest

from .graphs import make_model, values
from .test_ops_contraction import agrees

CHANNELS = st.sampled_from([8, 9, 15, 16, 17, 31, 33])
EXTENTS = st.sampled_from([1, 2, 7, 8, 9, 10, 11, 15, 16, 17, 21, 31, 33])


def depthwise(
    channels: int, sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int], pads: list[int]
) -> None:
    node = oh.make_node("Conv", ["x", "w", "b"], ["c"], group=channels, strides=strides, dilations=dilations, pads=pads)
    nodes = [node, oh.make_node("HardSwish", ["c"], ["y"])]
    constants = {"w": values(channels, 1, *kernel, seed=1), "b": values(channels, seed=2)}
    model = make_model(nodes, {"x": [2, channels, *sizes]}, ["y"], constants)
    f = agrees(model, {"x": values(2, channels, *sizes)})
    x = values(2, channels, *sizes)
    np.testing.assert_array_equal(f(x), loopnest.compile(model, threads=2)(x))


@settings(max_examples=12, deadline=None)
@given(
    channels=CHANNELS, height=EXTENTS, width=EXTENTS, kernel=st.sampled_from([1, 2, 3, 5, 7]), stride=st.integers(1, 3),
    dilation=st.sampled_from([1, 1, 2]), pad=st.integers(0, 3),
)  # fmt: skip
def test_two_dimensions(channels: int, height: int, width: int, kernel: int, stride: int, dilation: int, pad: int) -> None:
    reach = (kernel - 1) * dilation
    pad = max(pad, (reach + 1) // 2) if min(height, width) + 2 * pad <= reach else pad
    depthwise(
        channels, [height, width], [kernel, kernel], [stride, 1], [1, dilation] if kernel == 3 else [dilation] * 2, [pad] * 4
    )


@settings(max_examples=4, deadline=None)
@given(
    channels=CHANNELS, length=st.sampled_from([9, 10, 21, 33]), kernel=st.sampled_from([1, 3, 4, 9]), stride=st.integers(1, 2)
)
def test_one_dimension(channels: int, length: int, kernel: int, stride: int) -> None:
    depthwise(channels, [length], [kernel], [stride], [1], [kernel - 1, 0])


def test_three_dimensions() -> None:
    depthwise(17, [5, 6, 11], [3, 3, 3], [1, 2, 1], [1, 1, 1], [1] * 6)


@pytest.mark.parametrize("channels", [16, 17])
def test_between_dense_convolutions(channels: int) -> None:
    """Halo read and halo written, with a residual on the way out."""
    nodes = [
        oh.make_node("Conv", ["x", "w1"], ["a"]),
        oh.make_node("Conv", ["a", "w2", "b"], ["d"], group=channels, pads=[1, 1, 1, 1]),
        oh.make_node("Add", ["d", "a"], ["s"]),
        oh.make_node("Conv", ["s", "w3"], ["y"], pads=[1, 1, 1, 1]),
    ]
    constants = {
        "w1": values(channels, 5, 1, 1, seed=1), "w2": values(channels, 1, 3, 3, seed=2), "b": values(channels, seed=3),
        "w3": values(7, channels, 3, 3, seed=4),
    }  # fmt: skip
    agrees(make_model(nodes, {"x": [1, 5, 12, 13]}, ["y"], constants), {"x": values(1, 5, 12, 13)})
