"""What profiles say that a step reads and writes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from tests.graphs import make_model, tensor, values

PLACE = {"a": np.array([2]), "b": np.array([5]), "axis": np.array([0])}
TABLE = 4 * 100 * 8


def moved(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None) -> int:
    inputs = {"x": (100, 8), "z": (3, 8), "i": tensor("i", (3,), onnx.TensorProto.INT64)}
    read = {name for node in nodes for name in node.input}
    model = make_model(nodes, {name: spec for name, spec in inputs.items() if name in read}, ["y"], constants or {})
    feeds = {"x": values(100, 8), "z": values(3, 8), "i": np.array([1, 0, 99])}
    (step,) = loopnest.compile(model).profile(*(feeds[name] for name in inputs if name in read), repeat=1).steps
    return step.bytes


@pytest.mark.parametrize(
    ("nodes", "constants", "expected"),
    [
        ([oh.make_node("Gather", ["x", "i"], ["y"])], {}, 3 * 8 + 2 * 4 * 3 * 8),
        ([oh.make_node("Slice", ["x", "a", "b", "axis"], ["y"])], PLACE, 2 * 4 * 3 * 8),
        (
            [
                oh.make_node("Slice", ["x", "a", "b", "axis"], ["part"]),
                oh.make_node("Add", ["part", "z"], ["y"]),
            ],
            PLACE,
            3 * 4 * 3 * 8,
        ),
        (
            [
                oh.make_node("Slice", ["x", "a", "b", "axis"], ["part"]),
                oh.make_node("Concat", ["part", "z"], ["y"], axis=1),
            ],
            PLACE,
            4 * 4 * 3 * 8,
        ),
        ([oh.make_node("Relu", ["x"], ["y"])], {}, 2 * TABLE),
    ],
)
def test_bytes_are_those_that_are_touched(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], expected: int) -> None:
    assert moved(nodes, constants) == expected


def test_no_part_is_more_than_the_whole() -> None:
    i = np.zeros(500, np.int64)
    assert moved([oh.make_node("Gather", ["x", "many"], ["y"])], {"many": i}) == 500 * 8 + TABLE + 4 * 500 * 8
