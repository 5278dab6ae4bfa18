"""Batches that are computed image by image: the same results as ONNX Runtime's, and only where images are apart."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
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
from loopnest.ir.errors import KernelError, VerificationError
from loopnest.ir.graph import Graph, Node, TensorType
from loopnest.runtime.program import Program, Step, verify
from loopnest.runtime.shares import image_share
from tests.runtime_programs import chain, chained, executable, several, vector, whole

RANDOM = np.random.default_rng(7)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image by image wherever that is right."""
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
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_are_their_images(threads: int) -> None:
    data = network()
    reference = onnxruntime.InferenceSession(data)
    compiled = loopnest.compile(data, threads=threads)
    for count, size in [(1, 9), (2, 7), (3, 8), (4, 9), (7, 15), (8, 17), (9, 16), (2, 33)]:
        x = RANDOM.standard_normal((count, 3, size, size + 1), dtype=np.float32)
        (expected,) = reference.run(None, {"x": x})
        np.testing.assert_allclose(np.asarray(compiled(x)).reshape(expected.shape), expected, rtol=1e-4, atol=1e-6)
        assert program_of(compiled, x).images == count


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bound_and_profiled(threads: int) -> None:
    compiled = loopnest.compile(network(), threads=threads)
    x = RANDOM.standard_normal((5, 3, 9, 9), dtype=np.float32)
    expected = np.array(compiled(x))
    bound = compiled.bind(x)
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(bound()), expected)
    one, five = compiled.profile(x[:1], repeat=1), compiled.profile(x, repeat=1)
    assert sum(step.flops for step in five.steps) == 5 * sum(step.flops for step in one.steps)
    assert five.workers == threads
    assert all(step.ms > 0 for step in five.steps)
    assert program_of(compiled, x).arena_nbytes == program_of(compiled, x[:1]).arena_nbytes


@pytest.mark.usefixtures("always")
def test_artifacts_run_on_any_number_of_threads(tmp_path: Path) -> None:
    x = RANDOM.standard_normal((7, 3, 9, 9), dtype=np.float32)
    compiled = loopnest.compile(network(), threads=2)
    expected = np.array(compiled(x))
    compiled.save(tmp_path / "images.lnest")
    for threads in (1, 2, 3, 8):
        loaded = loopnest.load(tmp_path / "images.lnest", threads=threads)
        np.testing.assert_array_equal(np.asarray(loaded(x)), expected)
        assert program_of(loaded, x) == program_of(compiled, x)


def test_plans_of_batches_are_kept_by_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "pays", lambda *arguments: arguments[-1] == 2)
    x = RANDOM.standard_normal((4, 3, 9, 9), dtype=np.float32)
    for threads, count in [(1, 1), (2, 4), (1, 1), (2, 4)]:
        compiled = loopnest.compile(network(), threads=threads, config={"cache_dir": str(tmp_path), "verify": False})
        assert program_of(compiled, x).images == count


@pytest.mark.usefixtures("always")
def test_many_callers_at_once() -> None:
    compiled = loopnest.compile(network(), threads=2)
    batches = [RANDOM.standard_normal((5, 3, 9, 9), dtype=np.float32) for _ in range(4)]
    expected = [np.array(compiled(x)) for x in batches]
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(compiled(batches[number]), expected[number]):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(len(batches))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not wrong
    assert not any(caller.is_alive() for caller in callers)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [2, 3, 4, 7, 8, 9])
def test_each_worker_has_its_own_arena(threads: int, count: int) -> None:
    f = executable(several(chain(20, n=33), count), threads)
    x = np.arange(33 * count)
    expected = np.concatenate([chained(part, 20) for part in np.split(x, count)])
    for _ in range(20):
        np.testing.assert_array_equal(f.run([x])[0], expected)


def test_images_are_computed_at_once() -> None:
    """The first image waits for the second."""
    program = Program(
        (vector("x", 2),),
        (vector("y", 2),),
        (whole("input", 2), whole("output", 2)),
        (Step("awaits_next", ((0, 0), (1, 0)), (2,)),),
    )
    f = executable(several(program, 4), 2)
    for _ in range(20):
        y = f.run([np.array([0, 0, 5, 5, 0, 0, 7, 7])], [np.zeros(8, np.int64)])[0]
        assert y[::2].tolist() == [5, 5, 7, 7]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_first_image_that_fails_is_reported(threads: int, seed: int) -> None:
    """Two checks of two inputs: that of the second input comes first, but of an image before."""
    n, count, random = 4, 7, np.random.default_rng(seed)
    errors = ("{value} is negative", "{value} is too large")
    steps = tuple(
        Step("check", ((number, 0),), (n,), parallel=True, name=name, errors=errors) for number, name in [(1, "z"), (0, "x")]
    )
    copy = Step("scale", ((0, 0), (2, 0)), (n, 1), parallel=True)
    buffers = (whole("input", n), whole("input", n, index=1), whole("output", n))
    program = Program((vector("x", n), vector("z", n)), (vector("y", n),), buffers, (*steps, copy))
    f = executable(several(program, count), threads)
    for _ in range(50):
        x, z = np.zeros((2, count * n), np.int64)
        for array in (x, z):
            wrong = random.choice(count * n, random.integers(1, 3), replace=False)
            array[wrong] = -1 - wrong
        failing = {image: ("z", z) if (z[n * image :][:n] < 0).any() else ("x", x) for image in range(count)}
        first = min(np.flatnonzero((x < 0) | (z < 0))) // n
        name, array = failing[first]
        value = next(v for v in array[n * first :] if v < 0)
        with pytest.raises(KernelError, match=f"^{name}: {value} is negative$"):
            f.run([x, z])
    np.testing.assert_array_equal(f.run([np.arange(28), np.arange(28)])[0], np.arange(28))


@pytest.mark.parametrize(
    ("count", "threads", "apart", "crew"),
    [
        (8, 1, 0, 1),
        (8, 2, 8, 2),
        (7, 2, 6, 2),
        (3, 2, 2, 2),
        (8, 3, 6, 3),
        (9, 3, 9, 3),
        (3, 4, 0, 1),
        (7, 8, 7, 7),
        (1, 2, 0, 1),
    ],
)
def test_images_left_over_keep_more_than_three_quarters_of_the_workers_busy(
    count: int, threads: int, apart: int, crew: int
) -> None:
    found = image_share([Step("k", (), bytes=10_000_000)] * 3, count, threads)
    assert (found.apart, found.crew, found.wait, found.wake) == (apart, crew, apart > 0, apart > 0)


def test_short_images_are_no_work_for_two() -> None:
    assert image_share([Step("k", (), bytes=10_000)], 4, 2).apart == 0
    assert not image_share([Step("k", (), bytes=200_000)], 4, 2).wait


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
    assert all(pays(64, 112, count=count, threads=2) for count in (4, 5, 7, 8))
    assert not pays(64, 112, count=3, threads=2), "one of two threads would wait"
    assert not pays(64, 112, count=8, threads=16), "half of the threads would have no image"
    assert not pays(96, 112, steps=1), "what nothing reads again gains nothing from a cache"
    assert not pays(16, 7), "all of it stays in the second cache"
    assert not pays(256, 1, count=1 << 15), "rows of a matrix are no images"
    assert not pays(4096, 14), "64 MiB of weights would be read eight times"


def test_programs_of_images_are_checked() -> None:
    program = chain(3)
    two = several(program, 2)
    verify(two)
    assert Program.from_dict(json.loads(json.dumps(two.to_dict()))) == two
    assert "one of 2 images" in two.as_text()
    with pytest.raises(VerificationError, match="no 3 images"):
        verify(two.replace(images=3))
    with pytest.raises(VerificationError, match="lie outside input 0"):
        verify(program.replace(images=2))
