"""One model, many shapes: a plan is made at the first call for each shape, kernels are shared between them.

python examples/dynamic_shapes.py
"""

import time

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

import loopnest


def attention_like() -> bytes:
    """``softmax(x @ x^T) @ x @ w`` for x of shape [batch, sequence, 64]: two symbolic dims."""
    weights = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32) / 8
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "x"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "attention_like",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 32])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    return model.SerializeToString()


def main() -> None:
    f = loopnest.compile(attention_like())
    print("input:", f.inputs[0].shape, "output:", f.outputs[0].shape)
    random = np.random.default_rng(1)
    for shape in ((1, 16, 64), (1, 17, 64), (3, 128, 64), (1, 16, 64)):
        x = random.standard_normal(shape).astype(np.float32)
        start = time.perf_counter()
        y = f(x)
        print(f"{shape} -> {y.shape} in {(time.perf_counter() - start) * 1e3:.2f} ms")

    try:
        f(np.zeros((2, 16, 63), np.float32))
    except loopnest.InputError as error:
        print("refused:", error)

    fixed = loopnest.compile(attention_like(), shapes={"x": (1, 32, 64)})  # planned now, not at the first call
    print("fixed:", fixed(np.zeros((1, 32, 64), np.float32)).shape)


if __name__ == "__main__":
    main()
