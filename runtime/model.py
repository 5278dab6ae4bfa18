"""The callable that a user gets: inputs checked, a plan for their shapes found or made, outputs returned."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from ..ir import dtypes
from ..ir.errors import InputError
from .inputs import InputBinder, Value
from .profile import Profile
from .program import TensorSpec


class Runner(Protocol):
    """What a planner makes for one set of input shapes: an ``Executable``, or several of them in a row."""

    def run(self, inputs: Sequence[Value], /) -> list[Value]:
        """Fresh outputs in graph order; called from many threads at once."""
        ...

    def profile(self, inputs: Sequence[Value], repeat: int, /) -> Profile: ...

    def as_text(self) -> str: ...


Planner: TypeAlias = "Callable[[tuple[Value, ...]], Runner]"
_Key: TypeAlias = "tuple[tuple[int, ...] | bytes | type, ...]"


class CompiledModel:
    """A compiled model: ``f(x)``, ``f(input=x)`` or ``f.run(["probs"], {"input": x})``. Safe to call from many threads.

    ``inputs`` and ``outputs`` are declared in graph order, with symbolic dims by name. ``planner`` makes the runner for a tuple of
    checked inputs; it is called once for each set of input shapes (of Python types, for sequences and optionals), and of bytes of the
    inputs whose numbers are in ``value_inputs`` (those whose values decide shapes or control flow). The ``max_plans`` runners used last
    are kept.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        planner: Planner,
        value_inputs: Sequence[int] = (),
        *,
        name: str = "model",
        max_plans: int = 64,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.name = name
        self._bind = InputBinder(inputs).bind
        self._planner = planner
        self._value_inputs = tuple(value_inputs)
        self._max_plans = max_plans
        self._runners: OrderedDict[_Key, Runner] = OrderedDict()
        self._latest: Runner | None = None
        self._planning = threading.Lock()
        self._lock = (
            threading.Lock()
        )  # of the order of use; held for moments only, so that no call waits for another one's plan

    def __call__(self, /, *args: object, **named: object) -> Value | tuple[Value, ...]:
        """The output, or a tuple of the outputs in graph order. Raises ``InputError`` for inputs that do not fit."""
        arrays = self._bind(args, named)
        results = self._runner(arrays).run(arrays)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, object]) -> list[Value]:
        """The outputs called ``names`` (all when None) for inputs by name, as in ONNX Runtime."""
        indices = range(len(self.outputs)) if names is None else [self._output_index(name) for name in names]
        arrays = self._bind((), feeds)
        results = self._runner(arrays).run(arrays)
        return [results[index] for index in indices]

    def profile(self, /, *args: object, repeat: int = 20, **named: object) -> Profile:
        """Median times of ``repeat`` runs, step by step; inputs as in a call (one called ``repeat`` by position).

        Without inputs: the plan used last, on arrays of its shapes (floats in [0, 1), zeros of everything else). ``InputError`` when
        there is no plan yet, or it takes sequences, optionals or strings.
        """
        arrays = self._bind(args, named) if args or named or not self.inputs else self._stand_ins()
        return self._runner(arrays).profile(arrays, repeat)

    def prepare(self, /, *args: object, **named: object) -> Runner:
        """Makes the plan for inputs like these, and runs nothing."""
        return self._runner(self._bind(args, named))

    @property
    def plans(self) -> tuple[Runner, ...]:
        """The runners kept, the one used least recently first."""
        with self._lock:
            return tuple(self._runners.values())

    def as_text(self) -> str:
        """The interface, and the table of the plan used last."""
        interface = f"{self.name}({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"
        latest = self._latest
        return f"{interface}\n{latest.as_text() if latest else 'no plan yet: one is made at the first call'}"

    def __str__(self) -> str:
        return self.as_text()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self.inputs)} inputs, {len(self.outputs)} outputs>"

    def _stand_ins(self) -> list[Value]:
        """Arrays like the inputs of the plan used last."""
        with self._lock:
            key = next((key for key, runner in self._runners.items() if runner is self._latest), None)
        if key is None:
            raise InputError("there is no plan yet to profile: give inputs")
        random = np.random.default_rng(0)
        arrays: list[Value] = []
        for spec, shape in zip(self.inputs, key, strict=False):
            if not isinstance(shape, tuple) or not dtypes.by_name(spec.dtype).is_numeric:
                raise InputError(f"profiling needs inputs: {spec} is no numeric tensor")
            floats = dtypes.by_name(spec.dtype).is_float
            arrays.append((random.random(shape, np.float32) if floats else np.zeros(shape)).astype(spec.numpy))
        for index, data in zip(self._value_inputs, key[len(self.inputs) :], strict=True):
            assert isinstance(data, bytes)
            arrays[index] = np.frombuffer(data, arrays[index].dtype).reshape(arrays[index].shape)
        return arrays

    def _runner(self, arrays: list[Value]) -> Runner:
        key: _Key = tuple([array.shape if type(array) is np.ndarray else type(array) for array in arrays])
        if self._value_inputs:
            key += tuple(arrays[index].tobytes() for index in self._value_inputs)
        runner = self._runners.get(key)
        if runner is None:
            return self._plan(key, arrays)
        if runner is not self._latest:
            self._touch(key, runner)
        return runner

    def _plan(self, key: _Key, arrays: list[Value]) -> Runner:
        with self._planning:
            runner = self._runners.get(key)
            if runner is None:
                runner = self._planner(tuple(arrays))
            with self._lock:
                self._runners[key] = self._latest = runner
                while len(self._runners) > self._max_plans:
                    self._runners.popitem(last=False)
            return runner

    def _touch(self, key: _Key, runner: Runner) -> None:
        with self._lock:
            if key in self._runners:
                self._runners.move_to_end(key)
            self._latest = runner

    def _output_index(self, name: str) -> int:
        for index, spec in enumerate(self.outputs):
            if spec.name == name:
                return index
        raise InputError(f"the model has no output {name!r}; its outputs are {', '.join(map(str, self.outputs))}")
