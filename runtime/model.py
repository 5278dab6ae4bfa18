"""The callable that a user gets: inputs checked, a plan for their shapes found or made, outputs returned."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ..ir import dtypes
from ..ir.errors import InputError
from .binding import Binding, Out, shared
from .compile_report import CompileReport
from .entry import Argument, decline
from .forks import Work, brief_lock
from .inputs import InputBinder, Value, by_name
from .isa import Isa
from .program import TensorSpec

if TYPE_CHECKING:
    from .artifact import Artifact
    from .profile import Profile


class Runner(Protocol):
    """What a planner makes for one set of input shapes: an ``Executable``, or several of them in a row."""

    def run(self, inputs: Sequence[Value], /) -> list[Value]:
        """Fresh outputs in graph order; called from many threads at once."""
        ...

    def entry(self, arguments: Sequence[Argument], /, *, bare: bool) -> Entry:
        """The fast way in for arrays as ``arguments`` say, which declines by returning None (see ``Executable.entry``)."""
        ...

    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """The shapes of the outputs, None where only the data decides."""
        ...

    def bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], /) -> Callable[[], None]:
        """What computes ``outputs`` from ``inputs`` in place, without allocation where it can."""
        ...

    def profile(self, inputs: Sequence[Value], repeat: int, /) -> Profile: ...

    def trim(self) -> int:
        """Drops the memory kept for calls to come; how many bytes that was."""
        ...

    def as_text(self) -> str: ...


Entry: TypeAlias = "Callable[..., Any]"
Planner: TypeAlias = "Callable[[tuple[Value, ...]], Runner]"
Key: TypeAlias = "tuple[tuple[int, ...] | bytes | type, ...]"
"""Which plan inputs need: for each its shape (its Python type when it is no array), then the bytes of those whose values decide."""


MAX_PLANS = 64
"""Plans that a model keeps, unless it is told otherwise."""


def key_of(arrays: Sequence[Value], value_inputs: Sequence[int]) -> Key:
    """Which plan checked inputs need."""
    key: Key = tuple([array.shape if type(array) is np.ndarray else type(array) for array in arrays])
    return key + tuple([arrays[index].tobytes() for index in value_inputs]) if value_inputs else key


class CompiledModel:
    """A compiled model: ``f(x)``, ``f(input=x)`` or ``f.run(["probs"], {"input": x})``. Safe to call from many threads.

    ``inputs`` and ``outputs`` are declared in graph order, with symbolic dims by name. ``planner`` makes the runner for a tuple of
    checked inputs; it is called once for each set of input shapes (of Python types, for sequences and optionals), and of bytes of the
    inputs whose numbers are in ``value_inputs`` (those whose values decide shapes or control flow). The ``max_plans`` runners used last
    are kept. ``isa`` is the instruction set that they are compiled for.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        planner: Planner,
        value_inputs: Sequence[int] = (),
        *,
        name: str = "model",
        max_plans: int = MAX_PLANS,
        isa: Isa | None = None,
        compile_report: CompileReport | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.name = name
        self.isa = isa
        self.compile_report = compile_report or CompileReport()
        """Where the time went that compiling took so far."""
        self.value_inputs = tuple(value_inputs)
        self.origin: Artifact | None = None
        """What it was loaded from."""
        self._binder = InputBinder(inputs)
        self._planner = planner
        self._max_plans = max_plans
        self._runners: OrderedDict[Key, tuple[Runner, Entry]] = OrderedDict()
        self._offers: dict[Key, Callable[[], Runner]] = {}
        self._latest: Runner | None = None
        self._enter: Entry = decline  # of the plan used last
        self._planning = Work()
        self._lock = brief_lock()  # of the order of use: no call waits for another one's plan

    def __call__(self, /, *args: object, **named: object) -> Value | tuple[Value, ...]:
        """The output, or a tuple of the outputs in graph order. Raises ``InputError`` for inputs that do not fit.

        ``out``: write into these arrays and return them, as in ``bind`` (unless an input is called so).
        """
        if named:
            if "out" in named and "out" not in self._binder.names:
                return self.bind(*args, **named).run()
            args = tuple(self._binder.ordered(args, named))
        results = self._enter(*args)
        return self._compute(args) if results is None else results

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, object]) -> list[Value]:
        """The outputs called ``names`` (all when None) for inputs by name, as in ONNX Runtime. Raises what a call raises."""
        results = self(*self._binder.ordered((), by_name(feeds)))
        results = [results] if len(self.outputs) == 1 else results
        return list(results) if names is None else [results[self._output_index(name)] for name in names]

    def bind(self, /, *args: object, out: Out = None, **named: object) -> Binding:
        """The model with its inputs and outputs bound to memory, for runs that allocate nothing.

        Inputs are given as in a call, and ``out`` the outputs: one array, a tuple or list in graph order, or a mapping by name (None,
        and what is missing: made here, once). Arrays, and what lends its memory through ``__dlpack__``, ``__array__`` or the buffer
        protocol; an input called ``out`` goes by position. Raises ``InputError`` for memory that does not fit: another dtype or shape,
        not contiguous, read-only outputs, outputs that share memory with an input or with each other.
        """
        given = self._binder.ordered(args, named)
        arrays = [shared(value, f"input {spec.name!r}") for value, spec in zip(given, self.inputs, strict=True)]
        return Binding(self, self._binder.bind(arrays, {}), out)

    def runner_of(self, arrays: Sequence[Value]) -> Runner:
        """The plan for checked inputs, made now if there is none."""
        return self._found(arrays)[0]

    def profile(self, /, *args: object, repeat: int = 20, **named: object) -> Profile:
        """Median times of ``repeat`` runs, step by step; inputs as in a call (one called ``repeat`` by position).

        Without inputs: the plan used last, on arrays of its shapes (floats in [0, 1), zeros of everything else). ``InputError`` when
        there is no plan yet, or it takes sequences, optionals or strings.
        """
        arrays = self._binder.bind(args, named) if args or named or not self.inputs else self._stand_ins()
        return self.runner_of(arrays).profile(arrays, repeat)

    def trim(self) -> int:
        """Gives back the memory kept for the next call (intermediate values, recycled outputs); how many bytes that was.

        Arrays that were returned stay as they are; the next call takes new memory.
        """
        return sum(runner.trim() for runner in self.plans)

    def prepare(self, /, *args: object, **named: object) -> Runner:
        """Makes the plan for inputs like these, and runs nothing."""
        return self.runner_of(self._binder.bind(args, named))

    def save(self, path: str | os.PathLike[str], *, model: Any = None, unpacked: bool = False) -> None:
        """Writes the model, with the plans that it has, as a file for ``loopnest.load``, or with ``unpacked`` as a folder.

        One that was loaded is saved with all that was in its artifact. ``model`` (path, bytes or ``ModelProto``) is put into it, so
        that whoever loads it can compile it for other shapes. Raises ``ArtifactError`` where the file cannot be written, there is no
        plan yet, or some part of the model is not native.
        """
        from .artifact import save

        save(self, path, source=model, unpacked=unpacked)

    def adopt(self, key: Key, runner: Runner) -> None:
        """Takes a plan that was made elsewhere."""
        arguments = self._arguments(key)
        enter = decline if arguments is None else runner.entry(arguments, bare=len(self.outputs) == 1)
        with self._lock:
            self._runners[key] = self._latest, self._enter = runner, enter

    def offer(self, key: Key, make: Callable[[], Runner]) -> None:
        """Tells of a plan that is made elsewhere when it is first needed."""
        self._offers[key] = make

    def prepare_all(self) -> None:
        """Makes all plans that were offered."""
        for key, make in self._offers.items():
            with self._planning:
                if key not in self._runners:
                    self.adopt(key, make())

    def plans_by_key(self) -> list[tuple[Key, Runner]]:
        """The plans, the one used least recently first."""
        with self._lock:
            return [(key, runner) for key, (runner, _) in self._runners.items()]

    def seal(self) -> None:
        """No other plan than those that there are: lets go of the planner, and of the weights as the model has them."""
        self._planner = _no_other

    @property
    def plans(self) -> tuple[Runner, ...]:
        """The runners kept, the one used least recently first."""
        with self._lock:
            return tuple(runner for runner, _ in self._runners.values())

    def as_text(self) -> str:
        """The interface, the table of the plan used last, and where the time of compiling went."""
        interface = f"{self.name}({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"
        latest = self._latest
        table = latest.as_text() if latest else "no plan yet: one is made at the first call"
        return "\n".join([interface, table, *([self.compile_report.as_text()] if self.compile_report.seconds else ())])

    def __str__(self) -> str:
        return self.as_text()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self.inputs)} inputs, {len(self.outputs)} outputs>"

    def _stand_ins(self) -> list[Value]:
        """Arrays like the inputs of the plan used last."""
        with self._lock:
            key = next((key for key, (runner, _) in self._runners.items() if runner is self._latest), None)
        if key is None:
            raise InputError("there is no plan yet to profile: call the model first, or give inputs")
        random = np.random.default_rng(0)
        arrays: list[Value] = []
        for spec, shape in zip(self.inputs, key, strict=False):
            if not isinstance(shape, tuple) or not dtypes.by_name(spec.dtype).is_numeric:
                raise InputError(f"profiling needs inputs: {spec} is no numeric tensor")
            floats = dtypes.by_name(spec.dtype).is_float
            arrays.append((random.random(shape, np.float32) if floats else np.zeros(shape)).astype(spec.numpy))
        for index, data in zip(self.value_inputs, key[len(self.inputs) :], strict=True):
            assert isinstance(data, bytes)
            arrays[index] = np.frombuffer(data, arrays[index].dtype).reshape(arrays[index].shape)
        return arrays

    def _compute(self, args: Sequence[object]) -> Value | tuple[Value, ...]:
        """A call the long way: inputs are checked and converted, and a plan made where there is none."""
        arrays = self._binder.bind(args, {})
        runner, enter = self._found(arrays)
        results = enter(*arrays)
        if results is not None:
            return results
        results = runner.run(arrays)
        return results[0] if len(self.outputs) == 1 else tuple(results)

    def _found(self, arrays: Sequence[Value]) -> tuple[Runner, Entry]:
        key = key_of(arrays, self.value_inputs)
        found = self._runners.get(key)
        if found is None:
            return self._plan(key, arrays)
        if found[0] is not self._latest:
            self._touch(key, found)
        return found

    def _plan(self, key: Key, arrays: Sequence[Value]) -> tuple[Runner, Entry]:
        with self._planning:
            found = self._runners.get(key)
            if found is None:
                make = self._offers.get(key)
                self.adopt(key, make() if make else self._planner(tuple(arrays)))
                found = self._runners[key]
            with self._lock:
                self._latest, self._enter = found
                while len(self._runners) > self._max_plans:
                    self._runners.popitem(last=False)
            return found

    def _touch(self, key: Key, found: tuple[Runner, Entry]) -> None:
        with self._lock:
            if key in self._runners:
                self._runners.move_to_end(key)
            self._latest, self._enter = found

    def _arguments(self, key: Key) -> list[Argument] | None:
        """What the arguments of a call are for a plan; None where an entry cannot tell."""
        values = dict(zip(self.value_inputs, key[len(self.inputs) :], strict=True))
        arguments: list[Argument] = []
        for index, (dtype, shape) in enumerate(zip(self._binder.dtypes, key, strict=False)):
            value = values.get(index)
            if dtype is None or dtype.kind == "O" or not isinstance(shape, tuple) or not isinstance(value, bytes | None):
                return None
            arguments.append(Argument(dtype, shape, index, value))
        return arguments

    def _output_index(self, name: str) -> int:
        for index, spec in enumerate(self.outputs):
            if spec.name == name:
                return index
        raise InputError(f"the model has no output {name!r}; its outputs are {', '.join(map(str, self.outputs))}")


def _no_other(inputs: tuple[Value, ...]) -> Runner:
    raise InputError(f"the model is compiled for other shapes than {[getattr(value, 'shape', value) for value in inputs]}")
