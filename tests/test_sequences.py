"""Sequences, optionals and strings: on the host, at the edges of a model and between kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from tests.graphs import FLOAT, assert_same, make_model, tensor, values

INT64, STRING = onnx.TensorProto.INT64, onnx.TensorProto.STRING
SEQUENCE = oh.make_sequence_type_proto(oh.make_tensor_type_proto(FLOAT, None))
OPTIONAL = oh.make_optional_type_proto(oh.make_tensor_type_proto(FLOAT, None))
OPTIONAL_SEQUENCE = oh.make_optional_type_proto(SEQUENCE)


def typed(name: str, kind: onnx.TypeProto) -> onnx.ValueInfoProto:
    return oh.make_value_info(name, kind)


def run(
    nodes: list[onnx.NodeProto], inputs: dict[str, Any], outputs: list[str], feeds: dict[str, Any], **constants: np.ndarray
) -> Any:
    return loopnest.compile(make_model(nodes, inputs, outputs, constants, opset=18))(**feeds)


def test_between_kernels() -> None:
    """split(relu(x)) -> insert, erase, at -> exp: two native programs with the host between them."""
    nodes = [
        oh.make_node("Relu", ["x"], ["r"]),
        oh.make_node("SplitToSequence", ["r", "two"], ["s"], axis=1),
        oh.make_node("SequenceInsert", ["s", "x", "zero"], ["t"]),
        oh.make_node("SequenceErase", ["t", "one"], ["u"]),
        oh.make_node("SequenceAt", ["u", "last"], ["item"]),
        oh.make_node("SequenceLength", ["u"], ["n"]),
        oh.make_node("Exp", ["item"], ["y"]),
    ]
    constants = {"two": np.array(2), "zero": np.array(0), "one": np.array(1), "last": np.array(-1)}
    x = values(3, 5)
    y, n = run(nodes, {"x": ("a", "b")}, ["y", "n"], {"x": x}, **constants)
    assert_same([y], [np.exp(np.maximum(x[:, 4:], 0))])
    assert n == 3 and n.shape == () and n.dtype == np.int64


@pytest.mark.parametrize("new_axis", [0, 1])
def test_concat(new_axis: int) -> None:
    nodes = [
        oh.make_node("SequenceConstruct", ["x", "x", "z"], ["s"]),
        oh.make_node("ConcatFromSequence", ["s"], ["y"], axis=-1, new_axis=new_axis),
    ]
    x, z = values(2, 3), values(2, 3, seed=1)
    join = np.stack if new_axis else np.concatenate
    assert_same([run(nodes, {"x": (2, 3), "z": (2, 3)}, ["y"], {"x": x, "z": z})], [join([x, x, z], axis=-1)])


@pytest.mark.parametrize(("sizes", "keepdims", "shapes"), [
    (None, 1, [(1, 2)] * 5),
    (None, 0, [(2,)] * 5),
    (np.array(2), 1, [(2, 2), (2, 2), (1, 2)]),
    (np.array([1, 4]), 0, [(1, 2), (4, 2)]),
])  # fmt: skip
def test_split(sizes: np.ndarray | None, keepdims: int, shapes: list[tuple[int, ...]]) -> None:
    node = oh.make_node("SplitToSequence", ["x"] if sizes is None else ["x", "sizes"], ["y"], keepdims=keepdims)
    x = values(5, 2)
    parts = run([node], {"x": (5, 2)}, ["y"], {"x": x}, **({} if sizes is None else {"sizes": sizes}))
    assert [part.shape for part in parts] == shapes
    np.testing.assert_array_equal(np.concatenate([part.reshape(-1) for part in parts]), x.reshape(-1))
    assert not any(np.shares_memory(part, x) for part in parts)


def test_sequences_as_inputs_and_outputs() -> None:
    nodes = [oh.make_node("SequenceInsert", ["s", "x"], ["y"]), oh.make_node("Identity", ["s"], ["same"])]
    inputs = {"s": typed("s", SEQUENCE), "x": (2,)}
    given = [values(3), values(2, 2)]
    y, same = run(nodes, inputs, ["y", "same"], {"s": given, "x": values(2)})
    assert_same(y, [*given, values(2)])
    assert_same(same, given)
    assert not any(np.shares_memory(ours, theirs) for ours, theirs in zip(same, given, strict=True))
    y, same = run(nodes, inputs, ["y", "same"], {"s": (), "x": values(2)})
    assert len(y) == 1 and same == []


@pytest.mark.parametrize("given", [None, values(3)])
def test_optionals(given: np.ndarray | None) -> None:
    then = oh.make_graph(
        [oh.make_node("OptionalGetElement", ["x"], ["e"]), oh.make_node("Neg", ["e"], ["t"])], "then", [], [tensor("t")]
    )
    otherwise = oh.make_graph([oh.make_node("Identity", ["z"], ["o"])], "else", [], [tensor("o")])
    nodes = [
        oh.make_node("OptionalHasElement", ["x"], ["has"]),
        oh.make_node("If", ["has"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    f = loopnest.compile(make_model(nodes, {"x": typed("x", OPTIONAL), "z": (2,)}, ["y", "has"], opset=18))
    y, has = f(given, values(2))
    assert_same([y], [values(2) if given is None else -given])
    assert bool(has) == (given is not None) and has.dtype == bool


def test_optional_sequences() -> None:
    nodes = [oh.make_node("OptionalHasElement", ["x"], ["has"]), oh.make_node("Identity", ["x"], ["y"])]
    f = loopnest.compile(make_model(nodes, {"x": typed("x", OPTIONAL_SEQUENCE)}, ["has", "y"], opset=18))
    has, y = f([values(2)])
    assert has and len(y) == 1
    has, y = f(None)
    assert not has and y is None


def test_empty_optional_has_no_element_to_get() -> None:
    f = loopnest.compile(
        make_model([oh.make_node("OptionalGetElement", ["x"], ["y"])], {"x": typed("x", OPTIONAL)}, ["y"], opset=18)
    )
    with pytest.raises(loopnest.KernelError, match="optional is empty"):
        f(None)


@pytest.mark.parametrize(("value", "message"), [
    (values(3), "expected a list"),
    ([values(3), values(3).astype(np.float64)], "dtype float64, expected float32"),
    (None, "expected a list"),
])  # fmt: skip
def test_values_that_are_no_such_sequence(value: Any, message: str) -> None:
    f = loopnest.compile(
        make_model([oh.make_node("SequenceLength", ["s"], ["n"])], {"s": typed("s", SEQUENCE)}, ["n"], opset=18)
    )
    with pytest.raises(loopnest.InputError, match=message):
        f(value)


def test_position_out_of_range() -> None:
    nodes = [oh.make_node("SequenceConstruct", ["x"], ["s"]), oh.make_node("SequenceAt", ["s", "i"], ["y"], "the node")]
    f = loopnest.compile(make_model(nodes, {"x": (2,), "i": tensor("i", (), INT64)}, ["y"], opset=18))
    assert_same([f(values(2), np.array(-1))], [values(2)])
    for bad in (1, -2):
        with pytest.raises(loopnest.KernelError, match=f"'the node'.*position {bad} is outside \\[-1, 0\\]"):
            f(values(2), np.array(bad))


def test_sequence_carried_by_a_loop() -> None:
    """Each iteration appends the state times its number."""
    nodes = [
        oh.make_node("Cast", ["i"], ["f"], to=FLOAT),
        oh.make_node("Mul", ["x", "f"], ["item"]),
        oh.make_node("SequenceInsert", ["s", "item"], ["t"]),
        oh.make_node("Identity", ["c"], ["go_on"]),
    ]
    body = oh.make_graph(
        nodes,
        "body",
        [tensor("i", (), INT64), tensor("c", (), onnx.TensorProto.BOOL), typed("s", SEQUENCE)],
        [tensor("go_on", (), onnx.TensorProto.BOOL), typed("t", SEQUENCE)],
    )
    outer = [
        oh.make_node("SequenceEmpty", [], ["none"], dtype=FLOAT),
        oh.make_node("Loop", ["trips", "", "none"], ["all"], body=body),
        oh.make_node("ConcatFromSequence", ["all"], ["y"], axis=0, new_axis=1),
        oh.make_node("Sqrt", ["y"], ["z"]),
    ]
    x = np.abs(values(4))
    z = run(outer, {"x": (4,), "trips": tensor("trips", (), INT64)}, ["z"], {"x": x, "trips": np.array(3)})
    assert_same([z], [np.sqrt(np.stack([x * 0, x, x * 2]))])


def test_sequence_map() -> None:
    body = oh.make_graph(
        [oh.make_node("Add", ["a", "b"], ["c"])], "body", [tensor("a", (None,)), tensor("b", (None,))], [tensor("c", (None,))]
    )
    nodes = [oh.make_node("SequenceMap", ["s", "x"], ["y"], body=body)]
    given = [values(3), values(3, seed=1)]
    y = run(nodes, {"s": typed("s", SEQUENCE), "x": (3,)}, ["y"], {"s": given, "x": values(3, seed=2)})
    assert_same(y, [item + values(3, seed=2) for item in given])


def test_strings_go_through_the_operators_of_tensors() -> None:
    nodes = [
        oh.make_node("StringConcat", ["a", "b"], ["ab"]),
        oh.make_node("Reshape", ["ab", "shape"], ["r"]),
        oh.make_node("Gather", ["r", "one"], ["picked"]),
        oh.make_node("Equal", ["a", "b"], ["same"]),
        oh.make_node("Cast", ["same"], ["numbers"], to=FLOAT),
        oh.make_node("Neg", ["numbers"], ["negative"]),
    ]
    model = make_model(
        nodes,
        {"a": tensor("a", (2, 2), STRING), "b": tensor("b", (2, 2), STRING)},
        ["picked", "negative"],
        {"shape": np.array([4]), "one": np.array([1, 3])},
        opset=20,
    )
    a, b = np.array([["x", "y"], ["z", "é"]]), np.array([["1", "y"], ["3", ""]])
    picked, negative = loopnest.compile(model)(a, b)
    assert picked.tolist() == ["yy", "é"]
    assert_same([negative], [-(a == b).astype(np.float32)])


def test_text_to_numbers() -> None:
    nodes = [
        oh.make_node("Cast", ["a"], ["f"], to=FLOAT),
        oh.make_node("Exp", ["f"], ["y"]),
        oh.make_node("Cast", ["y"], ["t"], to=STRING),
    ]
    model = make_model(nodes, {"a": tensor("a", ("n",), STRING)}, ["y", "t"], opset=20)
    y, t = loopnest.compile(model)(np.array(["0", "1.5"]))
    assert_same([y], [np.exp(np.array([0, 1.5], np.float32))])
    np.testing.assert_allclose([float(text) for text in t], y, rtol=1e-5)
