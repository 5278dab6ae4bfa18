"""Batches that are computed one image after the other: the same results as ONNX Runtime's, and only where images are apart."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import loopnest
from loopnest.codegen.target import resolve
from loopnest.compiler import images
from loopnest.ir import dtypes
from loopnest.ir.errors import VerificationError
from loopnest.ir.graph import Graph, Node, TensorType
from loopnest.runtime.program import Program, verify
from tests.runtime_programs import chain

RANDOM = np.random.default_rng(7)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image after the other wherever that is right."""
    monkeypatch.setattr(images, "pays", lambda *_: True)


def model(
    nodes: Sequence[Any], shape: Sequence[Any], constants: dict[str, np.ndarray], rank: int, inputs: Sequence[str] = ("x",)
) -> bytes:
    """Nodes that make ``y`` of ``rank`` from ``inputs`` of one shape."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", values, [output], initializers)
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def weights(*shape: int) -> np.ndarray:
    return (RANDOM.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def network() -> bytes:
    """A strided convolution, one of each channel, squeeze and excite, halves of the channels exchanged, and a classifier."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Clip", ["c0", "zero", "six"], ["r0"]),
        node("Conv", ["r0", "w1"], ["c1"], group=16, pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["c1"], ["m"]),
        node("Conv", ["m", "w2"], ["s0"]),
        node("Sigmoid", ["s0"], ["s"]),
        node("Mul", ["c1", "s"], ["e"]),
        node("Split", ["e"], ["left", "right"], axis=1),
        node("Concat", ["right", "left"], ["j"], axis=1),
        node("Conv", ["j", "w3"], ["c3"]),
        node("Add", ["c3", "r0"], ["a"]),
        node("ReduceMean", ["a"], ["p"], axes=[2, 3], keepdims=0),
        node("Gemm", ["p", "w4", "b4"], ["l"], transB=1),
        node("Softmax", ["l"], ["y"]),
    ]
    constants = {
        "w0": weights(16, 3, 3, 3),
        "b0": weights(16),
        "w1": weights(16, 1, 3, 3),
        "w2": weights(16, 16, 1, 1),
        "w3": weights(16, 16, 1, 1),
        "w4": weights(10, 16),
        "b4": weights(10),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    return model(nodes, ["n", 3, "h", "w"], {name: np.asarray(array) for name, array in constants.items()}, 2)


def program_of(compiled: Any, *arrays: np.ndarray) -> Program:
    return compiled.runner_of(arrays).native.program


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("threads", [1, 2])
def test_batches_are_their_images(threads: int) -> None:
    data = network()
    reference = onnxruntime.InferenceSession(data)
    compiled = loopnest.compile(data, threads=threads)
    for count, size in [(1, 9), (2, 7), (3, 8), (8, 17), (2, 33)]:
        x = RANDOM.standard_normal((count, 3, size, size + 1), dtype=np.float32)
        (expected,) = reference.run(None, {"x": x})
        np.testing.assert_allclose(np.asarray(compiled(x)).reshape(expected.shape), expected, rtol=1e-4, atol=1e-6)
        assert program_of(compiled, x).images == count


@pytest.mark.usefixtures("always")
def test_bound_and_profiled() -> None:
    compiled = loopnest.compile(network(), threads=1)
    x = RANDOM.standard_normal((5, 3, 9, 9), dtype=np.float32)
    expected = np.array(compiled(x))
    bound = compiled.bind(x)
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(bound()), expected)
    one, five = compiled.profile(x[:1], repeat=1), compiled.profile(x, repeat=1)
    assert sum(step.flops for step in five.steps) == 5 * sum(step.flops for step in one.steps)
    assert program_of(compiled, x).arena_nbytes == program_of(compiled, x[:1]).arena_nbytes


APART: dict[str, tuple[list[Any], int]] = {
    "softmax over images": ([helper.make_node("Softmax", ["x"], ["y"], axis=0)], 2),
    "mean of images": ([helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["y"])], 2),
    "transposed": (
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
            helper.make_node("Softmax", ["t"], ["s"]),
            helper.make_node("Transpose", ["s"], ["y"], perm=[1, 0]),
        ],
        2,
    ),
    "in reverse": ([helper.make_node("Slice", ["x", "last", "before", "axis", "back"], ["y"])], 2),
    "all with all": (
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gemm", ["h", "x"], ["y"], transB=1)],
        2,
    ),
    "by their number": (
        [
            helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
            helper.make_node("Cast", ["s"], ["n"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["x", "n"], ["y"]),
        ],
        2,
    ),
    "under another's row": (
        [helper.make_node("Unsqueeze", ["x", "axis"], ["u"]), helper.make_node("Add", ["x", "u"], ["y"])],
        3,
    ),
    "joined": (
        [helper.make_node("Concat", ["x", "x"], ["j"], axis=0), helper.make_node("Split", ["j"], ["y", "z"], axis=0)],
        2,
    ),
}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", APART)
def test_what_passes_between_images_is_not_cut(name: str) -> None:
    nodes, rank = APART[name]
    numbers = {"last": [-1], "before": [-9], "axis": [0], "back": [-1]}
    constants: dict[str, np.ndarray] = {key: np.array(value, np.int64) for key, value in numbers.items()}
    data = model(nodes, ["n", 8], {**constants, "w": weights(8, 8)}, rank)
    x = RANDOM.standard_normal((8, 8), dtype=np.float32)
    (expected,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    compiled = loopnest.compile(data, threads=1)
    np.testing.assert_allclose(np.asarray(compiled(x)), expected, rtol=1e-5, atol=1e-6)
    runner = compiled.runner_of((x,))
    assert getattr(runner, "native", None) is None or program_of(compiled, x).images == 1


@pytest.mark.usefixtures("always")
def test_a_batch_that_is_normalized_by_its_own_mean_is_not_cut() -> None:
    node = helper.make_node("BatchNormalization", ["x", "w", "b", "b", "v"], ["y"], training_mode=1)
    constants = {"w": weights(3), "b": weights(3), "v": np.ones(3, np.float32)}
    data = model([node], ["n", 3, 5, 5], constants, 4)
    x = RANDOM.standard_normal((4, 3, 5, 5), dtype=np.float32)
    (expected,) = ReferenceEvaluator(data).run(None, {"x": x})  # type: ignore[misc]
    compiled = loopnest.compile(data, threads=1)
    np.testing.assert_allclose(np.asarray(compiled(x)), expected, rtol=1e-5, atol=1e-6)
    assert program_of(compiled, x).images == 1


@pytest.mark.usefixtures("always")
def test_inputs_of_other_counts_are_one_batch() -> None:
    """A row that is added to all images is no image."""
    data = model([helper.make_node("Add", ["x", "z"], ["y"])], [None, 8], {}, 2, ("x", "z"))
    x, z = RANDOM.standard_normal((4, 8), dtype=np.float32), RANDOM.standard_normal((1, 8), dtype=np.float32)
    compiled = loopnest.compile(data, threads=1)
    np.testing.assert_array_equal(np.asarray(compiled(x, z)), x + z)
    assert program_of(compiled, x, z).images == 1
    np.testing.assert_array_equal(np.asarray(compiled(x, x)), x + x)
    assert program_of(compiled, x, x).images == 4


def convolutions(count: int, channels: int, size: int, steps: int = 2) -> Graph:
    """So many of them one after the other, with the same filters."""
    values, filters = [f"x{i}" for i in range(steps + 1)], (channels, channels, 1, 1)
    types: Any = {name: TensorType(dtypes.float32, (count, channels, size, size)) for name in values}
    types["w"] = TensorType(dtypes.float32, filters)
    nodes = [Node("Conv", (x, "w"), (y,)) for x, y in itertools.pairwise(values)]
    return Graph("g", ("x0",), (values[-1],), nodes, {"w": np.broadcast_to(np.float32(0), filters)}, types)


def test_large_images_and_few_weights_pay() -> None:
    target = replace(resolve("cpu-avx2"), l2=1 << 19, l3=1 << 25)

    def pays(channels: int, size: int, steps: int = 2, count: int = 8, threads: int = 1) -> bool:
        batch, one = convolutions(count, channels, size, steps), convolutions(1, channels, size, steps)
        return images.pays(batch, one, count, target, threads)

    assert pays(96, 112)
    assert not pays(96, 112, threads=2), "several threads share the steps of a batch"
    assert not pays(96, 112, steps=1), "what nothing reads again gains nothing from a cache"
    assert not pays(16, 7), "all of it stays in the second cache"
    assert not pays(256, 1, count=1 << 15), "rows of a matrix are no images"
    assert not pays(4096, 14), "64 MiB of weights would be read eight times"


def test_programs_of_images_are_checked() -> None:
    program = chain(3)
    several = program.replace(
        inputs=tuple(spec.replace(shape=(2 * spec.extents[0], *spec.extents[1:])) for spec in program.inputs),
        outputs=tuple(spec.replace(shape=(2 * spec.extents[0], *spec.extents[1:])) for spec in program.outputs),
        images=2,
    )
    verify(several)
    assert Program.from_dict(json.loads(json.dumps(several.to_dict()))) == several
    assert "one of 2 images" in several.as_text()
    with pytest.raises(VerificationError, match="no 3 images"):
        verify(several.replace(images=3))
    with pytest.raises(VerificationError, match="lie outside input 0"):
        verify(program.replace(images=2))
