"""Small ONNX models for tests, and what they compute by the original model and by a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh

from loopnest.compiler.frontend import load
from loopnest.ir.graph import Graph
from loopnest.ir.graph_interpreter import run

FLOAT = onnx.TensorProto.FLOAT


def anything(domain: str, op: str) -> bool:
    """Supports every operator."""
    return True


def tensor(name: str, shape: Sequence[int | str | None] | None = None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return oh.make_tensor_value_info(name, dtype, shape)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None] | onnx.ValueInfoProto],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model whose inputs are float32 unless given as ``ValueInfoProto``; output types are left to inference."""
    typed = [item if isinstance(item, onnx.ValueInfoProto) else tensor(name, item) for name, item in inputs.items()]
    graph = oh.make_graph(nodes, "test", typed, [onnx.ValueInfoProto(name=name) for name in outputs])
    graph.initializer.extend(nh.from_array(array, name) for name, array in (constants or {}).items())
    opsets = [oh.make_opsetid("", opset), *(oh.make_opsetid(name, version) for name, version in (domains or {}).items())]
    return oh.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def load_any(model: onnx.ModelProto) -> Graph:
    return load(model, supported=anything)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def interpret(graph: Graph, feeds: Mapping[str, Any]) -> list[Any]:
    return list(run(graph, feeds).values())


def onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """What ONNX Runtime makes of ``model``, whose outputs get the types that inference finds."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    typed = onnx.shape_inference.infer_shapes(model)
    return ort.InferenceSession(typed.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


def reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """What ONNX's reference implementation makes of ``model``."""
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(model).run(None, dict(feeds)))


def assert_same(actual: Sequence[Any], expected: Sequence[Any], tolerance: float = 1e-5) -> None:
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert np.shape(ours) == np.shape(theirs)
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
