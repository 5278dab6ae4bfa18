"""From a model to what plans it: read, imported, its inputs given the shapes that the user fixes, optimized."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..codegen import collector
from ..ir.errors import InputError
from ..ir.graph import Dim, Graph, TensorType
from ..runtime.model import CompiledModel, Runner
from ..runtime.plan_data import Interface
from ..runtime.program import UNKNOWN, TensorSpec
from . import frontend, progress
from .config import Config
from .dump import Dump
from .engine import Engine, make_engine
from .frontend.reading import Model, read_model
from .lazy import Shapes, callable_of
from .ops.registry import all_ops, is_supported
from .overrides import no_effect
from .setup import Setup
from .staged import Stage, StagedGraph


def read(model: Model, engine: Engine, shapes: Shapes) -> tuple[Interface, StagedGraph]:
    """The interface of ``model``, and its graph, optimized. Raises what ``loopnest.compile`` raises."""
    with collector.paused(), progress.measuring(engine.kernels.report):
        return optimized(_imported(model, engine.config, shapes), engine)


def optimized(graph: Graph, engine: Engine) -> tuple[Interface, StagedGraph]:
    """The interface of a graph, and what plans it."""
    engine.dump.graph("graph", graph)
    for name in sorted(engine.config.node.keys() - engine.named(graph.nodes)):
        engine.notices.add(no_effect(name, "it stands in a function, or is an operator that is replaced by others"))
    staged = StagedGraph(engine.optimize(graph), engine)
    numbers = tuple(i for i, name in enumerate(graph.inputs) if name in staged.known)
    inputs, outputs = (tuple(_spec(graph, name) for name in names) for names in (graph.inputs, graph.outputs))
    return Interface(graph.name or "model", inputs, outputs, numbers), staged


def compile_graph(graph: Graph, engine: Engine) -> CompiledModel:
    """The callable of a graph; planned now when its inputs say all that a plan needs."""
    interface, staged = optimized(graph, engine)

    def planner(values: tuple[Any, ...]) -> Runner:
        return Stage.make(staged, values).runner

    return callable_of(interface, planner, engine.setup, engine.kernels.report)


def compile_dumping(model: Model, setup: Setup, shapes: Shapes, dump: Dump) -> CompiledModel:
    """The callable of ``model``, made from its source whatever the cache holds, so that ``dump`` sees every stage."""
    engine = make_engine(setup, dump)
    with progress.measuring(engine.kernels.report):
        compiled = compile_graph(_imported(model, setup.config, shapes), engine)
    dump.text("report", compiled.compile_report.as_text())
    return compiled


def inputs_of(model: Model) -> tuple[TensorSpec, ...]:
    """The inputs of ``model``, which is not compiled. Raises ``ModelError``."""
    graph, _ = frontend.import_model(model, supported=lambda domain, op: True)
    return tuple(_spec(graph, name) for name in graph.inputs)


def _imported(model: Model, config: Config, shapes: Shapes) -> Graph:
    graph = load(model, config)
    fix_dims(graph, shapes)
    return graph


def load(model: Model, config: Config) -> Graph:
    """The graph of ``model``, for which ``config`` names only operators and nodes that there are."""
    with progress.stage("import"):
        graph = frontend.load(model, supported=is_supported)
    nodes = [node for part in graph.walk() for node in part.nodes]
    names = {node.name for node in nodes}
    if not names.issuperset(config.node):  # the importer may have renamed or inlined some
        proto = read_model(model).proto
        names.update(node.name for part in (proto.graph, *proto.functions) for node in part.node)
    config.check_names({node.op for node in nodes} | {definition.op for definition in all_ops()}, names)
    return graph


def fix_dims(graph: Graph, shapes: Shapes) -> None:
    """Gives inputs the shapes that the user fixes; other inputs and outputs get the extents of dims of the same names."""
    extents: dict[str, int] = {}
    for name, shape in shapes.items():
        declared = _declared(graph, name)
        fixed = _fixed(name, shape, declared)
        for dim, extent in zip(declared.shape or (), fixed, strict=False):
            if isinstance(dim, str) and extents.setdefault(dim, extent) != extent:
                raise InputError(f"shapes gives dim {dim!r} two extents: {extents[dim]} and {extent} (input {name!r})")
        graph.types[name] = TensorType(declared.dtype, fixed)
    for name in (*graph.inputs, *graph.outputs) if extents else ():
        kind = graph.types.get(name)
        if isinstance(kind, TensorType) and kind.shape is not None:
            graph.types[name] = TensorType(kind.dtype, tuple(_extent(dim, extents) for dim in kind.shape))


def _declared(graph: Graph, name: str) -> TensorType:
    if name not in graph.inputs:
        near = difflib.get_close_matches(name, graph.inputs, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        listing = ", ".join(str(_spec(graph, known)) for known in graph.inputs) or "none"
        raise InputError(f"shapes names {name!r}{hint}; the inputs are {listing}")
    kind = graph.types.get(name)
    if not isinstance(kind, TensorType):
        raise InputError(f"shapes names {name!r}, which is no tensor ({_spec(graph, name)})")
    return kind


def _fixed(name: str, shape: Sequence[int], declared: TensorType) -> tuple[int, ...]:
    given: Any = shape
    if not all(isinstance(e, int | np.integer) and e >= 0 for e in given):
        raise InputError(f"shapes[{name!r}] = {shape!r}: expected extents, as in (1, 3, 224, 224)")
    fixed = tuple(map(int, shape))
    if declared.shape is None:
        return fixed
    fits = all(not isinstance(dim, int) or dim == extent for dim, extent in zip(declared.shape, fixed, strict=False))
    if len(fixed) != len(declared.shape) or not fits:
        raise InputError(f"shapes[{name!r}] = {fixed} does not fit input {name!r}, which is {declared}")
    return fixed


def _extent(dim: Dim, extents: Mapping[str, int]) -> Dim:
    return extents.get(dim, dim) if isinstance(dim, str) else dim


def _spec(graph: Graph, name: str) -> TensorSpec:
    kind = graph.types.get(name)
    if isinstance(kind, TensorType):
        return TensorSpec(name, kind.dtype.name, kind.shape)
    return TensorSpec(name, UNKNOWN if kind is None else str(kind), None)
