"""Choose tile sizes in a TOML file, and see that they change the kernels but not the result.

python examples/tile_sizes.py
"""

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

import loopnest

CONFIG = Path(__file__).with_name("tile_sizes.toml")


def two_convolutions() -> ModelProto:
    random = np.random.default_rng(0)
    weights = [random.standard_normal((32, 32, 3, 3)).astype(np.float32) / 17 for _ in range(2)]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w0"], ["h"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["h", "w1"], ["y"], name="second", pads=[1, 1, 1, 1]),
        ],
        "two_convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 28, 28])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def main() -> None:
    x = np.random.default_rng(1).standard_normal((1, 32, 28, 28)).astype(np.float32)
    default = loopnest.compile(two_convolutions(), threads=1)
    tuned = loopnest.compile(two_convolutions(), config=CONFIG, threads=1)
    difference = float(np.abs(default(x) - tuned(x)).max())
    assert difference < 1e-4, difference

    for title, f in (("default", default), ("tile_sizes.toml", tuned)):
        print(title)
        print(f.profile(x))

    try:
        loopnest.compile(two_convolutions(), config={"op": {"Conv": {"tyle": {"m": 4}}}})
    except loopnest.ConfigError as error:
        print("refused:", error)


if __name__ == "__main__":
    main()
