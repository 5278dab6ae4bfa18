"""loopnest through ONNX's backend interface."""

from __future__ import annotations

import unittest

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import loopnest
from loopnest.compiler import backend
from loopnest.compiler.backend import as_value

ADD = helper.make_node("Add", ["x", "y"], ["z"])
X = np.float32([[1, 2], [3, 4]])


def test_it_is_an_attribute_of_the_package() -> None:
    assert loopnest.backend is backend


def test_run_node_infers_types_and_shapes() -> None:
    (z,) = backend.run_node(ADD, [X, np.float32([10, 20])])
    np.testing.assert_array_equal(z, [[11, 22], [13, 24]])
    assert z.dtype == np.float32


def test_run_node_with_outputs_info_and_opset() -> None:
    outputs = backend.run_node(ADD, [X, X], outputs_info=[(np.float32, (2, 2))], opset_version=13)
    np.testing.assert_array_equal(outputs[0], X + X)


def test_run_node_takes_one_value_an_input() -> None:
    with pytest.raises(loopnest.ModelError, match="2 inputs, 1 values"):
        backend.run_node(ADD, [X])


def test_prepare_and_run_by_position_and_by_name() -> None:
    graph = helper.make_graph(
        [ADD],
        "sum",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2]) for name in "xy"],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2, 2])],
    )
    prepared = backend.prepare(helper.make_model(graph))
    by_position = prepared.run([X, numpy_helper.from_array(X)])
    by_name = prepared.run({"x": X, "y": X})
    np.testing.assert_array_equal(by_position["z"], X + X)  # type: ignore[call-overload]
    np.testing.assert_array_equal(by_name[0], X + X)
    with pytest.raises(loopnest.InputError, match="3 inputs given"):
        prepared.run([X, X, X])


def test_devices() -> None:
    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA")
    assert not backend.supports_device("abacus")
    with pytest.raises(loopnest.TargetError, match="CUDA"):
        backend.prepare(onnx.ModelProto(), "CUDA")


def test_values() -> None:
    narrow = np.array([1, -2], ml_dtypes.int4)
    assert as_value(None) is None
    assert as_value(narrow) is narrow
    assert as_value(numpy_helper.from_array(narrow)).dtype == ml_dtypes.int4  # type: ignore[union-attr]
    assert as_value(np.float32(3)).shape == ()  # type: ignore[union-attr]
    assert as_value(np.array(["a", "bc"])).dtype == object  # type: ignore[union-attr]
    assert [type(element) for element in as_value([X, [np.int64(1)]])] == [np.ndarray, list]  # type: ignore[union-attr]
    sequence = as_value(numpy_helper.from_list([X, X]))
    assert isinstance(sequence, list)
    np.testing.assert_array_equal(sequence[1], X)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_onnx_own_runner_accepts_it() -> None:
    from onnx.backend.test import BackendTest

    tests = BackendTest(backend.LoopnestBackend, __name__).include("^test_(relu|concat_2d_axis_0|add)_cpu$").test_suite
    result = unittest.TestResult()
    tests.run(result)
    assert not result.errors and not result.failures
    assert result.testsRun - len(result.skipped) == 3
