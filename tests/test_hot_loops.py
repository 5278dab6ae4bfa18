"""The innermost loops of kernels for each instruction set, read as assembly: all vectors of the register tile, in registers.

No machine with AVX-512 or NEON is needed for that, nor said to be fast: only that nothing stands in the way.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx.helper as oh
import pytest

import loopnest
from loopnest.codegen.kernel import emit_kernel
from loopnest.codegen.source import KernelSource
from loopnest.codegen.target import resolve
from tests.graphs import make_model, values
from tests.kernels import recorded

LABEL = re.compile(r"(\.L\w+):")
BRANCH = re.compile(r"^\s+(?:j\w+|b\.\w+|cbn?z\s+\w+,|tbn?z\s.*,)\s+(\.L\w+)")
FUSED = re.compile(r"\bvfmadd\w+ps\b|\bfmla\b")
STACK = re.compile(r"\(%rsp|\[sp\b")
REGISTER = {"avx512": "%zmm", "avx2": "%ymm", "neon": r"\bv\d+\.4s"}


def matmul() -> onnx.ModelProto:
    return make_model([oh.make_node("MatMul", ["a", "w"], ["y"])], {"a": [128, 256]}, ["y"], {"w": values(256, 256)})


def vector() -> onnx.ModelProto:
    return make_model([oh.make_node("MatMul", ["a", "w"], ["y"])], {"a": [1, 256]}, ["y"], {"w": values(256, 256)})


def convolution(kernel: int, groups: int, stride: int) -> onnx.ModelProto:
    node = oh.make_node("Conv", ["x", "w"], ["y"], pads=[kernel // 2] * 4, group=groups, strides=[stride] * 2)
    return make_model([node], {"x": [1, 64, 28, 28]}, ["y"], {"w": values(64, 64 // groups, kernel, kernel)})


MODELS = {
    "matmul": matmul(),
    "vector": vector(),
    "conv 1x1": convolution(1, 1, 1),
    "conv 3x3, strides": convolution(3, 1, 2),
    "depthwise": convolution(3, 64, 1),
}


def kernel_of(model: onnx.ModelProto, isa: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> KernelSource:
    """The kernel with sums in registers that a model has for an instruction set, which need not be one of this machine."""
    found = recorded(monkeypatch)
    loopnest.precompile(model, folder / "model.lnest", isa=[isa], config={"cache": False, "threads": 1})
    (source,) = (source for source in found if "registers(" in source.text)
    return source


def innermost_loops(assembly: str) -> list[list[str]]:
    """Instructions from a label to a branch back to it, without other labels between."""
    lines = [line for line in assembly.splitlines() if not re.match(r"\s*(#|//|\.)(?!L)", line)]
    at: dict[str, int] = {}
    loops: list[list[str]] = []
    for number, line in enumerate(lines):
        if label := LABEL.match(line):
            at[label[1]] = number
        elif (branch := BRANCH.match(line)) and branch[1] in at:
            body = lines[at[branch[1]] + 1 : number + 1]
            if not any(map(LABEL.match, body)):
                loops.append(body)
    return loops


@pytest.mark.parametrize("isa", REGISTER)
@pytest.mark.parametrize("name", MODELS)
def test_sums_stay_in_registers(name: str, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = kernel_of(MODELS[name], isa, tmp_path, monkeypatch), resolve(f"cpu-{isa}")
    tile = re.search(r"registers\(\((\d+), (\d+)", source.text)
    assert tile
    sums = int(tile[1]) * int(tile[2]) // target.lanes(32)
    assert target.vector_registers // 4 <= sums < target.vector_registers
    loops = innermost_loops(emit_kernel(source, target).assembly())
    hot = max(loops, key=lambda loop: sum(bool(FUSED.search(line)) for line in loop))
    fused = [line for line in hot if FUSED.search(line)]
    assert len(fused) >= sums or name == "depthwise"  # whose loop may be one row of the window
    assert all(re.search(REGISTER[isa], line) for line in fused)
    assert sum(bool(STACK.search(line)) for line in hot) <= len(fused) // 6
    assert len(hot) <= 2.6 * len(fused)
