"""Running a program: one native call per inference, whatever the number of steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from struct import Struct

import numpy as np

from ..ir.errors import InputError, KernelError
from .buffers import Outputs, Workspace, Workspaces, address_of, aligned, aligned_empty
from .driver import BARRIER, PARALLEL, driver
from .profile import Profile, StepTime
from .program import Program, Step, TensorSpec
from .team import Team, team_of

_CALL_FIELDS = 11
_FAILURE = Struct("qqq")  # step, code, value
_ARENA, _SCRATCH, _FIRST_CONSTANT = 0, 1, 2


class Executable:
    """A program bound to machine code and weights, ready to run from any number of threads at once.

    ``addresses`` maps kernel keys to machine code (keep the ``Linked`` alive: pass it as ``keep``), ``constants`` are the packed weights,
    one uint8 array (or memory map) per blob. ``workspaces`` may be shared by all programs of a model, so that plans for many shapes do
    not each hold an arena. With ``threads`` > 1, parallel steps are shared by that many workers unless the team is busy with another
    call. Raises ``KeyError`` for a kernel without an address, ``ValueError`` for constants of the wrong size.
    """

    def __init__(
        self,
        program: Program,
        addresses: Mapping[str, int],
        constants: Sequence[np.ndarray] = (),
        threads: int = 1,
        *,
        workspaces: Workspaces | None = None,
        keep: object = None,
    ) -> None:
        self.program = program
        self._keep = keep
        self._token = object()
        self._constants = [_blob(blob, nbytes) for blob, nbytes in zip(constants, program.constants, strict=True)]
        self._steps, self._arguments = _tables(program, addresses)
        parallel = threads > 1 and any(step.parallel for step in program.steps)
        self._workers = threads if parallel else 1
        self._team: Team | None = team_of(threads) if parallel else None
        self._dispatch = driver().dispatch
        self._inputs = [(spec.nbytes, spec.numpy.alignment) for spec in program.inputs]
        self._outputs = [(spec.extents, spec.numpy, spec.nbytes, Outputs.recycles(spec.nbytes)) for spec in program.outputs]
        self._recycled = sum(recycled for *_, recycled in self._outputs)
        self._workspaces = workspaces or Workspaces()
        self._lay_out(program)

    def _lay_out(self, program: Program) -> None:
        """Where things lie in a workspace: call record, bases, failures, arena, scratch."""
        fixed = _FIRST_CONSTANT + len(self._constants)
        tensors = len(program.inputs) + len(program.outputs)
        self._record = Struct(f"{_CALL_FIELDS + fixed}q")
        self._tensors = Struct(f"{tensors}q")
        self._tensors_at = self._record.size
        self._failures_at = self._tensors_at + self._tensors.size
        self._arena_at = aligned(self._failures_at + _FAILURE.size * self._workers)
        self._scratch_at = self._arena_at + aligned(program.arena_nbytes)
        self._scratch_stride = aligned(program.scratch_nbytes)
        self._nbytes = self._scratch_at + self._scratch_stride * self._workers

    def _write_record(self, workspace: Workspace, stamps: int) -> None:
        """All of the call record and the bases that is the same in each call with this workspace."""
        steps, start = self.program.steps, workspace.address
        self._record.pack_into(
            workspace.memory,
            0,
            address_of(self._steps),
            len(steps),
            address_of(self._arguments),
            start + 8 * _CALL_FIELDS,
            self._scratch_stride,
            max((len(step.buffers) for step in steps), default=0) or 1,
            max((len(step.extents) for step in steps), default=0) + 1,
            start + self._failures_at,
            stamps,
            time.CLOCK_MONOTONIC,
            -1,
            start + self._arena_at,
            start + self._scratch_at,
            *map(address_of, self._constants),
        )
        workspace.owner = None if stamps else self._token

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """Computes the outputs from ``inputs``, which have the program's dtypes and shapes; other strides are copied first.

        Outputs are arrays that nobody else holds, or ``outputs`` when given (C-contiguous, of the program's dtypes and shapes). Raises
        ``InputError``
        for arrays that do not fit, ``KernelError`` when a kernel stops on bad data.
        """
        return self._call(inputs, outputs, 0)

    def profile(self, inputs: Sequence[np.ndarray], repeat: int = 20) -> Profile:
        """Runs ``repeat`` times (after one more to warm up) and takes the median time of each step."""
        stamps = np.zeros((repeat + 1, len(self.program.steps) + 1), np.int64)
        for row in stamps:
            self._call(inputs, None, address_of(row))
        steps = self.program.steps
        each = np.median(np.diff(stamps[1:], axis=1), axis=0) / 1e6
        total = median(((stamps[1:, -1] - stamps[1:, 0]) / 1e6).tolist())
        return Profile(
            tuple(
                StepTime(step.name, step.op, step.kernel, float(ms), step.flops, step.bytes, step.layout)
                for step, ms in zip(steps, each, strict=True)
            ),
            total,
            self._workers,
        )

    def as_text(self) -> str:
        """A table of the fused groups: what each computes, its kernel, layout, arithmetic and traffic."""
        return self.program.as_table()

    def _call(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None, stamps: int) -> list[np.ndarray]:
        addresses: list[int] = []
        copies: list[np.ndarray] = []
        for value, (nbytes, alignment) in zip(inputs, self._inputs, strict=True):
            address = address_of(value)
            if value.nbytes != nbytes or address % alignment or not value.flags.c_contiguous:
                value, address = _fitting(value, self.program.inputs[len(addresses)])
                copies.append(value)
            addresses.append(address)
        if outputs is None:
            results: list[np.ndarray] = []
            for shape, dtype, nbytes, recycled in self._outputs:
                if recycled:
                    array, address = self._workspaces.outputs.take(shape, dtype, nbytes, self._recycled)
                else:
                    array, address = aligned_empty(shape, dtype, nbytes)
                results.append(array)
                addresses.append(address)
        else:
            results = list(outputs)
            addresses += [_output_address(array, spec) for array, spec in zip(results, self.program.outputs, strict=True)]

        workspace = self._workspaces.take(self._nbytes)
        if stamps or workspace.owner is not self._token:
            self._write_record(workspace, stamps)
        self._tensors.pack_into(workspace.memory, self._tensors_at, *addresses)
        team = self._team
        failed = self._dispatch(workspace.address, team.address if team else 0)
        error = self._error(failed, workspace.memory) if failed >= 0 else None
        self._workspaces.give(workspace)
        if error is not None:
            raise error
        return results

    def _error(self, failed: int, memory: memoryview) -> KernelError:
        records = (_FAILURE.unpack_from(memory, self._failures_at + _FAILURE.size * worker) for worker in range(self._workers))
        _, code, value = next(record for record in records if record[0] == failed)
        return KernelError(_message(self.program.steps[failed], code, value))


def _message(step: Step, code: int, value: int) -> str:
    text = step.errors[code - 1] if 0 < code <= len(step.errors) else f"kernel {step.kernel} stopped with code {code}"
    return f"{step.name or step.op}: {text.replace('{value}', str(value))}"


def _tables(program: Program, addresses: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The native tables: int64[n_steps, 5] of kernel, first argument, counts and flags; int64[...] of all arguments."""
    constants, inputs = len(program.constants), len(program.inputs)
    first = {
        "arena": _ARENA,
        "scratch": _SCRATCH,
        "constant": _FIRST_CONSTANT,
        "input": _FIRST_CONSTANT + constants,
        "output": _FIRST_CONSTANT + constants + inputs,
    }
    steps: list[tuple[int, ...]] = []
    arguments: list[int] = []
    for number, step in enumerate(program.steps):
        following = program.steps[number + 1] if number + 1 < len(program.steps) else None
        meet = following is None or (step.barrier and (step.parallel or following.parallel))
        flags = PARALLEL * step.parallel | BARRIER * meet
        steps.append((addresses[step.kernel], len(arguments), len(step.buffers), len(step.extents), flags))
        for buffer, offset in step.buffers:
            spec = program.buffers[buffer]
            arguments += [first[spec.kind] + spec.index, spec.offset + offset]
        arguments += step.extents
    return np.array(steps, np.int64).reshape(len(steps), 5), np.array(arguments, np.int64)


def _blob(blob: np.ndarray, nbytes: int) -> np.ndarray:
    if blob.nbytes != nbytes or not blob.flags.c_contiguous:
        raise ValueError(f"a constant blob has {blob.nbytes} bytes, the program expects {nbytes}")
    return blob


def _fitting(value: np.ndarray, spec: TensorSpec) -> tuple[np.ndarray, int]:
    """A copy of an input with other strides or alignment; ``InputError`` when it is not of the program's size at all."""
    if value.nbytes != spec.nbytes:
        raise InputError(f"input {spec.name!r} has {value.nbytes} bytes, expected {spec.nbytes} ({spec})")
    copy, address = aligned_empty(value.shape, value.dtype, value.nbytes)
    copy[...] = value
    return copy, address


def _output_address(array: np.ndarray, spec: TensorSpec) -> int:
    if array.dtype != spec.numpy or array.shape != spec.extents or not array.flags.carray:
        raise InputError(
            f"output array for {spec.name!r} must be a writable C-contiguous {spec}, got {array.dtype}{list(array.shape)}"
        )
    return address_of(array)
