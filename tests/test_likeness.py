"""Groups that are alike are lowered once, and only those."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

import loopnest
from loopnest.compiler import plan
from tests.graphs import make_model, onnxruntime, values


def lowered(model: onnx.ModelProto, x: np.ndarray, monkeypatch: pytest.MonkeyPatch, **config: object) -> int:
    """How many groups are lowered; the result is compared with ONNX Runtime's."""
    count = 0
    lower = plan.Lowering.lower

    def counted(self: plan.Lowering) -> plan.Lowered:
        nonlocal count
        count += 1
        return lower(self)

    monkeypatch.setattr(plan.Lowering, "lower", counted)
    results = loopnest.compile(model, config=config).run(None, {"x": x})
    for ours, theirs in zip(results, onnxruntime(model, {"x": x}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    return count


def tower(convs: Sequence[tuple[str, dict[str, object]]], channels: int = 24) -> onnx.ModelProto:
    """Convolutions, each with weights of its own."""
    nodes, constants = [], {}
    for i, (op, attrs) in enumerate(convs):
        constants |= {f"w{i}": values(channels, channels, 3, 3, seed=i) / 9, f"b{i}": values(channels, seed=100 + i)}
        source = f"y{i - 1}" if i else "x"
        nodes += [make_node("Conv", [source, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1, 1, 1, 1], name=f"conv{i}", **attrs)]
        nodes += [make_node(op, [f"c{i}"], [f"y{i}"])]
    return make_model(nodes, {"x": (1, channels, 9, 9)}, [f"y{len(convs) - 1}"], constants)


@pytest.mark.parametrize("channels", [24, 18])  # 18 biases are extended to whole blocks of 8
def test_blocks_with_weights_of_their_own(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tower([("Relu", {})] * 6, channels), values(1, channels, 9, 9)
    conversions_and_ends = lowered(tower([("Relu", {})] * 3, channels), x, monkeypatch)
    assert lowered(model, x, monkeypatch) == conversions_and_ends


def test_what_differs_is_lowered_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = [("Relu", {})] * 4
    base = lowered(tower(alike), values(1, 24, 9, 9), monkeypatch)
    for other in ([("Tanh", {})], [("Relu", {"dilations": [1, 1], "group": 1})]):
        assert lowered(tower([*alike[:2], *other, *alike[3:]]), values(1, 24, 9, 9), monkeypatch) > base


def test_numbers_in_the_code_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [make_node("Mul", ["x", f"k{i}"], [f"y{i}"]) for i in range(3)]
    constants = {f"k{i}": np.float32([2, 2, 3][i]) for i in range(3)}
    model = make_model(nodes, {"x": (4, 5)}, ["y0", "y1", "y2"], constants)
    assert lowered(model, values(4, 5), monkeypatch, opt_level=0) == 2


def test_values_that_decide_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [make_node("Slice", ["x", f"from{i}", f"to{i}", "axes"], [f"y{i}"]) for i in range(3)]
    constants = {"axes": np.array([1])}
    for i, start in enumerate((0, 1, 1)):
        constants |= {f"from{i}": np.array([start]), f"to{i}": np.array([start + 2])}
    model = make_model(nodes, {"x": (4, 5)}, ["y0", "y1", "y2"], constants)
    assert lowered(model, values(4, 5), monkeypatch, opt_level=0) == 2


def test_options_of_a_node_set_it_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tower([("Relu", {})] * 4), values(1, 24, 9, 9)
    base = lowered(model, x, monkeypatch)
    assert lowered(model, x, monkeypatch, node={"conv2": {"tile": {"m": 2}}}) == base + 1
