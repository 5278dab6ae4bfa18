"""Give the compiler an operator of your own: its definition is a function, fused and vectorized like any other.

python examples/own_operator.py
"""

import numpy as np
from onnx import ModelProto, TensorProto, helper

import loopnest
from loopnest.compiler.ops.context import Op
from loopnest.compiler.ops.registry import pointwise
from loopnest.ir import loops as ir


@pointwise("ScaledTanh", domain="com.example")
def scaled_tanh(op: Op, x: ir.Expr) -> ir.Expr:
    """tanh(alpha * x)"""
    return ir.unary("tanh", x * op.attr("alpha", 1.0))


def model() -> ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["m"]),
        helper.make_node("ScaledTanh", ["m"], ["t"], domain="com.example", alpha=0.5),
        helper.make_node("Relu", ["t"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "own_operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "n"])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def main() -> None:
    f = loopnest.compile(model())
    x = np.random.default_rng(0).standard_normal((33, 33)).astype(np.float32)
    y = f(x)
    assert np.allclose(y, np.maximum(np.tanh(0.5 * (x @ x)), 0), atol=1e-4)
    print(f)


if __name__ == "__main__":
    main()
