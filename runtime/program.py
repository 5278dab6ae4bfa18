"""A compiled program as plain frozen data: what a plan hands to the runtime, and what an artifact stores.

A program is a table of steps. Each step names one kernel and says where its buffers lie; buffers are declared once, as places in
the memory of a call (inputs, outputs, arena, scratch) or in the packed weights. Nothing here holds an array or an address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from ..ir import dtypes
from ..ir.errors import VerificationError
from ..ir.frozen import Frozen
from .tables import format_table

Dim: TypeAlias = "int | str | None"
BufferKind = Literal["arena", "scratch", "constant", "input", "output"]

ALIGNMENT = 64
"""Bytes; of the arena, of each worker's scratch and of the outputs: one cache line, one AVX-512 register."""
UNKNOWN = "unknown"
"""Where a dtype would stand, if the model says nothing of what a name is."""


class TensorSpec(Frozen):
    """A tensor at the edge of a model or program.

    ``dtype`` is the ONNX name (``ir.dtypes``). An extent is an int, the name of a symbolic dim, or None where nothing is known; ``shape``
    itself is None when the rank is unknown. In a ``Program`` every extent is an int.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None

    @property
    def numpy(self) -> np.dtype[Any]:
        return dtypes.by_name(self.dtype).numpy

    @property
    def extents(self) -> tuple[int, ...]:
        """The shape when every extent is a number; raises ``VerificationError`` otherwise."""
        shape = self.shape
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            raise VerificationError(f"the shape of {self} is not static")
        return cast("tuple[int, ...]", shape)

    @property
    def nbytes(self) -> int:
        return prod(self.extents) * dtypes.by_name(self.dtype).itemsize

    def __str__(self) -> str:
        dims = "..." if self.shape is None else ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


class BufferSpec(Frozen):
    """A range of bytes that steps refer to by number.

    ``offset`` counts from the start of what ``kind`` and ``index`` name: the arena, each worker's own scratch (``index`` 0), packed
    weights blob ``index``, input ``index`` or output ``index``.
    """

    kind: BufferKind
    index: int
    offset: int
    nbytes: int


class Step(Frozen):
    """One kernel call.

    ``kernel`` is the kernel's key; ``buffers`` are its arguments as (buffer number, byte offset in it); ``extents`` its int64 arguments
    from slot 1 on (slot 0 belongs to the driver). ``parallel`` steps can be shared by workers, others run on one. With ``barrier`` the
    workers meet after the step; without it the next steps must touch nothing that this one writes.
    ``errors[code - 1]`` is the message for a code that the kernel returns, ``{value}`` in it the offending value.
    ``name`` lists the ONNX nodes, ``op`` says what is computed, ``layout`` in which layout; ``flops`` and ``bytes`` are per call.
    """

    kernel: str
    buffers: tuple[tuple[int, int], ...]
    extents: tuple[int, ...] = ()
    parallel: bool = False
    barrier: bool = True
    name: str = ""
    op: str = ""
    layout: str = ""
    flops: int = 0
    bytes: int = 0
    errors: tuple[str, ...] = ()


class Program(Frozen):
    """Everything to run but machine code and weights. ``constants`` are the sizes in bytes of the weight blobs.

    With several ``images``, inputs and outputs are so many parts, one behind the other; the steps compute one of them, with buffers in the
    first, and are walked once for each.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    buffers: tuple[BufferSpec, ...]
    steps: tuple[Step, ...]
    arena_nbytes: int = 0
    scratch_nbytes: int = 0
    constants: tuple[int, ...] = ()
    images: int = 1

    @property
    def kernels(self) -> tuple[str, ...]:
        """The distinct kernel keys, in order of first use."""
        return tuple(dict.fromkeys(step.kernel for step in self.steps))

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Program:
        """The program that ``to_dict`` described, after JSON or not; raises ``VerificationError`` on anything malformed."""
        try:
            program = Program(
                inputs=tuple(tensor_spec(item) for item in data["inputs"]),
                outputs=tuple(tensor_spec(item) for item in data["outputs"]),
                buffers=tuple(BufferSpec(**item) for item in data["buffers"]),
                steps=tuple(_step(item) for item in data["steps"]),
                arena_nbytes=data["arena_nbytes"],
                scratch_nbytes=data["scratch_nbytes"],
                constants=tuple(data["constants"]),
                images=data.get("images", 1),
            )
            verify(program)
        except (KeyError, TypeError, AttributeError) as error:
            raise VerificationError(f"not a program: {type(error).__name__}: {error}") from error
        return program

    def as_text(self) -> str:
        """The program as a listing: interface, memory, buffers, then one line per step."""
        memory = (
            f"arena {self.arena_nbytes:,} B, scratch {self.scratch_nbytes:,} B a worker, constants {sum(self.constants):,} B"
        )
        lines = [f"program ({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})", f"  {memory}"]
        lines += [f"  one of {self.images} images after the other"] if self.images > 1 else []
        lines += [f"  %{number} = {_buffer_text(buffer)}" for number, buffer in enumerate(self.buffers)]
        lines += [f"  {number:4}: {_step_text(step)}" for number, step in enumerate(self.steps)]
        return "\n".join(lines)

    def as_table(self) -> str:
        """The steps as a table for users: operation, kernel, layout, arithmetic, traffic, ONNX nodes."""
        header = ("step", "op", "kernel", "layout", "MFLOP", "MB", "nodes")
        steps = [step.replace(flops=self.images * step.flops, bytes=self.images * step.bytes) for step in self.steps]
        rows = [_table_row(str(number), step) for number, step in enumerate(steps)]
        flops, moved = sum(step.flops for step in steps), sum(step.bytes for step in steps)
        memory = f"arena {self.arena_nbytes / 1e6:.2f} MB, constants {sum(self.constants) / 1e6:.2f} MB"
        total = _table_row("", Step("", (), op="total", name=memory, flops=flops, bytes=moved))
        return format_table(header, [*rows, total], right=(0, 4, 5))


def verify(program: Program) -> None:
    """Checks that the program touches only memory that it declares; raises ``VerificationError`` with the first defect."""
    for problem in _problems(program):
        raise VerificationError(f"invalid program: {problem}")


def _problems(program: Program) -> Iterator[str]:
    for tensor in (*program.inputs, *program.outputs):
        if not tensor.name:
            yield "an input or output has no name"
        if not _naturals(tensor.extents):
            yield f"{tensor} has a negative extent"
    if not _naturals((program.arena_nbytes, program.scratch_nbytes, *program.constants)):
        yield "a size of memory is not a natural number"
    images = program.images
    if not _are((images,), int) or images < 1 or any(spec.nbytes % images for spec in (*program.inputs, *program.outputs)):
        yield f"its inputs and outputs are no {images} images"
        return
    sizes: dict[str, Sequence[int]] = {
        "arena": (program.arena_nbytes,),
        "scratch": (program.scratch_nbytes,),
        "constant": program.constants,
        "input": [spec.nbytes // images for spec in program.inputs],
        "output": [spec.nbytes // images for spec in program.outputs],
    }
    for number, buffer in enumerate(program.buffers):
        yield from (f"buffer %{number}: {problem}" for problem in _buffer_problems(buffer, sizes))
    for number, step in enumerate(program.steps):
        yield from (f"step {number} ({step.name or step.op}): {problem}" for problem in _step_problems(program, step))


def _buffer_problems(buffer: BufferSpec, sizes: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """``sizes``: of what a buffer of each kind can lie in, by index."""
    if buffer.kind not in sizes:
        yield f"unknown kind {buffer.kind!r}"
    elif not _naturals((buffer.index, buffer.offset, buffer.nbytes)):
        yield f"a field is not a natural number: {buffer}"
    elif buffer.index >= len(sizes[buffer.kind]):
        yield f"there is no {buffer.kind} {buffer.index}"
    elif buffer.offset + buffer.nbytes > sizes[buffer.kind][buffer.index]:
        yield f"bytes {buffer.offset}+{buffer.nbytes} lie outside {buffer.kind} {buffer.index} of {sizes[buffer.kind][buffer.index]} bytes"


def _step_problems(program: Program, step: Step) -> Iterator[str]:
    if not step.kernel:
        yield "names no kernel"
    if not _are((step.kernel, step.name, step.op, step.layout, *step.errors), str) or not _are(
        (step.parallel, step.barrier), bool
    ):
        yield "a field has the wrong type"
    if not _are((*step.extents, step.flops, step.bytes), int):
        yield "an extent or count is not an integer"
    for number, offset in step.buffers:
        if not _naturals((number, offset)) or number >= len(program.buffers):
            yield f"there is no buffer %{number}+{offset}"
        elif offset > program.buffers[number].nbytes:
            yield f"offset {offset} lies outside buffer %{number} of {program.buffers[number].nbytes} bytes"


def _are(values: Iterable[object], kind: type) -> bool:
    return not [value for value in values if not isinstance(value, kind)]


def _naturals(values: Iterable[object]) -> bool:
    return not [value for value in values if not isinstance(value, int) or value < 0]


def tensor_spec(data: Mapping[str, Any]) -> TensorSpec:
    """What ``to_dict`` made of a ``TensorSpec``, after JSON or not, of a numeric tensor."""
    shape = data["shape"]
    return TensorSpec(data["name"], dtypes.by_name(data["dtype"]).name, None if shape is None else tuple(shape))


def _step(data: Mapping[str, Any]) -> Step:
    buffers = tuple((number, offset) for number, offset in data["buffers"])
    fields: dict[str, Any] = {**data, "buffers": buffers, "extents": tuple(data["extents"]), "errors": tuple(data["errors"])}
    return Step(**fields)


def _table_row(number: str, step: Step) -> tuple[str, ...]:
    return (number, step.op, step.kernel[:12], step.layout, f"{step.flops / 1e6:.3f}", f"{step.bytes / 1e6:.3f}", step.name)


def _buffer_text(buffer: BufferSpec) -> str:
    index = "" if buffer.kind in ("arena", "scratch") else f" {buffer.index}"
    return f"{buffer.kind}{index} [{buffer.offset}, {buffer.offset + buffer.nbytes})"


def _step_text(step: Step) -> str:
    buffers = ", ".join(f"%{number}+{offset}" if offset else f"%{number}" for number, offset in step.buffers)
    extents = ", ".join(map(str, step.extents))
    flags = ("parallel" if step.parallel else "serial") + ("" if step.barrier else " no-barrier")
    return f"{step.op or '?'} {step.kernel[:12]}({buffers}; {extents}) {flags}  # {step.name}".rstrip(" #")
