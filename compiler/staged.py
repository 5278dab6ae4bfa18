"""Running a graph in stages: what can be planned runs as one native program, then the host does what only it can, then the rest is planned.

A stage ends where the plan needs a value that only data gives: the count of NonZero, the condition of a Loop, a sequence of tensors. The
rest is a graph of its own, planned for the shapes and values that came out, and kept by them, so that the second call plans nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.errors import LoopnestError
from ..ir.graph import Graph, Node, TensorType, node_reads
from ..runtime.executor import Executable
from ..runtime.profile import Profile
from . import host
from .engine import Engine
from .plan import make_plan
from .specialize import Specialized, specialize, value_inputs

MAX_PLANS = 256


@dataclass
class StagedGraph:
    """A graph, and the runners made for it so far, by the shapes of its inputs and the values that planning needs."""

    graph: Graph
    engine: Engine
    known: frozenset[str] = frozenset()
    runners: dict[object, StagedRunner] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.known = value_inputs(self.graph)

    def run(self, inputs: Sequence[object]) -> list[object]:
        """The outputs for ``inputs`` in graph order: arrays, and host values (sequences, optionals)."""
        return self.runner(inputs).run_values(inputs)

    def runner(self, inputs: Sequence[object]) -> StagedRunner:
        key = tuple(
            (v.tobytes(), v.shape)
            if name in self.known and isinstance(v, np.ndarray)
            else (v.shape, v.dtype.str)
            if isinstance(v, np.ndarray)
            else type(v)
            for name, v in zip(self.graph.inputs, inputs, strict=True)
        )
        found = self.runners.get(key)
        if found is None:
            with self.lock:
                found = self.runners.get(key)
                if found is None:
                    if len(self.runners) >= MAX_PLANS:
                        self.runners.pop(next(iter(self.runners)))
                    found = self.runners[key] = StagedRunner.make(self, inputs)
        return found


@dataclass
class StagedRunner:
    """One native program, the host nodes that can run after it, and the graph that remains."""

    engine: Engine
    graph: Graph
    special: Specialized
    native: Executable | None
    host_nodes: tuple[Node, ...]
    rest: StagedGraph | None
    text: str

    @staticmethod
    def make(owner: StagedGraph, inputs: Sequence[object]) -> StagedRunner:
        graph, engine = owner.graph, owner.engine
        special = specialize(graph, dict(zip(graph.inputs, inputs, strict=True)), owner.known)
        planned = special.graph
        rest, host_nodes = None, ()
        if special.rest is not None:
            host_nodes, remaining = _ready(special, graph)
            if not host_nodes and not planned.nodes and not _new_values(graph, special):
                raise LoopnestError(f"{remaining[0]}: this operator cannot be planned, and does not run on the host")
            rest = _remaining(special, host_nodes, remaining, graph)
        native_outputs = tuple(n for n in planned.outputs if _is_native(n, planned))
        native, text = None, "nothing to compute"
        if native_outputs:
            part = Graph(planned.name, _tensor_inputs(planned), native_outputs, planned.nodes, planned.constants, planned.types)
            plan = make_plan(engine.optimize(part), engine.target, engine.config, engine.packs)
            native = engine.executable(plan)
            text = plan.program.as_table()
        return StagedRunner(engine, graph, special, native, tuple(host_nodes), StagedGraph(rest, engine) if rest else None, text)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.direct:
            assert self.native is not None
            return self.native.run(inputs)
        return [np.asarray(v) if isinstance(v, np.generic) else v for v in self.run_values(inputs)]  # type: ignore[misc]

    @property
    def direct(self) -> bool:
        """Whether the whole graph is one native program over exactly its inputs."""
        return (
            self.native is not None
            and self.rest is None
            and not self.host_nodes
            and len(self.native.program.inputs) == len(self.graph.inputs)
            and len(self.native.program.outputs) == len(self.graph.outputs)
        )

    def run_values(self, inputs: Sequence[object]) -> list[object]:
        values: dict[str, object] = dict(zip(self.graph.inputs, inputs, strict=True))
        planned = self.special.graph
        if self.native is not None:
            arrays = [values[spec.name] for spec in self.native.program.inputs]
            results = self.native.run(arrays)  # type: ignore[arg-type]
            names = [n for n in planned.outputs if _is_native(n, planned)]
            values.update(zip(names, results, strict=True))
        for name in planned.outputs:
            if name not in values or name in self.graph.inputs and name in self.graph.outputs:
                value = planned.constants.get(name, values.get(name))
                values[name] = value.copy() if isinstance(value, np.ndarray) else value
        for node in self.host_nodes:
            arguments = {n: values.get(n, planned.constants.get(n)) for n in node_reads(node)}
            values.update(host.run(node, arguments, self.engine))
        if self.rest is not None:
            results_ = self.rest.run([values[name] for name in self.rest.graph.inputs])
            values.update(zip(self.rest.graph.outputs, results_, strict=True))
        return [values[name] if name in values else planned.constants[name].copy() for name in self.graph.outputs]

    def profile(self, inputs: Sequence[np.ndarray], repeat: int) -> Profile:
        if self.native is None:
            return Profile((), 0.0)
        return self.native.profile([v for n, v in zip(self.graph.inputs, inputs, strict=True) if n in self._native_names()], repeat)

    def _native_names(self) -> set[str]:
        assert self.native is not None
        return {spec.name for spec in self.native.program.inputs}

    def as_text(self) -> str:
        lines = [self.text]
        if self.host_nodes:
            lines.append("then on the host: " + ", ".join(str(node) for node in self.host_nodes))
        if self.rest is not None and self.rest.graph.nodes:
            lines.append(f"then {len(self.rest.graph.nodes)} nodes, planned for the shapes that come out:")
            lines += [runner.as_text() for runner in self.rest.runners.values()]
        return "\n".join(lines)


def _is_native(name: str, planned: Graph) -> bool:
    """Outputs that a program computes: not constants, not inputs handed through."""
    return name not in planned.constants and name not in planned.inputs


def _tensor_inputs(planned: Graph) -> tuple[str, ...]:
    return tuple(n for n in planned.inputs if n not in planned.constants and isinstance(planned.types.get(n), TensorType)
                 and planned.types[n].dtype.is_numeric)  # type: ignore[union-attr]  # fmt: skip


def _ready(special: Specialized, graph: Graph) -> tuple[list[Node], list[Node]]:
    """The left-over nodes that the host can run now, one after the other, and those that must wait."""
    assert special.rest is not None
    available = {*special.rest.inputs, *special.rest.constants, *special.graph.constants, *graph.inputs}
    ready: list[Node] = []
    waiting: list[Node] = []
    for node in special.rest.nodes:
        if host.runs(node, special.graph.types) and all(name in available for name in node_reads(node)):
            ready.append(node)
            available.update(node.outputs)
        else:
            waiting.append(node)
    return ready, waiting


def _new_values(graph: Graph, special: Specialized) -> bool:
    return set(special.graph.constants) != set(graph.constants)


def _remaining(special: Specialized, host_nodes: Sequence[Node], waiting: Sequence[Node], graph: Graph) -> Graph | None:
    """What is left after the native part and the host nodes, as a graph over the values that it needs."""
    if not waiting:
        return None
    made = {o for node in waiting for o in node.outputs if o}
    reads = dict.fromkeys(n for node in waiting for n in node_reads(node) if n not in made)
    constants = {n: special.graph.constants[n] for n in reads if n in special.graph.constants}
    outputs = tuple(n for n in graph.outputs if n in made)
    inputs = tuple(n for n in reads if n not in constants)
    return Graph(f"{graph.name}, continued", inputs, outputs, list(waiting), constants, dict(special.graph.types))


def as_arrays(values: Mapping[str, object]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in values.items()}
