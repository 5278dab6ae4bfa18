"""Programs for the runtime's tests: kernels on int64 buffers, compiled by Numba with the kernel ABI, linked by the runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit, types

from loopnest.runtime.executor import Executable
from loopnest.runtime.linker import Linked, link
from loopnest.runtime.program import BufferKind, BufferSpec, Program, Step, TensorSpec, verify

SIGNATURE = types.int64(types.CPointer(types.CPointer(types.int64)), types.CPointer(types.int64), types.int64, types.int64)


def scale(buffers, extents, worker, workers):
    """y = x * factor, shared by all workers."""
    x, y, n, factor = buffers[0], buffers[1], extents[1], extents[2]
    for i in range(n * worker // workers, n * (worker + 1) // workers):
        y[i] = x[i] * factor
    return 0


def reverse(buffers, extents, worker, workers):
    """y[i] = x[n - 1 - i] + 1: each worker reads what another one wrote in the step before."""
    x, y, n = buffers[0], buffers[1], extents[1]
    for i in range(n * worker // workers, n * (worker + 1) // workers):
        y[i] = x[n - 1 - i] + 1
    return 0


def check(buffers, extents, worker, workers):
    """Stops with code 1 at a negative value, with code 2 at one over 1000."""
    x, n = buffers[0], extents[1]
    for i in range(n * worker // workers, n * (worker + 1) // workers):
        if x[i] < 0 or x[i] > 1000:
            extents[0] = x[i]
            return 1 if x[i] < 0 else 2
    return 0


def crew(buffers, extents, worker, workers):
    """y[worker] = workers, which count shares."""
    buffers[0][worker] = workers
    return 0


def own_scratch(buffers, extents, worker, workers):
    """y[worker] = what this share finds in the scratch after filling it with its number, many times over."""
    y, scratch, n = buffers[0], buffers[1], extents[1]
    for _ in range(2000):
        for i in range(n):
            scratch[i] = worker + 1
        for i in range(n):
            if scratch[i] != worker + 1:
                y[worker] = -1
                return 0
    y[worker] = worker + 1
    return 0


def patient(buffers, extents, worker, workers):
    """Share 0 sets y[0] once share 1 has set y[1]; gives up after a while. It also writes y[n], which the compiler must take for y[1]."""
    y, n = buffers[0], extents[1]
    if worker == 1:
        y[1] = 1
    if worker == 0:
        for i in range(1000000000):
            y[n] = i
            if y[1] != 0:
                y[0] = 1
                return 0
    return 0


def awaits_next(buffers, extents, worker, workers):
    """An image that begins with 0 sets its y[0] once the next image has set its own; gives up after a while."""
    x, y, n = buffers[0], buffers[1], extents[1]
    if x[0] == 0:
        for i in range(1000000000):
            y[1] = i
            if y[n] != 0:
                break
        y[0] = y[n]
    else:
        y[0] = x[0]
    return 0


KERNELS: tuple[Callable[..., int], ...] = (scale, reverse, check, crew, own_scratch, patient, awaits_next)


def machine_code(function: Callable[..., int], signature: types.Type = SIGNATURE) -> tuple[bytes, str]:
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "nogil": True, "error_model": "numpy"}
    result = njit([signature], **options)(function).overloads[signature.args]
    return result.library._get_compiled_object(), result.fndesc.llvm_func_name


@cache
def linked() -> Linked:
    return link({kernel.__name__: machine_code(kernel) for kernel in KERNELS})


def vector(name: str, n: int) -> TensorSpec:
    return TensorSpec(name, "int64", (n,))


def whole(kind: BufferKind, n: int, index: int = 0, offset: int = 0) -> BufferSpec:
    return BufferSpec(kind, index, offset, 8 * n)


def executable(program: Program, threads: int = 1, constants: tuple[np.ndarray, ...] = ()) -> Executable:
    verify(program)
    code = linked()
    return Executable(program, code.addresses, constants, threads, keep=code)


def chain(steps: int, n: int = 8, parallel: bool = True) -> Program:
    """x -> reverse -> reverse ... -> y through two arena buffers: every element grows by the number of steps."""
    buffers = (whole("input", n), whole("output", n), whole("arena", n), whole("arena", n, offset=8 * n))

    def step(number: int) -> Step:
        source = 0 if number == 0 else 2 + number % 2
        target = 1 if number == steps - 1 else 3 - number % 2
        return Step("reverse", ((source, 0), (target, 0)), (n,), parallel=parallel, name=f"reverse_{number}", op="Reverse")

    return Program((vector("x", n),), (vector("y", n),), buffers, tuple(map(step, range(steps))), arena_nbytes=16 * n)


def several(program: Program, images: int) -> Program:
    """So many images, of which ``program`` computes one."""

    def all_of(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(spec.replace(shape=(images * spec.extents[0],)) for spec in specs)

    return program.replace(inputs=all_of(program.inputs), outputs=all_of(program.outputs), images=images)


def chained(x: np.ndarray, steps: int) -> np.ndarray:
    return (x[::-1] if steps % 2 else x) + steps
