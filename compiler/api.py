"""The public entry points: ``compile``, and the stages of a compilation as text."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..codegen.target import resolve
from ..ir.errors import InputError
from ..ir.graph import Dim, Graph, TensorType
from ..runtime.cache import open_cache
from ..runtime.cpus import available_cpus
from ..runtime.direct import Direct
from ..runtime.isa import Isa
from ..runtime.model import CompiledModel
from ..runtime.program import TensorSpec
from . import frontend, progress
from .config import Config, load_config
from .dump import Dump
from .engine import Engine
from .frontend.reading import Model, read_model
from .kernels import Kernels
from .ops.registry import all_ops, is_supported
from .staged import Stage, StagedGraph

Shapes = Mapping[str, Sequence[int]]


def compile(
    model: Model,
    target: str = "cpu",
    *,
    shapes: Shapes | None = None,
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> CompiledModel:
    """A callable that computes ``model`` (path, serialized bytes, or ``ModelProto``) on this machine's CPU.

    ``target`` names an instruction set ("cpu" is the best that this machine has). ``shapes`` fixes the dynamic dims of inputs. When no
    dim is left open, and no input's value decides shapes or control flow, the plan and its kernels are made now; otherwise at the first
    call for each set of input shapes (and such values). ``config`` is a ``Config``, a dict or the path of a TOML file. ``threads`` None
    means what the config says, else the CPUs that this process may use.

    Raises ``ModelError``, ``UnsupportedOperatorError``, ``ConfigError``, ``TargetError``, ``InputError`` (for ``shapes``).
    """
    return _compile(model, target, shapes or {}, load_config(config), threads, Dump())


def stages(
    model: Model,
    shapes: Shapes | None = None,
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    target: str = "cpu",
) -> dict[str, str]:
    """Every stage of a compilation as text, by name, in order. Stages after the passes need input shapes that are fixed.

    Raises what ``compile`` raises.
    """
    dump = Dump(kept={})
    _compile(model, target, shapes or {}, load_config(config), 1, dump)
    return dump.kept or {}


def _compile(model: Model, target: str, shapes: Shapes, config: Config, threads: int | None, dump: Dump) -> CompiledModel:
    engine = make_engine(target, config, threads, dump)
    with progress.measuring(engine.kernels.report):
        graph = load(model, config)
        fix_dims(graph, shapes)
        compiled = compile_graph(graph, engine)
    dump.text("report", compiled.compile_report.as_text())
    return compiled


def compile_graph(graph: Graph, engine: Engine) -> CompiledModel:
    """The callable of a graph; planned now when its inputs say all that a plan needs."""
    engine.dump.graph("graph", graph)
    staged = StagedGraph(engine.optimize(graph), engine)
    inputs = tuple(_spec(graph, name) for name in graph.inputs)
    outputs = tuple(_spec(graph, name) for name in graph.outputs)
    numbers = tuple(i for i, name in enumerate(graph.inputs) if name in staged.known)

    def planner(values: tuple[Any, ...]) -> Stage | Direct:
        return Stage.make(staged, values).runner

    target, report = engine.target, engine.kernels.report
    isa = Isa(target.isa, target.arch, target.requires)
    compiled = CompiledModel(inputs, outputs, planner, numbers, name=graph.name or "model", isa=isa, compile_report=report)
    examples = [_example(spec) for spec in inputs]
    if not numbers and all(example is not None for example in examples):
        compiled.prepare(*examples)
        compiled.seal()
    return compiled


def interface(model: Model) -> tuple[TensorSpec, ...]:
    """The inputs of ``model``, which is not compiled. Raises ``ModelError``."""
    graph, _ = frontend.import_model(model, supported=lambda domain, op: True)
    return tuple(_spec(graph, name) for name in graph.inputs)


def make_engine(target: str, config: Config, threads: int | None = None, dump: Dump | None = None) -> Engine:
    """What turns graphs into executables. Raises ``TargetError`` for a target that is not known or does not run here, ``ConfigError``
    for a number of threads that is none."""
    resolved = resolve(target)
    resolved.require_runnable()
    resolved = resolved.with_vector_bits(config.vector_bits)
    if threads is not None:
        config = dataclasses.replace(config, threads=threads)
    dump = dump or Dump()
    dump.directory = dump.directory or config.dump_directory
    cache = open_cache(config.cache_dir, config.cache_bytes) if config.cache else None
    return Engine(resolved, config, config.threads or available_cpus(), Kernels(cache, resolved), dump)


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
    return TensorSpec(name, "unknown" if kind is None else str(kind), None)


def _example(spec: TensorSpec) -> np.ndarray | None:
    """An array of the input's shape, which is enough to plan for it; None when the shape is not fixed. It has no memory of its own."""
    if spec.shape is None or not all(isinstance(dim, int) for dim in spec.shape):
        return None
    try:
        return np.broadcast_to(np.zeros((), spec.numpy), spec.extents)
    except (KeyError, ValueError):  # no tensor; or so large that it cannot be
        return None
