"""Taps of a convolution that only ever read padding go, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopnest.compiler.passes import rules_pass, run_passes, taps
from loopnest.ir.graph import Graph
from tests.graphs import interpret, load_any, make_model, onnxruntime, values


def rewritten(shape: tuple[int, ...], kernel: tuple[int, ...], **attributes: Any) -> tuple[Any, Graph, np.ndarray]:
    """The model of one convolution, its graph after the rule, and an input."""
    node = oh.make_node("Conv", ["x", "w"], ["y"], **attributes)
    model = make_model([node], {"x": list(shape)}, ["y"], {"w": values(3, shape[1], *kernel, seed=1)})
    graph = run_passes(load_any(model), [rules_pass("taps", taps.conv_without_dead_taps)], check=True)
    return model, graph, values(*shape)


def kernel_of(graph: Graph) -> tuple[int, ...]:
    (node,) = graph.nodes
    return graph.constants[node.inputs[1]].shape[2:]


@given(
    extent=st.integers(1, 9),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 9),
    before=st.integers(0, 20),
    after=st.integers(0, 20),
)
def test_results_stay(extent: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> None:
    if extent + before + after < (kernel - 1) * dilation + 1:
        return
    model, graph, x = rewritten((2, 2, extent), (kernel,), strides=[stride], dilations=[dilation], pads=[before, after])
    expected, got = onnxruntime(model, {"x": x}), interpret(graph, {"x": x})
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-6)
    count = (extent + before + after - (kernel - 1) * dilation - 1) // stride + 1
    reads = [any(0 <= o * stride + k * dilation - before < extent for o in range(count)) for k in range(kernel)]
    if sum(reads) and before >= reads.index(True) * dilation and after >= reads[::-1].index(True) * dilation:
        assert kernel_of(graph) == (kernel - reads.index(True) - reads[::-1].index(True),)
    else:
        assert kernel_of(graph) == (kernel,)


@pytest.mark.parametrize(
    ("dilations", "kernel"), [((36, 36), (1, 1)), ((12, 36), (3, 1)), ((27, 28), (3, 1)), ((12, 12), (3, 3))]
)
def test_a_pyramid_keeps_what_reads_the_image(dilations: tuple[int, int], kernel: tuple[int, int]) -> None:
    _, graph, _ = rewritten((1, 4, 28, 28), (3, 3), dilations=dilations, pads=[*dilations, *dilations])
    assert kernel_of(graph) == kernel
    (node,) = graph.nodes
    assert node.attrs["pads"] == tuple(d * (k // 2) for d, k in zip(dilations, kernel, strict=True)) * 2


def test_without_numbers_nothing_changes() -> None:
    node = oh.make_node("Conv", ["x", "w"], ["y"], dilations=[36, 36], pads=[36] * 4)
    model = make_model([node], {"x": [1, 2, "height", 28]}, ["y"], {"w": values(3, 2, 3, 3)})
    graph = run_passes(load_any(model), [rules_pass("taps", taps.conv_without_dead_taps)])
    assert kernel_of(graph) == (3, 3)
