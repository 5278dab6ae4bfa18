"""The engines that ``loopnest bench`` compares: how each is set up for float32 on N threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import click
import numpy as np

Call: TypeAlias = Callable[[], list[np.ndarray]]
Feeds: TypeAlias = Mapping[str, np.ndarray]


def _import(module: str, engine: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise click.ClickException(f"{engine} is not installed ({error}); pip install 'loopnest[bench]'") from error


def onnxruntime(model: Path, feeds: Feeds, threads: int) -> Call:
    """All graph optimizations, N intra-op threads, operators one after the other."""
    ort = _import("onnxruntime", "ONNX Runtime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    inputs = dict(feeds)
    return lambda: session.run(None, inputs)


def openvino(model: Path, feeds: Feeds, threads: int) -> Call:
    """Latency mode, one stream, float32 arithmetic, shapes fixed to those of the inputs."""
    ov = _import("openvino", "OpenVINO")
    read = ov.Core().read_model(str(model))
    read.reshape({name: list(array.shape) for name, array in feeds.items()})
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = ov.Core().compile_model(read, "CPU", settings).create_infer_request()
    inputs = dict(feeds)

    def call() -> list[np.ndarray]:
        results: Mapping[Any, np.ndarray] = request.infer(inputs, share_inputs=True)
        return list(results.values())

    return call


ENGINES: dict[str, Callable[[Path, Feeds, int], Call]] = {"onnxruntime": onnxruntime, "openvino": openvino}
