"""The light models of the onnx wheel: real architectures whose weights are ConstantOfShape nodes, so that they stay small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper


def input_name(model: onnx.ModelProto) -> str:
    """The one input that is not an initializer."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    (name,) = (declared.name for declared in model.graph.input if declared.name not in initialized)
    return name


def with_random_weights(model: onnx.ModelProto, seed: int = 7) -> onnx.ModelProto:
    """The same architecture with weights as at the start of training (He et al. 2015) in place of the constants.

    Constant weights make every channel of a layer alike, so that a kernel that mixes channels up would still be right.
    A softmax at the end goes: it would saturate, and hide errors.
    """
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    users = {name: (node, index) for node in model.graph.node for index, name in enumerate(node.input)}
    kept: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        name, shape = node.output[0], tuple(int(extent) for extent in shapes[node.input[0]])
        user, index = users[name]
        weights.append(numpy_helper.from_array(_draw(rng, shape, user, index), name))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    _drop_last_softmax(model.graph)
    model.graph.initializer.extend(weights)
    model.ir_version = max(model.ir_version, 4)  # initializers need not be inputs
    return model


def _drop_last_softmax(graph: onnx.GraphProto) -> None:
    last = graph.node[-1]
    if last.op_type == "Softmax":
        graph.output[0].name = last.input[0]
        graph.node.remove(last)


def _draw(rng: np.random.Generator, shape: tuple[int, ...], user: onnx.NodeProto, index: int) -> npt.NDArray[np.float32]:
    def normal(scale: float) -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    if len(shape) > 1:
        return normal(np.sqrt(2 / np.prod(shape[1:])))
    if user.op_type == "BatchNormalization" and index in (2, 3):
        return normal(0.1)
    if user.op_type in ("Conv", "Gemm"):
        return normal(0.05)
    return rng.uniform(0.6, 1.4, shape).astype(np.float32)
