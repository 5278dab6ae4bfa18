"""Bound inputs and outputs: the caller's memory is read and written, wrong memory is refused, nothing is allocated."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import loopnest
from loopnest.ir.errors import InputError, KernelError
from loopnest.runtime.model import CompiledModel

F32, I64 = TensorProto.FLOAT, TensorProto.INT64


def model(nodes: list[onnx.NodeProto], inputs: dict[str, Any], outputs: dict[str, Any]) -> onnx.ModelProto:
    def infos(values: dict[str, Any]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, *spec) for name, spec in values.items()]

    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def sums() -> CompiledModel:
    """s = x + y, d = x - y, for any number of rows."""
    nodes = [helper.make_node("Add", ["x", "y"], ["s"]), helper.make_node("Sub", ["x", "y"], ["d"])]
    rows = (F32, ["N", 3])
    return loopnest.compile(model(nodes, {"x": rows, "y": rows}, {"s": rows, "d": rows}), threads=2)


@pytest.fixture(scope="module")
def double() -> CompiledModel:
    return loopnest.compile(model([helper.make_node("Add", ["x", "x"], ["y"])], {"x": (F32, [8])}, {"y": (F32, [8])}))


def rows(n: int, start: float = 0.0) -> np.ndarray:
    return np.arange(3 * n, dtype=np.float32).reshape(n, 3) + np.float32(start)


class Lending:
    """A foreign array that lends its memory by DLPack only."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("n", [1, 7, 16, 33, 5000])
def test_runs_read_and_write_the_callers_memory(sums: CompiledModel, n: int) -> None:
    x, y, s, d = rows(n), rows(n, 2), np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32)
    bound = sums.bind(x, y, out=(s, d))
    for _ in range(3):
        results = bound.run()
        assert isinstance(results, tuple)
        assert results[0] is s
        assert results[1] is d
        np.testing.assert_array_equal(s, x + y)
        np.testing.assert_array_equal(d, x - y)
        x += 1


def test_outputs_by_name_and_missing_ones_are_made(sums: CompiledModel) -> None:
    x, y, d = rows(2), rows(2, 5), np.zeros((2, 3), np.float32)
    bound = sums.bind(y=y, x=x, out={"d": d})
    bound()
    np.testing.assert_array_equal(d, x - y)
    np.testing.assert_array_equal(bound.outputs[0], x + y)
    assert bound.outputs[1] is d
    assert [array is given for array, given in zip(bound.inputs, (x, y), strict=True)] == [True, True]


def test_one_output_is_returned_bare(double: CompiledModel) -> None:
    x, y = np.ones(8, np.float32), np.zeros(8, np.float32)
    assert double.bind(x, out=y).run() is y
    assert y.tolist() == [2] * 8


def test_calls_take_out(double: CompiledModel, sums: CompiledModel) -> None:
    x, y = np.ones(8, np.float32), np.zeros(8, np.float32)
    assert double(x, out=y) is y
    assert y.tolist() == [2] * 8
    s = np.zeros((2, 3), np.float32)
    assert sums(rows(2), y=rows(2), out={"s": s})[0] is s
    np.testing.assert_array_equal(s, 2 * rows(2))


def test_an_input_may_be_called_out() -> None:
    f = loopnest.compile(model([helper.make_node("Neg", ["out"], ["y"])], {"out": (F32, [3])}, {"y": (F32, [3])}))
    x = np.arange(3, dtype=np.float32)
    np.testing.assert_array_equal(f(out=x), -x)
    np.testing.assert_array_equal(f.bind(x).run(), -x)


@pytest.mark.parametrize("wrap", [Lending, memoryview])
def test_foreign_memory_is_bound_without_a_copy(double: CompiledModel, wrap: Callable[[np.ndarray], object]) -> None:
    x, y = np.ones(8, np.float32), np.zeros(8, np.float32)
    bound = double.bind(wrap(x), out=wrap(y) if wrap is memoryview else y)
    x[:] = 3
    bound.run()
    assert y.tolist() == [6] * 8


def test_tensors_of_torch_are_bound() -> None:
    torch = pytest.importorskip("torch", reason="torch is an extra")
    f = loopnest.compile(model([helper.make_node("Add", ["x", "x"], ["y"])], {"x": (F32, [8])}, {"y": (F32, [8])}))
    x, y = torch.ones(8), torch.zeros(8)
    bound = f.bind(x, out=y)
    x.fill_(4)
    bound.run()
    assert y.tolist() == [8] * 8


def readonly(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


X = np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("x", "out", "message"),
    [
        (X, np.zeros(8), "output array for 'y' has dtype float64, expected float32"),
        (X, np.zeros(7, np.float32), r"output array for 'y' has shape \(7,\), expected \(8,\) for these inputs"),
        (
            X,
            np.zeros(16, np.float32)[::2],
            r"output array for 'y' must be C-contiguous and aligned to be bound, got strides \(8,\)",
        ),
        (X, np.zeros(33, np.uint8)[1:].view(np.float32), "output array for 'y' must be C-contiguous and aligned"),
        (X, readonly(np.zeros(8, np.float32)), "output array for 'y' is read-only"),
        (X, X, "output array for 'y' shares memory with input 'x'"),
        (X, [0.0] * 8, "8 output arrays given, expected 1: y: float32"),
        (X, ([0.0] * 8,), "output array for 'y': list has no memory that can be bound"),
        (X, {"z": X}, "the model has no output 'z'; its outputs are y: float32"),
        (X, (X, X), "2 output arrays given, expected 1"),
        ([0.0] * 8, None, "input 'x': list has no memory that can be bound"),
        (np.zeros(16, np.float32)[::2], None, "input 'x' must be C-contiguous and aligned to be bound"),
        (np.zeros(8), None, "input 'x' has dtype float64, expected float32"),
        (object(), None, "input 'x': object has no memory that can be bound"),
    ],
)
def test_memory_that_does_not_fit_is_refused(double: CompiledModel, x: object, out: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        double.bind(x, out=out)


def test_outputs_that_overlap_are_refused(sums: CompiledModel) -> None:
    memory = np.zeros((5, 3), np.float32)
    with pytest.raises(InputError, match="output array for 'd' shares memory with output 's'"):
        sums.bind(rows(3), rows(3), out=(memory[:3], memory[2:]))
    sums.bind(rows(2), rows(2), out=(memory[:2], memory[2:4])).run()
    np.testing.assert_array_equal(memory[:2], 2 * rows(2))


def test_values_that_decide_shapes_may_change() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("ReduceSum", ["r"], ["y"], keepdims=0)]
    f = loopnest.compile(model(nodes, {"x": (F32, [6]), "shape": (I64, [2])}, {"y": (F32, [])}))
    x, shape = np.arange(6, dtype=np.float32), np.array([2, 3])
    bound = f.bind(x, shape)
    assert bound.run() == 15
    shape[:] = 3, 2
    x += 1
    assert bound.run() == 21
    assert len(f.plans) == 2


def test_outputs_whose_shape_only_data_decides() -> None:
    f = loopnest.compile(model([helper.make_node("NonZero", ["x"], ["y"])], {"x": (F32, [4])}, {"y": (I64, [1, "N"])}))
    x, y = np.array([1, 0, 1, 0], np.float32), np.zeros((1, 2), np.int64)
    with pytest.raises(InputError, match="output array for 'y' must be given: only the data decides its shape"):
        f.bind(x)
    bound = f.bind(x, out=y)
    assert bound.run() is y
    assert y.tolist() == [[0, 2]]
    x[:] = 1
    with pytest.raises(InputError, match=r"output array for 'y' is int64\[1, 2\], the result is int64\[1, 4\]"):
        bound.run()


def test_errors_of_kernels_name_the_node() -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"], name="pick")
    f = loopnest.compile(model([node], {"x": (F32, [4]), "i": (I64, [2])}, {"y": (F32, [2])}))
    i = np.array([0, 3])
    bound = f.bind(np.arange(4, dtype=np.float32), i)
    assert np.asarray(bound.run()).tolist() == [0, 3]
    i[1] = 9
    with pytest.raises(KernelError, match="pick"):
        bound.run()
    i[1] = 1
    assert np.asarray(bound.run()).tolist() == [0, 1]


def _grown(call: Callable[[], object]) -> int:
    """The bytes that stay allocated after 100 calls whose results are dropped, and that any of them needed at its peak, over one call."""
    for _ in range(5):
        call()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for _ in range(100):
        call()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("n", [2, 5000])
def test_bound_runs_allocate_nothing(sums: CompiledModel, n: int) -> None:
    bound = sums.bind(rows(n), rows(n))
    assert _grown(bound.run) < 512  # of the test's own loop


@pytest.mark.parametrize("n", [2, 5000])
def test_calls_allocate_their_outputs_only(sums: CompiledModel, n: int) -> None:
    x, y = rows(n), rows(n)
    assert _grown(lambda: sums(x, y)) < 2 * x.nbytes + 2048


def test_bindings_of_many_threads(sums: CompiledModel) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        x, y = rows(40, seed), rows(40)
        bound = sums.bind(x, y)
        for _ in range(300):
            bound.run()
            if not np.array_equal(bound.outputs[0], x + y) or not np.array_equal(sums(x, y)[1], x - y):
                wrong.append(seed)
            x += 1

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_bound_memory_lives_as_long_as_the_binding(double: CompiledModel) -> None:
    bound = double.bind(np.full(8, 2, np.float32))
    gc.collect()
    junk = [np.full(8, 9, np.float32) for _ in range(50)]
    assert np.asarray(bound.run()).tolist() == [4] * 8
    assert len(junk) == 50


def test_an_output_that_the_model_says_nothing_of() -> None:
    """ONNX infers no type for it, and the model declares none."""
    inputs = {"x": (F32, [1, 4, 3]), "scale": (F32, [2]), "bias": (F32, [2])}
    proto = model([helper.make_node("GroupNormalization", list(inputs), ["y"], num_groups=2)], inputs, {"z": (F32, None)})
    proto.opset_import[0].version = 18
    del proto.graph.output[:]
    proto.graph.output.append(onnx.ValueInfoProto(name="y"))
    f = loopnest.compile(proto, threads=1)
    given = [np.random.default_rng(0).random(spec[1], np.float32) for spec in inputs.values()]
    y = np.empty((1, 4, 3), np.float32)
    assert f.bind(*given, out=y).run() is y
    np.testing.assert_array_equal(f(*given), y)
    assert f.bind(*given).run().dtype == np.float32  # type: ignore[union-attr]
    with pytest.raises(InputError, match="has dtype float64, expected float32"):
        f.bind(*given, out=np.empty((1, 4, 3)))
