"""Compile a model, call it three ways, look at what was made of it.

    python examples/quickstart.py [model.onnx]

Without an argument: SqueezeNet as it comes with the onnx package.
"""

import sys
from pathlib import Path

import numpy as np
import onnx

import loopnest


def main(path: str | None = None) -> None:
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    f = loopnest.compile(path or light / "light_squeezenet.onnx", target="cpu")
    for spec in (*f.inputs, *f.outputs):
        print(spec.name, spec.dtype, spec.shape)

    (data,) = f.inputs
    x = np.random.default_rng(0).random(data.shape, np.float32)
    by_position = f(x)
    by_name = f(**{data.name: x})
    (listed,) = f.run(None, {data.name: x})
    assert np.array_equal(by_position, by_name)
    assert np.array_equal(by_position, listed)
    print("output", by_position.shape, "largest at", int(by_position.argmax()))

    print(f)
    print(f.profile(x))


if __name__ == "__main__":
    main(*sys.argv[1:])
