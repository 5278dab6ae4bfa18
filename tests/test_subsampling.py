"""Convolutions with one tap and strides read a copy of the pixels that they need, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from loopnest.compiler.passes import rules_pass, run_passes, subsampling
from loopnest.ir.graph import Graph
from tests.graphs import interpret, load_any, make_model, onnxruntime, values


def model_of(shape: tuple[int, ...], outputs: int = 32, kernel: int = 1, group: int = 1, **attributes: Any) -> onnx.ModelProto:
    node = oh.make_node("Conv", ["x", "w", "b"], ["y"], group=group, **attributes)
    weights = values(outputs, shape[1] // group, *[kernel] * (len(shape) - 2), seed=1)
    return make_model([node], {"x": list(shape)}, ["y"], {"w": weights, "b": values(outputs, seed=2)})


def rewritten(model: onnx.ModelProto) -> Graph:
    return run_passes(load_any(model), [rules_pass("subsample", subsampling.subsample_first)], check=True)


@pytest.mark.parametrize("shape", [(1, 3, 7), (2, 4, 7, 8), (1, 8, 1, 9), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("stride", [2, 3])
def test_every_strideth_pixel_is_copied(shape: tuple[int, ...], stride: int) -> None:
    model = model_of(shape, strides=[stride] * (len(shape) - 2), auto_pad="VALID")
    graph, x = rewritten(model), values(*shape)
    assert [node.op for node in graph.nodes] == ["MaxPool", "Conv"]
    np.testing.assert_allclose(interpret(graph, {"x": x})[0], onnxruntime(model, {"x": x})[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [1, 1]},
        {"strides": [2, 2], "pads": [1, 0, 0, 0]},
        {"strides": [2, 2], "kernel": 3},
        {"strides": [2, 2], "group": 2},
        {"strides": [2, 2], "outputs": 31},
    ],
)
def test_others_stay(attributes: dict[str, Any]) -> None:
    assert [node.op for node in rewritten(model_of((1, 4, 9, 9), **attributes)).nodes] == ["Conv"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [3, 8, 17, 32])
@pytest.mark.parametrize("extents", [(1, 7), (8, 9), (15, 16), (17, 31), (33, 14)])
def test_results_are_right(channels: int, extents: tuple[int, int], threads: int) -> None:
    model = model_of((2, channels, *extents), outputs=33, strides=[2, 1 + channels % 3])
    x = values(2, channels, *extents)
    x[0, 0, 0, 0], x[1, -1, 0, 0] = np.inf, np.nan
    got, expected = loopnest.compile(model, threads=threads)(x), onnxruntime(model, {"x": x})[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
