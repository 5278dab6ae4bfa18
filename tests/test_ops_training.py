"""Optimizer steps and operators of ai.onnx.ml against ONNX's reference implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from tests.graphs import assert_same, make_model, reference, tensor, values

TRAINING, ML = "ai.onnx.preview.training", "ai.onnx.ml"
SHAPES = {"1": (3,), "2": (40, 50), "3": ()}


@pytest.mark.parametrize(("op", "states", "attrs"), [
    ("Adagrad", 1, {"norm_coefficient": 0.01, "decay_factor": 0.1}),
    ("Adam", 2, {"norm_coefficient": 0.01, "norm_coefficient_post": 0.02, "alpha": 0.8, "beta": 0.9}),
    ("Momentum", 1, {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.8, "mode": "standard"}),
    ("Momentum", 1, {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.8, "mode": "nesterov"}),
])  # fmt: skip
@pytest.mark.parametrize("step", [0, 3])
def test_tensors_of_different_shapes(op: str, states: int, attrs: dict[str, Any], step: int) -> None:
    kinds = ("x", "g", "v", "h")[: 2 + states]
    shapes = {kind + number: shape for kind in kinds for number, shape in SHAPES.items()}
    feeds: dict[str, np.ndarray] = {"r": np.array(0.1, np.float32), "t": np.array(step)}
    feeds |= {name: np.abs(values(*shape, seed=i)) for i, (name, shape) in enumerate(shapes.items())}
    results = [f"new_{name}" for name in shapes if name[0] != "g"]
    node = oh.make_node(op, list(feeds), results, domain=TRAINING, **attrs)
    inputs: dict[str, Any] = {"r": (), "t": tensor("t", (), onnx.TensorProto.INT64), **shapes}
    model = make_model([node], inputs, results, domains={TRAINING: 1})
    for output in model.graph.output:
        output.CopyFrom(tensor(output.name, shapes[output.name.removeprefix("new_")]))
    assert_same(loopnest.compile(model, threads=2).run(None, feeds), reference(model, feeds), 1e-4)


def test_missing_state() -> None:
    node = oh.make_node("Adagrad", ["r", "t", "x", "g"], ["y", "h"], domain=TRAINING)
    inputs: dict[str, Any] = {"r": (), "t": tensor("t", (), onnx.TensorProto.INT64), "x": (2,), "g": (2,)}
    with pytest.raises(loopnest.LoopnestError):
        loopnest.compile(make_model([node], inputs, ["y", "h"], domains={TRAINING: 1}))


def extractor(shape: tuple[int, ...]) -> onnx.ModelProto:
    node = oh.make_node("ArrayFeatureExtractor", ["x", "i"], ["y"], domain=ML)
    inputs = {"x": shape, "i": tensor("i", ("k",), onnx.TensorProto.INT64)}
    model = make_model([node], inputs, ["y"], domains={ML: 5})
    model.graph.output[0].CopyFrom(tensor("y", None))
    return model


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_extracted_features(shape: tuple[int, ...]) -> None:
    model, x, i = extractor(shape), values(*shape), np.array([4, 0, 4])
    assert_same([loopnest.compile(model)(x, i)], reference(model, {"x": x, "i": i}))


def test_feature_out_of_range() -> None:
    f = loopnest.compile(extractor((3, 5)))
    for bad in (5, -1):
        with pytest.raises(loopnest.KernelError, match=f"index {bad} is outside \\[0, 4\\]"):
            f(values(3, 5), np.array([bad]))


def test_binarizer() -> None:
    node = oh.make_node("Binarizer", ["x"], ["y"], domain=ML, threshold=0.3)
    model = make_model([node], {"x": (3, 33)}, ["y"], domains={ML: 5})
    model.graph.output[0].CopyFrom(tensor("y", (3, 33)))
    assert_same([loopnest.compile(model)(values(3, 33))], [(values(3, 33) > 0.3).astype(np.float32)])
