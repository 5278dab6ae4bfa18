"""What Concat joins is written in place, and what Split cuts is read in place: against ONNX Runtime, and by the steps that remain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest

from .graphs import make_model, onnxruntime, values

CONV = {"w16": values(16, 16, 1, 1, seed=1), "w24": values(24, 16, 1, 1, seed=2), "w8": values(8, 8, 3, 3, seed=3)}
PAD = {"pads": [1, 1, 1, 1]}


def steps(
    nodes: Sequence[onnx.NodeProto],
    feeds: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> list[str]:
    """The operators that run. Two runs on one and two threads agree with ONNX Runtime."""
    model = make_model(nodes, {name: list(array.shape) for name, array in feeds.items()}, outputs, constants, opset=opset)
    expected = onnxruntime(model, feeds)
    for threads in (1, 2):
        f = loopnest.compile(model, threads=threads)
        for _ in range(2):
            for ours, theirs in zip(f.run(None, feeds), expected, strict=True):
                assert ours.shape == theirs.shape
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(1e-30, np.abs(theirs).max(initial=0)))
    return [step.op for step in f.profile(**feeds, repeat=1).steps]


def n(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return oh.make_node(op, inputs.split(), outputs.split(), **attributes)


def test_branches_are_written_side_by_side() -> None:
    nodes = [
        n("Conv", "x w16", "a"), n("Relu", "a", "r"), n("Conv", "x w24", "b"), n("Concat", "r b", "c", axis=1),
        n("Conv", "c w", "y", **PAD),
    ]  # fmt: skip
    found = steps(nodes, {"x": values(1, 16, 9, 9)}, {**CONV, "w": values(8, 40, 3, 3)})
    assert found == ["Conv+Relu", "Conv", "Conv", "Identity"]  # the halo too; NCHW at the end
    batch = steps(nodes, {"x": values(2, 16, 9, 9)}, {**CONV, "w": values(8, 40, 3, 3)})
    assert "Concat" in batch


def test_parts_of_a_split_are_joined_again() -> None:
    """The block of YOLOv8: the split value lies in the join, as do all that follow it."""
    nodes = [
        n("Conv", "x w16", "a"), n("Split", "a", "s t", axis=1), n("Conv", "t w8", "m", **PAD),
        n("Concat", "s t m", "c", axis=1), n("Conv", "c w", "y"),
    ]  # fmt: skip
    model_steps = steps([*nodes], {"x": values(1, 16, 9, 9)}, {**CONV, "w": values(16, 24, 1, 1)})
    assert model_steps == ["Conv", "Conv", "Conv", "Identity"]


def test_a_chain_of_joins_is_one_memory() -> None:
    nodes = [
        n("Relu", "x", "a"), n("Tanh", "x", "b"), n("Concat", "a b", "c", axis=0), n("Softmax", "c", "s"),
        n("Concat", "a b s", "d", axis=0), n("Softmax", "d", "y"),
    ]  # fmt: skip
    assert steps(nodes, {"x": values(3, 5)}, {}) == ["Relu", "Tanh", "Softmax", "Softmax"]


def test_what_cannot_be_written_in_place_is_copied() -> None:
    """An input of the model, a constant, a value that is joined twice, a part of something else, an output of the model."""
    x = {"x": values(3, 5)}
    tail = n("Softmax", "c", "y")
    assert steps([n("Relu", "x", "a"), n("Concat", "x a", "c", axis=0), tail], x, {}) == ["Relu", "Identity", "Softmax"]
    assert steps([n("Relu", "x", "a"), n("Concat", "a k", "c", axis=0), tail], x, {"k": values(1, 5)})[-1] == "Softmax"
    assert steps([n("Relu", "x", "a"), n("Concat", "a a", "c", axis=0), tail], x, {}) == ["Relu", "Identity", "Softmax"]
    steps([n("Relu", "x", "a"), n("Tanh", "x", "t"), n("Concat", "a t", "c", axis=0), tail], x, {}, ["y", "a", "c"])
    steps([n("Concat", "x x", "y", axis=0)], x, {})
    split = [
        n("Tanh", "x", "t"),
        n("Split", "t p", "a b", axis=0),
        n("Relu", "b", "r"),
        n("Concat", "r a b", "c", axis=0),
        tail,
    ]
    steps(split, x, {"p": np.array([1, 2])})
    steps(split, x, {"p": np.array([1, 2])}, ["y", "b", "t"])


def test_values_that_are_read_after_the_join_stay_what_they_are() -> None:
    nodes = [
        n("Tanh", "x", "a"), n("Exp", "x", "b"), n("Concat", "a b", "c", axis=0), n("Softmax", "c", "s"), n("Neg", "a", "m"),
        n("Softmax", "m", "z"), n("Sigmoid", "c", "g"), n("Softmax", "g", "y"),
    ]  # fmt: skip
    steps(nodes, {"x": values(3, 5)}, {}, ["s", "z", "y"])


def test_views_of_parts_and_of_the_whole() -> None:
    nodes = [
        n("Relu", "x", "a"), n("Reshape", "a s1", "r"), n("Tanh", "x", "t"), n("Concat", "r t", "c", axis=1),
        n("Reshape", "c s2", "q"), n("Softmax", "q", "y"),
    ]  # fmt: skip
    constants = {"s1": np.array([1, 4, 6]), "s2": np.array([2, 24])}
    assert steps(nodes, {"x": values(1, 4, 6)}, constants) == ["Relu", "Tanh", "Softmax"]


def test_an_output_that_is_a_view_of_a_part_is_no_place_for_the_whole() -> None:
    """Its memory is as large as the part; the whole written there would overrun it."""
    nodes = [n("Relu", "x", "a"), n("Split", "a sizes", "s t", axis=0), n("Unsqueeze", "s zero", "y"), n("Tanh", "t", "z")]
    constants = {"sizes": np.array([5, 4000]), "zero": np.array([0])}
    assert steps(nodes, {"x": values(4005)}, constants, ["y", "z"]) == ["Relu", "Split", "Tanh"]


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 3, 8, 9, 16]), min_size=2, max_size=4),
    batch=st.sampled_from([1, 1, 2]),
    halo=st.booleans(),
)
def test_any_channels(sizes: list[int], batch: int, halo: bool) -> None:
    constants = {f"w{i}": values(size, 16, 1, 1, seed=i) for i, size in enumerate(sizes)}
    nodes = [n("Conv", f"x w{i}", f"a{i}") for i in range(len(sizes))]
    nodes += [
        n("Concat", " ".join(f"a{i}" for i in range(len(sizes))), "c", axis=1),
        n("Conv", "c w", "y", **(PAD if halo else {})),
    ]
    kernel = 3 if halo else 1
    steps(nodes, {"x": values(batch, 16, 5, 7)}, {**constants, "w": values(8, sum(sizes), kernel, kernel)})


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int64])
def test_dtypes(dtype: type) -> None:
    x = np.arange(15).reshape(3, 5).astype(dtype)
    inputs = {"x": oh.make_tensor_value_info("x", oh.np_dtype_to_tensor_dtype(np.dtype(dtype)), [3, 5])}
    nodes = [n("Add", "x x", "a"), n("Mul", "x x", "b"), n("Concat", "a b", "c", axis=0), n("Transpose", "c", "y")]
    y = loopnest.compile(make_model(nodes, inputs, ["y"]))(x)
    np.testing.assert_array_equal(y, np.concatenate([x + x, x * x]).T)
