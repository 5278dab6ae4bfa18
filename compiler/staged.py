"""Running a graph in stages: what can be planned runs as one native program, then the host does what only it can, then the rest is planned.

A stage ends where the plan needs a value that only data gives: the count of NonZero, the condition of a Loop, a sequence of tensors. The
rest is a graph of its own, planned for the shapes and values that came out, and kept by them, so that the second call plans nothing.

    NonZero -> Trim -> Gather     =>     native: NonZero(all), count     host: Trim     rest: Gather, planned for the true count
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import LoopnestError
from ..ir.graph import Graph, Node, TensorType, node_reads
from ..runtime.chained import copy_results
from ..runtime.direct import Direct
from ..runtime.entry import Argument, decline
from ..runtime.executor import Executable
from ..runtime.once import Once
from ..runtime.profile import Profile
from ..runtime.sequel import Sequel
from . import host, progress
from .engine import Engine
from .host import HostStep, Value
from .images import images_of
from .seeds import draw_seeds, with_seeds
from .sequels import sequel_of
from .specialize import specialize, value_inputs

MAX_STAGES = 256
"""Stages kept of one graph, for that many sets of input shapes and values."""


class StagedGraph:
    """A graph, and the stages made for it so far, by the shapes of its inputs and the values that planning needs. Thread-safe."""

    def __init__(self, graph: Graph, engine: Engine) -> None:
        self.graph = graph
        self.engine = engine
        self.known = value_inputs(graph)
        self._by_value = [name in self.known for name in graph.inputs]
        self._stages = Once[tuple[Stage, Callable[..., Any]]](MAX_STAGES)
        self._enter: Callable[..., Any] = decline  # of the stage used last

    def run(self, inputs: Sequence[Value]) -> list[Value]:
        """The outputs in graph order. They may share memory with ``inputs`` and with constants."""
        results = self._enter(*inputs)
        if results is not None:
            return list(results)
        stage = self.stage(inputs)
        return stage.run_native(inputs) if stage.direct else stage.run_values(inputs)[0]

    def stage(self, inputs: Sequence[Value]) -> Stage:
        """The first stage for inputs like these, made now if there is none yet."""
        key = tuple([_key(value, known) for value, known in zip(inputs, self._by_value, strict=True)])
        stage, self._enter = self._stages.get(key, lambda: self._made(inputs))
        return stage

    def _made(self, inputs: Sequence[Value]) -> tuple[Stage, Callable[..., Any]]:
        stage = Stage.make(self, inputs)
        return stage, self._entry(stage, inputs)

    def _entry(self, stage: Stage, inputs: Sequence[Value]) -> Callable[..., Any]:
        """The fast way in for inputs like these, where the stage is a native program."""
        runner = stage.runner
        if not isinstance(runner, Direct) or not all(
            isinstance(value, np.ndarray) and value.dtype.kind != "O" for value in inputs
        ):
            return decline
        known = [value.tobytes() if by_value else None for value, by_value in zip(inputs, self._by_value, strict=True)]
        arguments = [Argument(value.dtype, value.shape, at, known[at]) for at, value in enumerate(inputs)]
        return runner.entry(arguments, bare=False)

    def stages(self) -> tuple[Stage, ...]:
        return tuple(stage for stage, _ in self._stages.all)


@dataclass(frozen=True)
class Stage:
    """One native program, the host nodes that can run after it, and the graph that remains."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    """Values known before anything runs that host nodes read or that are outputs."""
    native: Executable | None
    native_outputs: tuple[str, ...]
    host_steps: tuple[HostStep, ...]
    rest: StagedGraph | None
    text: str
    picks: tuple[int, ...] = ()
    """The inputs of the graph that the native program takes."""
    direct: bool = False
    """Whether the native program makes exactly the outputs of the graph."""
    seeds: int = 0
    """How many seeds the native program takes after these."""
    sequel: Sequel | None = None
    """What follows the native program, where that is plain data."""

    @staticmethod
    def make(owner: StagedGraph, inputs: Sequence[Value]) -> Stage:
        with progress.measuring(owner.engine.kernels.report):
            return Stage._make(owner, inputs)

    @staticmethod
    def _make(owner: StagedGraph, inputs: Sequence[Value]) -> Stage:
        graph, engine = owner.graph, owner.engine
        with progress.stage("passes"):
            given = dict(zip(graph.inputs, inputs, strict=True))
            special = specialize(graph, given, owner.known)
        planned = special.graph
        engine.remaining(
            engine.named(graph.nodes), (*planned.nodes, *special.later), "nothing of it is left to compute for these inputs"
        )
        ready, waiting = _ready(special.later, planned)
        if waiting and set(map(id, graph.nodes)) <= set(map(id, waiting)):
            raise LoopnestError(f"{waiting[0]}: this operator can neither be planned nor run on the host")
        outputs = tuple(n for n in planned.outputs if not _is_known(planned, n))
        native, text, arguments, seeds = None, "nothing to compute", tuple[str, ...](), 0
        if outputs:
            arguments = tuple(n for n in planned.inputs if n not in planned.constants and _is_numeric(planned, n))
            part = Graph(planned.name, arguments, outputs, planned.nodes, planned.constants, planned.types)
            part, seeds = with_seeds(part)
            whole = not ready and not waiting and not seeds and outputs == graph.outputs
            images = images_of(graph, part, given, owner.known, engine.target, engine.setup.threads) if whole else None
            with engine.kernels.compiling():
                plan = engine.plan(part) if images is None else engine.plan(images.one).repeated(images.count)
                native = engine.executable(plan)
            text = plan.program.as_table()
        steps = tuple(_host_step(node, planned, engine) for node in ready)
        reads = {*graph.outputs, *(name for node in ready for name in node_reads(node))}
        rest = StagedGraph(_remaining(waiting, planned, graph), engine) if waiting else None
        given = list(zip(graph.inputs, inputs, strict=True))
        sequel = None if native is None or seeds else sequel_of(given, graph.outputs, native.program, steps, rest)
        return Stage(
            graph.inputs,
            graph.outputs,
            {name: planned.constants[name] for name in reads if name in planned.constants},
            native,
            outputs,
            steps,
            rest,
            text,
            tuple(graph.inputs.index(name) for name in arguments),
            not waiting and not ready and outputs == graph.outputs and native is not None,
            seeds,
            sequel,
        )

    @property
    def runner(self) -> Stage | Direct:
        """What runs it: the native program alone, where that is all there is."""
        return Direct(self.native, self.picks) if self.direct and self.native is not None and not self.seeds else self

    def run(self, inputs: Sequence[Value]) -> list[Value]:
        """The outputs in graph order, in memory that nothing else refers to."""
        if self.direct:
            return self.run_native(inputs)
        results, fresh = self.run_values(inputs)
        seen: set[str] = set()
        for i, name in enumerate(self.outputs):
            if name in seen or name not in fresh:
                results[i] = _copy(results[i])
            seen.add(name)
        return results

    def entry(self, arguments: Sequence[Argument], *, bare: bool) -> Callable[..., Any]:
        """There is no fast way in."""
        return decline

    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """The shapes of the outputs; None where data decides, or the host makes them."""
        native = self.native.program.outputs if self.native else ()
        known = {name: spec.extents for name, spec in zip(self.native_outputs, native, strict=False)}
        known.update((name, array.shape) for name, array in self.constants.items())
        return tuple(known.get(name) for name in self.outputs)

    def bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Callable[[], None]:
        """What computes ``outputs`` from ``inputs``, by copies of the results."""

        def run() -> None:
            copy_results(self.outputs, self.run(inputs), outputs)

        return run

    def run_native(self, inputs: Sequence[Value]) -> list[np.ndarray]:
        """What the native program makes."""
        assert self.native is not None
        return self.native.run(self.arguments(inputs))

    def arguments(self, inputs: Sequence[Value]) -> list[Value]:
        """What the native program takes."""
        picked = [inputs[i] for i in self.picks]
        return [*picked, *draw_seeds(self.seeds)] if self.seeds else picked

    def run_values(self, inputs: Sequence[Value]) -> tuple[list[Value], set[str]]:
        """The outputs in graph order, and the names of the values that native programs made."""
        outputs, fresh, stage = self.outputs, set[str](), self
        kept: dict[str, Value] = {}
        while True:
            values = stage.advance(inputs)
            fresh.update(stage.native_outputs)
            if stage is self:
                kept = values
            else:
                kept.update((name, values[name]) for name in outputs if name in values)
            if stage.rest is None:
                return [kept[name] for name in outputs], fresh
            inputs = [values[name] for name in stage.rest.graph.inputs]
            stage = stage.rest.stage(inputs)

    def advance(self, inputs: Sequence[Value]) -> dict[str, Value]:
        """Every value that there is after this stage: inputs, constants that somebody needs, what the program and the host nodes made."""
        values: dict[str, Value] = dict(zip(self.inputs, inputs, strict=True))
        values.update(self.constants)
        if self.native is not None:
            values.update(zip(self.native_outputs, self.run_native(inputs), strict=True))
        for step in self.host_steps:
            values.update(step.run(values))
        return values

    def profile(self, inputs: Sequence[Value], repeat: int) -> Profile:
        """The steps of all native programs, one after the other; host nodes are not timed."""
        parts: list[Profile] = []
        stage = self
        while True:
            if stage.native is not None:
                parts.append(stage.native.profile(stage.arguments(inputs), repeat))
            if stage.rest is None:
                return Profile.join(parts)
            values = stage.advance(inputs)
            inputs = [values[name] for name in stage.rest.graph.inputs]
            stage = stage.rest.stage(inputs)

    def trim(self) -> int:
        """Drops the memory kept for calls to come."""
        return self.native.trim() if self.native is not None else 0

    def as_text(self) -> str:
        lines = [self.text]
        for step in self.host_steps:
            lines.append(f"then on the host: {step.node}")
            for body, staged in step.bodies.items():
                for stage in staged.stages():
                    lines += [f"  {body.name}:", *(f"    {line}" for line in stage.as_text().splitlines())]
        if self.rest is not None:
            lines.append(f"then {len(self.rest.graph.nodes)} nodes, planned for the shapes that come out:")
            lines += [stage.as_text() for stage in self.rest.stages()]
        return "\n".join(lines)


def _key(value: Value, by_value: bool) -> object:
    """What a stage depends on of an input."""
    if not isinstance(value, np.ndarray):
        return type(value)
    return (value.shape, value.dtype, value.tobytes()) if by_value else (value.shape, value.dtype)


def _copy(value: Value) -> Value:
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return np.array(value, order="C") if isinstance(value, np.ndarray) else value


def _is_known(graph: Graph, name: str) -> bool:
    """Whether a value is there before anything runs; one without elements is none that a program would have to copy."""
    constant = graph.constants.get(name)
    return name in graph.inputs if constant is None else constant.size > 0 or constant.dtype.kind == "O"


def _is_numeric(graph: Graph, name: str) -> bool:
    kind = graph.types.get(name)
    return isinstance(kind, TensorType) and kind.dtype.is_numeric


def _ready(later: Iterable[Node], planned: Graph) -> tuple[list[Node], list[Node]]:
    """The nodes that the host can run after the planned part, one after the other, and those that must wait for the next stage."""
    available = {*planned.inputs, *planned.constants, *(o for node in planned.nodes for o in node.outputs)}
    ready: list[Node] = []
    waiting: list[Node] = []
    for node in later:
        if host.runs(node, planned.types) and all(name in available for name in node_reads(node)):
            ready.append(node)
            available.update(node.outputs)
        else:
            waiting.append(node)
    return ready, waiting


def _host_step(node: Node, planned: Graph, engine: Engine) -> HostStep:
    """A host node with its subgraphs as staged graphs: what they capture is a constant where it is known, an input elsewhere."""
    bodies: dict[Graph, StagedGraph] = {}
    for body in node.bodies:
        captured = body.captures()
        constants = {name: planned.constants[name] for name in captured if name in planned.constants}
        inputs = (*body.inputs, *(name for name in captured if name not in constants))
        types: dict[str, Any] = {**{name: planned.types[name] for name in captured if name in planned.types}, **body.types}
        graph = Graph(body.name, inputs, body.outputs, body.nodes, {**constants, **body.constants}, types)
        bodies[body] = StagedGraph(graph, engine)
    return HostStep(node, bodies)


def _remaining(waiting: list[Node], planned: Graph, graph: Graph) -> Graph:
    """What is left after the native part and the host nodes, as a graph over the values that it needs."""
    made = {o for node in waiting for o in node.outputs if o}
    reads = dict.fromkeys(name for node in waiting for name in node_reads(node) if name not in made)
    constants = {name: planned.constants[name] for name in reads if name in planned.constants}
    inputs = tuple(name for name in reads if name not in constants)
    outputs = tuple(dict.fromkeys(name for name in graph.outputs if name in made))
    return Graph(f"{graph.name}, continued", inputs, outputs, waiting, constants, planned.types)
