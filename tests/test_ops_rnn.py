"""LSTM, GRU and RNN against ONNX Runtime, in all forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from tests.graphs import assert_same, make_model, onnxruntime, tensor, values

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ORDER = ("x", "w", "r", "b", "lengths", "h", "c", "p")


def operands(op: str, steps: int, batch: int, features: int, hidden: int, directions: int, seed: int) -> dict[str, np.ndarray]:
    """Every input that ``op`` can have, by the names in ``ORDER``."""
    gates = GATES[op]
    shapes = {
        "x": (steps, batch, features),
        "w": (directions, gates * hidden, features),
        "r": (directions, gates * hidden, hidden),
        "b": (directions, 2 * gates * hidden),
        "h": (directions, batch, hidden),
        "c": (directions, batch, hidden),
        "p": (directions, 3 * hidden),
    }
    made = {name: values(*shape, seed=seed + i) * 0.7 for i, (name, shape) in enumerate(shapes.items())}
    made["lengths"] = np.random.default_rng(seed).integers(1, steps + 1, batch).astype(np.int32)
    kept = ORDER if op == "LSTM" else ORDER[:6]
    return {name: made[name] for name in kept}


def recurrent_model(
    op: str, given: dict[str, np.ndarray], attrs: dict[str, Any], data: tuple[str, ...] = ("x",)
) -> onnx.ModelProto:
    """A model of one node: the inputs named in ``data`` are graph inputs, the others constants."""
    names = [name if name in given else "" for name in ORDER]
    while not names[-1]:
        names.pop()
    results = ("y", "y_h", "y_c") if op == "LSTM" else ("y", "y_h")
    node = oh.make_node(op, names, results, hidden_size=given["r"].shape[2], **attrs)
    inputs = {
        name: tensor(name, given[name].shape, oh.np_dtype_to_tensor_dtype(given[name].dtype)) for name in given if name in data
    }
    constants = {name: array for name, array in given.items() if name not in data}
    return make_model([node], inputs, results, constants, opset=22)


def check(op: str, given: dict[str, np.ndarray], attrs: dict[str, Any], data: tuple[str, ...] = ("x",)) -> None:
    model = recurrent_model(op, given, attrs, data)
    feeds = {name: given[name] for name in given if name in data}
    assert_same(loopnest.compile(model).run(None, feeds), onnxruntime(model, feeds), 2e-5)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions_with_everything(op: str, direction: str) -> None:
    given = operands(op, 5, 3, 7, 19, 2 if direction == "bidirectional" else 1, 1)
    check(op, given, {"direction": direction})


@pytest.mark.parametrize("op", GATES)
def test_only_what_is_required(op: str) -> None:
    given = operands(op, 4, 2, 6, 8, 1, 2)
    check(op, {name: given[name] for name in ("x", "w", "r")}, {})


@pytest.mark.parametrize("op", GATES)
def test_weights_that_are_data(op: str) -> None:
    given = operands(op, 4, 2, 6, 9, 1, 3)
    del given["lengths"]
    check(op, given, {}, tuple(given))


@pytest.mark.parametrize("op", GATES)
def test_clip(op: str) -> None:
    given = operands(op, 4, 2, 6, 9, 1, 4)
    check(op, given, {"clip": 0.4})


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_reset_after_the_product(direction: str) -> None:
    given = operands("GRU", 6, 2, 5, 17, 2 if direction == "bidirectional" else 1, 5)
    check("GRU", given, {"direction": direction, "linear_before_reset": 1})


def test_coupled_gates() -> None:
    check("LSTM", operands("LSTM", 3, 2, 4, 8, 1, 6), {"input_forget": 1})


@pytest.mark.parametrize(
    "activation",
    ["Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign"],
)
def test_activations(activation: str) -> None:
    attrs: dict[str, Any] = {"activations": [activation]}
    if activation in ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"):
        attrs["activation_alpha"] = [0.3]
    if activation in ("Affine", "ScaledTanh", "HardSigmoid"):
        attrs["activation_beta"] = [0.45]
    check("RNN", operands("RNN", 3, 2, 4, 9, 1, 7), attrs)


def test_activations_of_their_own_for_each_direction() -> None:
    attrs = {"activations": ["HardSigmoid", "Tanh", "LeakyRelu", "Sigmoid", "Affine", "Tanh"], "direction": "bidirectional"}
    attrs |= {"activation_alpha": [0.3, 0.1, 0.9], "activation_beta": [0.4, 0.05]}
    check("LSTM", operands("LSTM", 3, 2, 4, 9, 2, 8), attrs)


@pytest.mark.parametrize("op", GATES)
def test_batch_first_is_the_same_transposed(op: str) -> None:
    given = operands(op, 5, 3, 4, 8, 2, 9)
    first = loopnest.compile(recurrent_model(op, given, {"direction": "bidirectional"}))(given["x"])
    turned = dict(given)
    for name in ("x", "h", "c"):
        if name in turned:
            turned[name] = np.ascontiguousarray(turned[name].swapaxes(0, 1))
    y, *states = loopnest.compile(recurrent_model(op, turned, {"direction": "bidirectional", "layout": 1}))(turned["x"])
    assert_same([y.transpose(1, 2, 0, 3), *(state.swapaxes(0, 1) for state in states)], first)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(list(GATES)),
    st.sampled_from([1, 2, 9]),
    st.sampled_from([1, 2, 5, 13]),
    st.sampled_from([1, 3, 16]),
    st.sampled_from([1, 7, 8, 15, 16, 33, 64]),
    st.booleans(),
)
def test_extents(op: str, steps: int, batch: int, features: int, hidden: int, ragged: bool) -> None:
    given = operands(op, steps, batch, features, hidden, 1, 10)
    if not ragged:
        del given["lengths"]
    check(op, given, {})


def test_float64_and_float16() -> None:
    given = operands("LSTM", 3, 2, 4, 9, 1, 11)
    model = recurrent_model("LSTM", given, {})
    expected = onnxruntime(model, {"x": given["x"]})
    for dtype, tolerance in ((np.float64, 1e-6), (np.float16, 1e-2)):
        typed = {name: array.astype(dtype) if array.dtype == np.float32 else array for name, array in given.items()}
        results = loopnest.compile(recurrent_model("LSTM", typed, {}))(typed["x"])
        assert all(result.dtype == dtype for result in results)
        assert_same([result.astype(np.float32) for result in results], expected, tolerance)


def test_kernels_do_not_depend_on_steps_and_whole_blocks_of_rows() -> None:
    given = operands("LSTM", 3, 4, 4, 8, 1, 12)
    del given["lengths"], given["h"], given["c"]
    model = recurrent_model("LSTM", given, {})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "steps"
    f = loopnest.compile(model)
    kernels = [f.prepare(values(steps, 4, 4)).native.program.kernels[-1] for steps in (5, 21)]  # type: ignore[attr-defined]
    assert kernels[0] == kernels[1]


def test_only_the_last_state() -> None:
    given = operands("LSTM", 3, 2, 4, 8, 1, 13)
    model = recurrent_model("LSTM", given, {})
    expected = onnxruntime(model, {"x": given["x"]})[2]
    model.graph.node[0].output[:] = ["", "", "y_c"]
    del model.graph.output[:2]
    assert_same([loopnest.compile(model)(given["x"])], [expected])


def test_sequence_length_out_of_range() -> None:
    given = operands("RNN", 3, 2, 4, 8, 1, 14)
    f = loopnest.compile(recurrent_model("RNN", given, {}, ("x", "lengths")))
    for bad in (-1, 4):
        with pytest.raises(loopnest.KernelError, match=f"length {bad} "):
            f(given["x"], np.array([2, bad], np.int32))
    f(given["x"], np.array([0, 3], np.int32))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("r", (1, 32, 9), "R has shape|hidden_size|W has shape"),
        ("b", (1, 63), "B has shape .* expected \\(1, 64\\)"),
        ("h", (1, 3, 8), "initial_h has shape .* expected \\(1, 2, 8\\)"),
    ],
)
def test_shapes_that_do_not_fit(name: str, shape: tuple[int, ...], message: str) -> None:
    given = operands("LSTM", 3, 2, 4, 8, 1, 15)
    given[name] = values(*shape)
    with pytest.raises(loopnest.LoopnestError, match=message):
        loopnest.compile(recurrent_model("LSTM", given, {}))(given["x"])


def test_unknown_activation() -> None:
    given = operands("RNN", 3, 2, 4, 8, 1, 16)
    with pytest.raises(loopnest.ModelError, match="unknown activation 'Tan'; known are Relu"):
        loopnest.compile(recurrent_model("RNN", given, {"activations": ["Tan"]}))(given["x"])


def test_without_optimization() -> None:
    given = operands("GRU", 3, 2, 4, 8, 1, 17)
    model = recurrent_model("GRU", given, {"linear_before_reset": 1})
    assert_same(
        loopnest.compile(model, config={"opt_level": 0}).run(None, {"x": given["x"]}),
        onnxruntime(model, {"x": given["x"]}),
        2e-5,
    )


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    ("batch", "hidden", "tile"), [(5, 33, {"m": 2, "n": 8}), (3, 17, {"m": 3}), (1, 40, {"n": 16}), (7, 9, {"n": 64})]
)
def test_tiles_change_no_result(op: str, batch: int, hidden: int, tile: dict[str, int]) -> None:
    """Rows of the batch and hidden units at a time; those that are too many are not taken from options for all kernels."""
    given = operands(op, 4, batch, 3, hidden, 2, 1)
    model = recurrent_model(op, given, {"direction": "bidirectional"})
    found = loopnest.compile(model, threads=2, config={"tile": tile}).run(None, {"x": given["x"]})
    assert_same(found, onnxruntime(model, {"x": given["x"]}), 2e-5)
