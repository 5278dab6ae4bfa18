"""What this machine can do at most, measured: multiply-adds in registers, and copying memory, on 1 to N threads."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import llvmlite.binding as llvm
import numpy as np

from loopnest.codegen.target import Target, resolve
from loopnest.compiler.peak import peak_program

COPIED = 64 << 20
"""Bytes that each thread copies: more than its share of any cache."""

_COPY = """
define void @copy(ptr %data, i64 %count) {{
entry:
  %half = getelementptr {vector}, ptr %data, i64 %count
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{body}  %next = add i64 %i, 4
  %again = icmp slt i64 %next, %count
  br i1 %again, label %loop, label %done
done:
  ret void
}}
"""


@dataclass(frozen=True)
class Peak:
    """GFLOP/s of float32 multiply-adds, and GB/s read and written together, of that many threads at once."""

    threads: int
    gflops: float
    gbps: float


def measure(threads: int, seconds: float = 0.3, target: Target | None = None) -> Peak:
    """The best of several short runs of `threads` threads, in about `seconds` for each of the two."""
    target = target or resolve("cpu")
    lanes = target.lanes(32)
    memory = [_aligned(np.ones(2 * COPIED // 4 + 32, np.float32)) for _ in range(threads)]
    vectors = COPIED // (4 * lanes)
    copied = _best(_compiled(_copy_program(lanes), "copy", target), memory, vectors, seconds) * 2 * COPIED
    return Peak(threads, arithmetic(threads, seconds, target), copied / 1e9)


def arithmetic(threads: int, seconds: float, target: Target | None = None) -> float:
    """GFLOP/s of float32 multiply-adds of that many threads at once: the best of several short runs."""
    target = target or resolve("cpu")
    text, flops = peak_program(target)
    iterations = 2_000_000  # milliseconds: handing a call to a thread takes tens of microseconds
    data = [_aligned(np.ones(1024, np.float32)) for _ in range(threads)]
    return _best(_compiled(text, "peak", target), data, iterations, seconds) * flops * iterations / 1e9


def _copy_program(lanes: int) -> str:
    """LLVM text of `void copy(float* data, i64 count)`: the first `count` vectors (a multiple of 4) go to the ones after them."""
    vector, steps = f"<{lanes} x float>", range(4)
    body = "".join(
        f"  %i{k} = add i64 %i, {k}\n"
        f"  %from{k} = getelementptr {vector}, ptr %data, i64 %i{k}\n"
        f"  %to{k} = getelementptr {vector}, ptr %half, i64 %i{k}\n"
        f"  %value{k} = load {vector}, ptr %from{k}, align {4 * lanes}\n"
        f"  store {vector} %value{k}, ptr %to{k}, align {4 * lanes}, !nontemporal !0\n"
        for k in steps
    )
    return _COPY.format(vector=vector, body=body) + "\n!0 = !{i32 1}\n"


def _compiled(text: str, name: str, target: Target) -> Callable[[int, int], None]:
    module = llvm.parse_assembly(text)
    module.triple = target.triple
    engine = llvm.create_mcjit_compiler(module, target.machine())
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address(name))

    def call(address: int, count: int, engine: object = engine) -> None:  # holds the engine, which owns the code
        function(address, count)

    return call


def _aligned(memory: np.ndarray) -> np.ndarray:
    """The part of `memory` that starts on a cache line."""
    return memory[(-memory.ctypes.data % 64) // memory.itemsize :]


def _best(call: Callable[[int, int], None], data: list[np.ndarray], count: int, seconds: float) -> float:
    """Calls a second, of all threads together, in the best of several rounds in which all start at once."""
    best, stop = 0.0, time.perf_counter() + seconds
    with ThreadPoolExecutor(len(data)) as pool:
        while time.perf_counter() < stop:
            start = time.perf_counter()
            for done in [pool.submit(call, each.ctypes.data, count) for each in data]:
                done.result()
            best = max(best, len(data) / (time.perf_counter() - start))
    return best
