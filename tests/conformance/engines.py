"""What runs a case: loopnest, and two others to judge this harness by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import onnx


class Prepared(Protocol):
    def __call__(self, inputs: Sequence[Any], /) -> Sequence[Any]: ...


Engine = Callable[[onnx.ModelProto], Prepared]


def loopnest(model: onnx.ModelProto) -> Prepared:
    from loopnest import backend

    return backend.prepare(model).run


def neon(model: onnx.ModelProto) -> Prepared:
    """loopnest's code for AArch64, emulated."""
    from loopnest import backend
    from tests.emulator import emulated

    with emulated() as target:
        prepared = backend.prepare(model, target=target, threads=1)

    def run(inputs: Sequence[Any]) -> Sequence[Any]:
        with emulated():
            return prepared.run(inputs)

    return run


def onnxruntime(model: onnx.ModelProto) -> Prepared:
    """Inputs as NumPy or ml_dtypes arrays, as its Python API takes them; one thread."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [declared.name for declared in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=False)))


def reference(model: onnx.ModelProto) -> Prepared:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return lambda inputs: evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=False)))


ENGINES: dict[str, Engine] = {"loopnest": loopnest, "neon": neon, "onnxruntime": onnxruntime, "reference": reference}
