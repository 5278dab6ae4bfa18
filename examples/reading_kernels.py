"""Read what the compiler writes: the stages of a small model as text, down to the generated kernels.

    python examples/reading_kernels.py [stage ...]

Stages: graph, passes, groups, nests, kernels, program. The same from the command line: ``loopnest inspect MODEL --stage kernels``;
with ``LOOPNEST_DUMP=directory`` every compilation leaves them as files.
"""

import sys

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from loopnest.compiler.api import stages


def conv_relu_add() -> ModelProto:
    """A convolution whose bias, activation and residual become the epilogue of one kernel."""
    weights = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32) / 12
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["c", "x"], ["s"], name="residual"),
            helper.make_node("Relu", ["s"], ["y"], name="relu"),
        ],
        "conv_relu_add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 12, 12])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.full(16, 0.5, np.float32), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def main(*chosen: str) -> None:
    for name, text in stages(conv_relu_add()).items():
        if not chosen or name in chosen:
            print(f"{'=' * 20} {name} {'=' * 20}\n{text}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
