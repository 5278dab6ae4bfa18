"""Squeeze and excite: the scale of channels goes to the weights of the 1x1 convolution that reads them; against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest

from .graphs import make_model, reference, values
from .test_placement import n, steps


def excite(*, swapped: bool = False, residual: bool = False) -> list[onnx.NodeProto]:
    """What is scaled by a function of its own mean, then a 1x1 convolution, with what is scaled as its residual."""
    scale = n("Mul", "s a" if swapped else "a s", "t")
    nodes = [n("Conv", "x w", "a"), n("GlobalAveragePool", "a", "m"), n("Sigmoid", "m", "s"), scale, n("Conv", "t u b", "c")]
    return [*nodes, n("Add", "c a", "y") if residual else n("Relu", "c", "y")]


def constants(channels: int, out: int, rank: int) -> dict[str, np.ndarray]:
    ones = (1,) * rank
    return {"w": values(channels, 8, *ones, seed=1), "u": values(out, channels, *ones, seed=2), "b": values(out, seed=3)}


@settings(max_examples=5)
@given(
    st.sampled_from([8, 9, 16, 20, 33]),
    st.sampled_from([1, 7, 8, 12, 24, 40]),
    st.sampled_from([7, 9, 16, 17]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_any_channels(channels: int, out: int, size: int, batch: int, swapped: bool) -> None:
    found = steps(excite(swapped=swapped), {"x": values(batch, 8, size, size)}, constants(channels, out, 2))
    scaled = [op for op in found if op.startswith("Mul+Conv")]
    assert len(scaled) == (batch == 1 and size * size >= 4 * out)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    image = (300,) if rank == 1 else (3, 9, 11)
    assert "Mul+Conv+Relu" in steps(excite(), {"x": values(1, 8, *image)}, constants(24, 16, rank))


def test_long_sums_in_parts() -> None:
    assert "Mul+Conv+Relu" in steps(excite(), {"x": values(1, 8, 13, 15)}, constants(700, 20, 2))


def test_what_is_scaled_is_not_written_over() -> None:
    """The residual has the shape of the result, but is read by other places of the result too."""
    assert "Mul+Conv+Add" in steps(excite(residual=True), {"x": values(1, 8, 9, 9)}, constants(16, 16, 2))


def test_a_scale_that_is_used_elsewhere_stays_apart() -> None:
    nodes = [*excite()[:-1], n("Conv", "t v", "d"), n("Add", "c d", "y")]
    weights = {**constants(16, 16, 2), "v": values(16, 16, 1, 1, seed=9)}
    assert "Mul" in steps(nodes, {"x": values(1, 8, 9, 9)}, weights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_layout(dtype: type) -> None:
    arrays = {name: array.astype(dtype) for name, array in constants(16, 12, 2).items()}
    x = values(1, 8, 9, 7).astype(dtype)
    info = onnx.helper.make_tensor_value_info("x", onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    model = make_model(excite(), {"x": info}, ["y"], arrays)
    ours = loopnest.compile(model, threads=1, config={"layout": "plain"}).run(None, {"x": x})[0]
    np.testing.assert_allclose(ours, reference(model, {"x": x})[0], rtol=1e-4, atol=1e-4)
