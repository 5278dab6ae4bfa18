"""One kernel run in three ways: by the interpreter, as the plain Python that is printed, and as machine code."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

import loopnest
from loopnest.codegen import plain
from loopnest.codegen.kernel import emit_kernel
from loopnest.codegen.source import KernelSource, print_kernel
from loopnest.codegen.target import resolve
from loopnest.compiler import plan
from loopnest.ir import loop_interpreter
from loopnest.ir import loops as ir
from loopnest.ir.canonical import Canonical, canonicalize
from loopnest.runtime.linker import link

Arrays = list[np.ndarray]


def interpreted(source: KernelSource, buffers: Arrays, extents: np.ndarray, workers: int = 1) -> int:
    params = dict(zip(source.params, extents[1:].tolist(), strict=True))
    return loop_interpreter.run(source.nest, [b for b in buffers if b is not None], params, workers)


def as_python(source: KernelSource, buffers: Arrays, extents: np.ndarray, workers: int = 1) -> int:
    kernel = plain.load(source)
    return max(kernel(buffers, extents, worker, workers) for worker in range(workers))


def compiled(source: KernelSource, buffers: Arrays, extents: np.ndarray, workers: int = 1) -> int:
    kernel = emit_kernel(source, resolve("cpu"))
    linked = link({"kernel": (kernel.object_code(), kernel.symbol)})
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4, ctypes.c_int64, ctypes.c_int64)(
        linked.address("kernel")
    )
    pointers = np.array([b.ctypes.data for b in buffers], np.uint64)
    code, exception = ctypes.c_int64(), ctypes.c_void_p()
    worst = 0
    for worker in range(workers):
        function(
            ctypes.addressof(code), ctypes.addressof(exception), pointers.ctypes.data, extents.ctypes.data, worker, workers
        )
        worst = max(worst, code.value)
    return worst


WAYS = (interpreted, as_python, compiled)


def source_of(nest: ir.LoopNest) -> KernelSource:
    return print_kernel(canonicalize(nest))


def kernels_of(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, config: Any = None) -> list[KernelSource]:
    """The kernels that a model with static shapes is compiled to."""
    found = recorded(monkeypatch)
    loopnest.compile(model, threads=1, config=config)
    assert found
    return found


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[KernelSource]:
    """The kernels that are planned from now on."""
    found: list[KernelSource] = []

    def record(canonical: Canonical) -> KernelSource:
        found.append(print_kernel(canonical))
        return found[-1]

    monkeypatch.setattr(plan, "print_kernel", record)
    return found


def arguments(source: KernelSource, inputs: Sequence[np.ndarray]) -> tuple[Arrays, np.ndarray]:
    """Flat arrays for the buffers of a kernel, its inputs first, outputs and scratch filled with ones; and its extents."""
    buffers: Arrays = [array.reshape(-1).copy() for array in inputs]
    for buffer in source.nest.buffers[len(inputs) :]:
        size = int(np.prod([ir.hint(e) for e in buffer.shape]))
        buffers.append(np.ones(size, buffer.dtype.numpy))
    return buffers, np.array([0, *(p.hint for p in source.params)], np.int64)


def random_inputs(source: KernelSource, seed: int = 0) -> Arrays:
    """Values for the inputs of a kernel: floats around 0, integers in [0, 5)."""
    random = np.random.default_rng(seed)
    arrays: Arrays = []
    for buffer in source.nest.buffers:
        if buffer.scope != "input":
            continue
        shape = [ir.hint(e) for e in buffer.shape]
        value = random.normal(size=shape) * 3 if buffer.dtype.is_float else random.integers(0, 5, shape)
        arrays.append(value.astype(buffer.dtype.numpy))
    return arrays
