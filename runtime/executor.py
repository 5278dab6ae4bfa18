"""Running a program: one native call per inference, whatever the number of steps."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import InputError, KernelError
from .buffers import Outputs, Workspaces, address_of, aligned, aligned_empty
from .driver import AWAIT, MEET, WAKE, driver
from .entry import Argument, Maker, Runnable, decline, make_entry, make_rerun
from .program import BufferSpec, Program, Step, TensorSpec
from .shares import ImageShare, image_share, shares
from .team import Team, team_of

if TYPE_CHECKING:
    from .profile import Profile

PAGE = 4096
"""Bytes from which outputs start on a cache line. Smaller ones are what ``numpy.empty`` gives, in a third of the time."""

_ABSOLUTE, _ARENA, _SCRATCH, _FIRST_TENSOR = range(4)
"""Numbers of the bases that arguments of steps refer to, as in ``driver.ll``."""


_CREW = 5
"""The column of the table of steps that says how many workers may share a step."""


class Executable:
    """A program bound to machine code and weights, ready to run from any number of threads at once.

    ``addresses`` maps kernel keys to machine code, which ``keep`` keeps alive (a ``Linked``, or what has its ``objects``); ``constants``
    are the packed weights, one uint8 array (or memory map) per blob. ``workspaces`` may be shared by all programs of a model, so that
    plans for many shapes do not each hold an arena. With ``threads`` > 1, images are computed each by one worker, and parallel steps are
    shared by as many as they are worth (``shares``), unless the team is busy with another call. Raises ``KeyError`` for a kernel without
    an address, ``ValueError`` for constants of the wrong size.
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
        self._constants = [_blob(blob, nbytes) for blob, nbytes in zip(constants, program.constants, strict=True)]
        self._driver = driver()
        self._workspaces = workspaces or Workspaces()
        self._tables = _tables(program, addresses, [address_of(blob) for blob in self._constants], threads)
        images = image_share(program.steps, program.images, threads)
        self._workers = max(int(self._tables[0][:, _CREW].max(initial=1)), images.crew)
        self._team: Team | None = team_of(threads) if self._workers > 1 else None
        self._record, self._nbytes = _record(program, self._tables, self._workers, images)
        self._arguments = [Argument(spec.numpy, spec.extents, at) for at, spec in enumerate(program.inputs)]
        self._inputs = [(spec.nbytes, spec.numpy.alignment) for spec in program.inputs]
        self._outputs = _makers(program, self._workspaces.outputs)
        self._enter = self.entry(self._arguments, bare=False)

    @property
    def constants(self) -> tuple[np.ndarray, ...]:
        """The packed weights, in the order of ``Program.constants``."""
        return tuple(self._constants)

    def objects(self) -> dict[str, tuple[bytes, str]]:
        """The object code and symbol of each kernel of the program. ``KeyError`` when whoever keeps the code has it no more."""
        objects: Mapping[str, tuple[bytes, str]] = getattr(self._keep, "objects", {})
        return {key: objects[key] for key in self.program.kernels}

    def entry(self, arguments: Sequence[Argument], *, bare: bool) -> Callable[..., Any]:
        """A function of arrays as ``arguments`` say, by position, that returns a tuple of fresh outputs, or the only one (``bare``).

        It returns None, and does nothing, for anything that is not just so: ``run`` then says what is wrong, or copies. Raises
        ``KernelError`` when a kernel stops on bad data.
        """
        if not self._driver.enter:
            return decline
        return make_entry(self._driver.enter, self._runnable(), arguments, self._outputs, bare=bare)

    def bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Callable[[], None]:
        """A function that runs on these very arrays, which must fit without a copy (``InputError``), and allocates nothing.

        It raises ``KernelError`` as ``run`` does.
        """
        checked = [
            _bound_address(array, spec, at >= len(inputs))
            for at, (array, spec) in enumerate(
                zip((*inputs, *outputs), (*self.program.inputs, *self.program.outputs), strict=True)
            )
        ]
        arrays = (*inputs, *outputs)
        native = self._driver.rerun
        rerun = make_rerun(native, self._runnable(), checked, arrays) if native else partial(decline, *arrays)

        def run() -> None:
            if rerun() is None:
                self._run_addresses(checked, 0)

        return run

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """Computes the outputs from ``inputs``, which have the program's dtypes and shapes; other strides are copied first.

        Outputs are arrays that nobody else holds, or ``outputs`` when given (C-contiguous, of the program's dtypes and shapes). Raises
        ``InputError`` for arrays that do not fit, ``KernelError`` when a kernel stops on bad data.
        """
        if outputs is None:
            results = self._enter(*inputs)
            if results is not None:
                return list(results)
        return self._call(inputs, outputs, 0)

    def trim(self) -> int:
        """Drops the memory kept for calls to come, of all programs that share it; how many bytes that was."""
        return self._workspaces.trim()

    def profile(self, inputs: Sequence[np.ndarray], repeat: int = 20) -> Profile:
        """Runs ``repeat`` times (after one more to warm up) and takes the median time of each step; of several images, the time that this
        thread spent on it in all those that it computed or shared."""
        from .profile import Profile, StepTime

        clocks = np.zeros((repeat + 1, len(self.program.steps) + 1), np.int64)
        for row in clocks:
            self._call(inputs, None, address_of(row))
        steps = self.program.steps
        images = self.program.images
        times = clocks[1:, 1:] / 1e6
        each = np.median(times, axis=0)
        total = float(np.median(times.sum(axis=1)))
        return Profile(
            tuple(
                StepTime(step.name, step.op, step.kernel, float(ms), images * step.flops, images * step.bytes, step.layout)
                for step, ms in zip(steps, each, strict=True)
            ),
            total,
            self._workers,
        )

    def as_text(self) -> str:
        """A table of the fused groups: what each computes, its kernel, layout, arithmetic and traffic."""
        return self.program.as_table()

    def _call(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None, clock: int) -> list[np.ndarray]:
        """``run`` the long way: inputs that do not fit as they are get copied."""
        addresses: list[int] = []
        copies: list[np.ndarray] = []
        for value, (nbytes, alignment) in zip(inputs, self._inputs, strict=True):
            address = address_of(value)
            if value.nbytes != nbytes or address % alignment or not value.flags.c_contiguous:
                value, address = _fitting(value, self.program.inputs[len(addresses)])
                copies.append(value)
            addresses.append(address)
        if outputs is None:
            results = [make(*arguments) for make, arguments in self._outputs]
            addresses += map(address_of, results)
        else:
            results = list(outputs)
            addresses += [_bound_address(array, spec, True) for array, spec in zip(results, self.program.outputs, strict=True)]
        self._run_addresses(addresses, clock)
        return results

    def _run_addresses(self, addresses: Sequence[int], clock: int) -> None:
        tensors = (ctypes.c_int64 * len(addresses))(*addresses)
        failure = (ctypes.c_int64 * 3)()
        workspace = self._workspaces.take(self._nbytes)
        team = self._team.address if self._team else 0
        at = ctypes.addressof
        failed = self._driver.run(address_of(self._record), at(tensors), address_of(workspace), team, clock, at(failure))
        self._workspaces.give(workspace)
        if failed >= 0:
            _fail(self.program, *failure)

    def _runnable(self) -> Runnable:
        return Runnable(
            address_of(self._record),
            self._team.cell if self._team else 0,
            len(self.program.inputs),
            self._nbytes,
            self._workspaces,
            partial(_fail, self.program),
            (self._record, self._tables, self._constants, self._keep, self._team, self._driver),
        )


def _fail(program: Program, step: int, code: int, value: int) -> None:
    raise KernelError(_message(program.steps[step], code, value))


def _message(step: Step, code: int, value: int) -> str:
    text = step.errors[code - 1] if 0 < code <= len(step.errors) else f"kernel {step.kernel} stopped with code {code}"
    return f"{step.name or step.op}: {text.replace('{value}', str(value))}"


def _tables(
    program: Program, addresses: Mapping[str, int], blobs: Sequence[int], threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The native tables: int64[n_steps, 8], the fields of ``%Step`` in ``driver.ll``, int64[...] of all arguments, and the bytes of
    an image in each tensor."""
    steps: list[tuple[int, ...]] = []
    arguments: list[int] = []
    places = [_place(program, spec, blobs) for spec in program.buffers]
    for step, share in zip(program.steps, shares(program.steps, threads), strict=True):
        flags = MEET * share.meet | AWAIT * share.wait | WAKE * share.wake
        counts = len(arguments), len(step.buffers), len(step.extents)
        steps.append((addresses[step.kernel], *counts, flags, share.crew, share.end, share.pieces))
        for buffer, offset in step.buffers:
            base, start = places[buffer]
            arguments += [base, start + offset]
        arguments += step.extents
    strides = [spec.nbytes // program.images for spec in (*program.inputs, *program.outputs)]
    return np.array(steps, np.int64).reshape(len(steps), 8), np.array(arguments, np.int64), np.array(strides, np.int64)


def _makers(program: Program, recycled: Outputs) -> list[Maker]:
    """For each output a function and its arguments that make an array for it."""
    large = [Outputs.recycles(spec.nbytes) for spec in program.outputs]
    return [
        (recycled.take, (spec.extents, spec.numpy, spec.nbytes, sum(large)))
        if again
        else (np.empty if spec.nbytes < PAGE else _aligned_array, (spec.extents, spec.numpy))
        for spec, again in zip(program.outputs, large, strict=True)
    ]


def _aligned_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    return aligned_empty(shape, dtype, dtype.itemsize * prod(shape))[0]


def _place(program: Program, spec: BufferSpec, blobs: Sequence[int]) -> tuple[int, int]:
    """The base of a buffer and its offset from there."""
    match spec.kind:
        case "arena":
            return _ARENA, spec.offset
        case "scratch":
            return _SCRATCH, spec.offset
        case "constant":
            return _ABSOLUTE, blobs[spec.index] + spec.offset
        case "input":
            return _FIRST_TENSOR + spec.index, spec.offset
        case "output":
            return _FIRST_TENSOR + len(program.inputs) + spec.index, spec.offset


def _record(
    program: Program, tables: tuple[np.ndarray, np.ndarray, np.ndarray], workers: int, images: ImageShare
) -> tuple[np.ndarray, int]:
    """The native record of a program, and the bytes of a workspace: the arena, then the scratch of each worker; or, for each worker
    that computes whole images, an arena and its scratch."""
    scratch, stride = aligned(program.arena_nbytes), aligned(program.scratch_nbytes)
    record = (
        address_of(tables[0]),
        len(program.steps),
        address_of(tables[1]),
        max((len(step.buffers) for step in program.steps), default=0) or 1,
        max((len(step.extents) for step in program.steps), default=0) + 1,
        scratch,
        stride,
        len(program.inputs) + len(program.outputs),
        program.images,
        address_of(tables[2]),
        images.apart,
        images.crew,
        AWAIT * images.wait | WAKE * images.wake,
        scratch + stride,
    )
    return np.array(record, np.int64), scratch + stride * workers + scratch * (images.crew - 1)


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


def _bound_address(array: np.ndarray, spec: TensorSpec, written: bool) -> int:
    fits = array.dtype == spec.numpy and array.shape == spec.extents and array.flags.c_contiguous and array.flags.aligned
    if not fits or (written and not array.flags.writeable):
        kind, quality = ("output", "writable C-contiguous") if written else ("input", "C-contiguous")
        raise InputError(
            f"{kind} array for {spec.name!r} must be a {quality} {spec}, got {array.dtype}{list(array.shape)}"
            + ("" if array.flags.c_contiguous else " with other strides")
            + ("" if array.flags.writeable or not written else ", read-only")
        )
    return address_of(array)
