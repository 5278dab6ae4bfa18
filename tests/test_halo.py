"""Halos of zeros around images are written whatever was in the memory before, by tasks of whole rows and by loops of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest

import loopnest
from tests.graphs import make_model, onnxruntime, values
from tests.kernels import kernels_of


@pytest.fixture
def memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of bytes that nobody wrote yet is not zero but NaN."""
    empty = np.empty

    def filled(shape: Any, dtype: Any = float, *args: Any, **named: Any) -> np.ndarray:
        array = empty(shape, dtype, *args, **named)
        if array.dtype == np.uint8:
            array.fill(255)
        return array

    monkeypatch.setattr(np, "empty", filled)


@pytest.mark.usefixtures("memory_is_nan")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("channels", "size", "pads", "stride", "groups"),
    [
        ((8, 16), (1, 14, 14), (1, 1, 1, 1), 1, 1),
        ((9, 17), (3, 8, 31), (1, 0, 2, 1), 1, 1),
        ((16, 40), (2, 7, 9), (2, 1, 0, 3), 2, 1),
        ((24, 48), (1, 15, 33), (2, 2, 2, 2), 2, 3),
        ((320, 40), (2, 28, 28), (1, 1, 1, 1), 1, 5),
        ((16, 64), (1, 1, 33), (1, 1, 1, 1), 1, 1),
        ((16, 64), (2, 17, 1), (1, 1, 1, 1), 1, 1),
    ],
)
def test_a_producer_writes_the_halo(
    channels: tuple[int, int], size: tuple[int, int, int], pads: tuple[int, ...], stride: int, groups: int, threads: int
) -> None:
    inputs, between = channels
    images, *extents = size
    constants = {
        "w": values(between, inputs, 1, 1) / inputs,
        "b": values(between, seed=1),
        "v": values(16 * groups, between // groups, 3, 3, seed=2) / between,
    }
    nodes = [
        oh.make_node("Conv", ["x", "w", "b"], ["a"]),
        oh.make_node("Relu", ["a"], ["r"]),
        oh.make_node("Conv", ["r", "v"], ["y"], pads=pads, strides=[stride, stride], group=groups),
    ]
    model = make_model(nodes, {"x": [images, inputs, *extents]}, ["y"], constants)
    feeds = {"x": values(images, inputs, *extents, seed=3)}
    f = loopnest.compile(model, threads=threads)
    (theirs,) = onnxruntime(model, feeds)
    for _ in range(2):
        np.testing.assert_allclose(f(**feeds), theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_rows_are_written_with_the_halo_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one nest, not in a second pass over what has left the cache."""
    constants = {"w": values(16, 16, 1, 1), "v": values(16, 16, 3, 3, seed=1)}
    nodes = [oh.make_node("Conv", ["x", "w"], ["a"]), oh.make_node("Conv", ["a", "v"], ["y"], pads=[1, 1, 1, 1])]
    model = make_model(nodes, {"x": [2, 16, 14, 14]}, ["y"], constants)
    (first, *_) = (kernel for kernel in kernels_of(model, monkeypatch) if kernel.nest.name.startswith("Conv"))
    assert len(first.nest.body) == 1
