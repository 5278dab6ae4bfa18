"""Inputs and outputs bound once: runs that check, copy and allocate nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..ir import dtypes
from ..ir.errors import InputError
from .inputs import Value, as_array
from .program import UNKNOWN, TensorSpec

if TYPE_CHECKING:
    from .model import CompiledModel

Out = object
"""An array, a tuple or list in graph order, or a mapping by name; None and what is missing: arrays are made."""


class Binding:
    """A compiled model with the memory of its inputs and outputs: ``run()`` (or a call) reads the ones and writes the others.

    ``inputs`` and ``outputs`` are the arrays, views where other objects were given. What the inputs hold may change between runs, where
    they lie may not. Runs of one binding at the same time write the same outputs: use one binding for each thread.
    """

    def __init__(self, model: CompiledModel, inputs: Sequence[Value], out: Out) -> None:
        self._model = model
        self.inputs = tuple(inputs)
        for spec, array in zip(model.inputs, inputs, strict=True):
            if not isinstance(array, np.ndarray):
                raise InputError(f"input {spec.name!r} cannot be bound: {spec} is no tensor")
            _check_memory(array, f"input {spec.name!r}")
        runner = model.runner_of(inputs)
        self.outputs = _outputs(_typed(model.outputs, lambda: runner.run(inputs)), runner.shapes(), out)
        self._check_overlap()
        self._run: Callable[[], None] = runner.bind(self.inputs, self.outputs)
        self._decided = tuple(self.inputs[i] for i in model.value_inputs)
        self._values = self._bytes()
        self._results = self.outputs[0] if len(self.outputs) == 1 else self.outputs

    def run(self) -> np.ndarray | tuple[np.ndarray, ...]:
        """Computes the outputs and returns them: the one, or a tuple of them, always the same arrays.

        Raises ``KernelError`` when a kernel stops on bad data, ``InputError`` when outputs come out with another shape than bound (which
        can be only where data decides shapes).
        """
        if self._decided and self._bytes() != self._values:
            self._run = self._model.runner_of(self.inputs).bind(self.inputs, self.outputs)
            self._values = self._bytes()
        self._run()
        return self._results

    __call__ = run

    def _bytes(self) -> tuple[bytes, ...]:
        return tuple([array.tobytes() for array in self._decided])

    def _check_overlap(self) -> None:
        for at, (spec, array) in enumerate(zip(self._model.outputs, self.outputs, strict=True)):
            others = [
                *((f"input {s.name!r}", a) for s, a in zip(self._model.inputs, self.inputs, strict=True)),
                *((f"output {s.name!r}", a) for s, a in zip(self._model.outputs[:at], self.outputs, strict=False)),
            ]
            for name, other in others:
                if np.may_share_memory(array, other):
                    raise InputError(f"output array for {spec.name!r} shares memory with {name}")


def shared(value: object, what: str) -> np.ndarray:
    """``value`` as an array of the very same memory; ``InputError`` for what can only be copied, such as a list."""
    if isinstance(value, np.ndarray):
        return value
    first, second = as_array(value, what), as_array(value, what)
    if first.__array_interface__["data"] != second.__array_interface__["data"]:
        raise InputError(f"{what}: {type(value).__name__} has no memory that can be bound; give an array")
    return first


def _check_memory(array: np.ndarray, what: str) -> None:
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise InputError(f"{what} must be C-contiguous and aligned to be bound, got strides {array.strides} for {array.shape}")


def _typed(specs: Sequence[TensorSpec], run: Callable[[], Sequence[Value]]) -> Sequence[TensorSpec]:
    """``specs``, with the dtypes that a run shows where a model declares none."""
    if all(spec.dtype != UNKNOWN for spec in specs):
        return specs
    return [
        spec.replace(dtype=dtypes.from_numpy(value.dtype).name) if isinstance(value, np.ndarray) else spec
        for spec, value in zip(specs, run(), strict=True)
    ]


def _outputs(specs: Sequence[TensorSpec], shapes: Sequence[tuple[int, ...] | None], out: Out) -> tuple[np.ndarray, ...]:
    """The arrays to write: those of ``out``, checked, and fresh ones."""
    given = _by_number(specs, out)
    return tuple(
        _output(spec, shape, given.get(number)) for number, (spec, shape) in enumerate(zip(specs, shapes, strict=True))
    )


def _by_number(specs: Sequence[TensorSpec], out: Out) -> dict[int, object]:
    if out is None:
        return {}
    listing = ", ".join(map(str, specs))
    if isinstance(out, Mapping):
        numbers = {spec.name: number for number, spec in enumerate(specs)}
        unknown = [name for name in out if name not in numbers]
        if unknown:
            raise InputError(f"the model has no output {unknown[0]!r}; its outputs are {listing}")
        return {numbers[name]: value for name, value in out.items()}
    values = list(out) if isinstance(out, tuple | list) else [out]
    if len(values) != len(specs):
        raise InputError(f"{len(values)} output arrays given, expected {len(specs)}: {listing}")
    return dict(enumerate(values))


def _output(spec: TensorSpec, shape: tuple[int, ...] | None, value: object) -> np.ndarray:
    what = f"output array for {spec.name!r}"
    if value is None:
        if shape is None:
            raise InputError(f"{what} must be given: only the data decides its shape ({spec})")
        return np.empty(shape, spec.numpy)
    array = shared(value, what)
    if array.dtype != spec.numpy:
        raise InputError(f"{what} has dtype {array.dtype}, expected {spec.dtype}")
    if shape is not None and array.shape != shape:
        raise InputError(f"{what} has shape {array.shape}, expected {shape} for these inputs ({spec})")
    if not array.flags.writeable:
        raise InputError(f"{what} is read-only")
    _check_memory(array, what)
    return array
