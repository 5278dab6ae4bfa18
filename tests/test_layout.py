"""Which operators keep blocks of channels, and conversions between layouts: against ONNX Runtime, and by the steps that run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .graphs import values
from .test_placement import n, steps

EXTENTS = (1, 7, 8, 9, 15, 16, 17, 31, 33)
CONVERSION = "Identity"


@pytest.mark.parametrize(("op", "channels"), [("ReduceMean", 8), ("ReduceMean", 12), ("ReduceMax", 24), ("ReduceL2", 20)])
def test_reductions_of_images_read_blocks(op: str, channels: int) -> None:
    """Squeeze and excite: nothing is converted but the result."""
    nodes = [
        n("Conv", "x w", "a"), n(op, "a axes", "m", keepdims=1), n("Conv", "m v", "g"), n("Sigmoid", "g", "s"),
        n("Mul", "a s", "t"), n("Conv", "t u", "y"),
    ]  # fmt: skip
    constants = {
        "w": values(channels, 16, 1, 1, seed=1), "v": values(channels, channels, 1, 1, seed=2) / channels,
        "u": values(16, channels, 1, 1, seed=3), "axes": np.array([2, -1], np.int64),
    }  # fmt: skip
    for batch in (1, 2):
        found = steps(nodes, {"x": values(batch, 16, 9, 7)}, constants, opset=18)
        assert found.count(CONVERSION) == 1 and found[-1] == CONVERSION


@pytest.mark.parametrize(("axes", "keepdims"), [([1], 1), ([2], 1), ([2, 3], 0), ([0, 2, 3], 1), ([1, 2, 3], 1)])
def test_other_reductions_of_blocks(axes: list[int], keepdims: int) -> None:
    nodes = [n("Conv", "x w", "a"), n("ReduceMean", "a axes", "y", keepdims=keepdims)]
    steps(nodes, {"x": values(2, 16, 9, 17)}, {"w": values(20, 16, 1, 1), "axes": np.array(axes, np.int64)}, opset=18)


@settings(max_examples=7)
@given(st.sampled_from(EXTENTS), st.sampled_from(EXTENTS), st.sampled_from([1, 3]), st.sampled_from([1, 2]))
def test_conversions_of_any_extents(height: int, width: int, kernel: int, batch: int) -> None:
    """To blocks, with and without a halo, and back."""
    nodes = [n("Conv", "x w", "y", group=16, pads=[kernel // 2] * 4)]
    found = steps(nodes, {"x": values(batch, 16, height, width)}, {"w": values(16, 1, kernel, kernel)})
    assert len(found) <= 3


def test_an_operand_in_another_order_is_read_in_blocks() -> None:
    """A residual that is the model's input is added to blocks on the way."""
    nodes = [n("Conv", "x w", "a", pads=[1] * 4), n("Add", "a x", "b"), n("Conv", "b v", "y")]
    for width in (9, 16, 33):
        steps(nodes, {"x": values(1, 16, 7, width)}, {"w": values(16, 16, 3, 3), "v": values(8, 16, 1, 1)})


@pytest.mark.parametrize("batch", [1, 2])
def test_what_follows_a_join_in_place_is_apart(batch: int) -> None:
    """GhostNet: both halves are written where they are joined, in blocks, and the residual is added to them there."""
    nodes = [
        n("Conv", "x w", "a"), n("Conv", "a d", "b", group=8, pads=[1] * 4), n("Concat", "a b", "c", axis=1), n("Conv", "x v", "r"),
        n("Add", "c r", "s"), n("Conv", "s u", "y"),
    ]  # fmt: skip
    constants = {"w": values(8, 16, 1, 1), "d": values(8, 1, 3, 3), "v": values(16, 16, 1, 1), "u": values(8, 16, 1, 1)}
    found = steps(nodes, {"x": values(batch, 16, 9, 9)}, constants)
    if batch == 1:
        assert found == ["Conv", "Conv", "Conv+Add", "Conv", "Identity"]
