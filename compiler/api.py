"""The public entry points: ``compile``, ``check`` and the stages of a compilation as text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from ..codegen.target import resolve
from ..ir.errors import InputError, TargetError
from ..ir.graph import Graph, TensorType
from ..runtime.cache import open_cache
from ..runtime.cpus import available_cpus
from ..runtime.model import CompiledModel
from ..runtime.program import TensorSpec
from . import frontend
from .config import Config, load_config
from .dump import Dump
from .engine import Engine
from .kernels import Kernels
from .ops.registry import is_supported
from .passes import PASSES, run_passes
from .staged import Stage, StagedGraph

Model = "str | os.PathLike[str] | bytes | onnx.ModelProto"


def compile(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    target: str = "cpu",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> CompiledModel:
    """A callable that computes ``model`` (path, serialized bytes, or ``ModelProto``) on this machine's CPU.

    ``target`` names an instruction set ("cpu" is the best that this machine has). ``shapes`` fixes dynamic input shapes now; otherwise a plan
    is made at the first call with each set of shapes. ``config`` is a ``Config``, a dict or the path of a TOML file. ``threads`` None means
    the CPUs that this process may use.

    Raises ``ModelError``, ``UnsupportedOperatorError``, ``ConfigError``, ``TargetError``, ``InputError`` (for ``shapes``).
    """
    return _compile(model, target, shapes, load_config(config), threads, Dump())[0]


def stages(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    target: str = "cpu",
) -> dict[str, str]:
    """Every stage of a compilation as text, by name, in order. Stages after the passes need static input shapes (or ``shapes``)."""
    dump = Dump(kept={})
    _compile(model, target, shapes, load_config(config), 1, dump)
    return dump.kept or {}


def _compile(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    target: str,
    shapes: Mapping[str, Sequence[int]] | None,
    config: Config,
    threads: int | None,
    dump: Dump,
) -> tuple[CompiledModel, StagedGraph]:
    resolved = resolve(target).with_vector_bits(config.vector_bits)
    if not resolved.runs_here:
        raise TargetError(f"target {target!r} needs {', '.join(resolved.missing)}, which this CPU does not have")
    dump.directory = dump.directory or config.dump_directory
    graph = frontend.load(model, supported=is_supported)
    config.check_names({node.op for node in graph.nodes}, {node.name for node in graph.nodes})
    dump.graph("graph", graph)
    graph = run_passes(graph, PASSES, dump=dump.graph)
    count = threads if threads is not None else config.threads or available_cpus()
    cache = open_cache(config.cache_dir) if config.cache else None
    engine = Engine(resolved, config, count, Kernels(cache), dump)
    staged = StagedGraph(graph, engine)
    inputs = tuple(_spec(graph, name) for name in graph.inputs)
    outputs = tuple(_spec(graph, name) for name in graph.outputs)
    numbers = tuple(i for i, name in enumerate(graph.inputs) if name in staged.known)

    def planner(values: tuple[Any, ...]) -> Stage:
        return Stage.make(staged, values)

    compiled = CompiledModel(inputs, outputs, planner, numbers, name=graph.name or "model")
    concrete = [_example(spec, shapes or {}) for spec in inputs]
    unknown = set(shapes or {}) - set(graph.inputs)
    if unknown:
        raise InputError(f"shapes names {', '.join(map(repr, sorted(unknown)))}; the inputs are {', '.join(map(str, inputs))}")
    if not numbers and all(array is not None for array in concrete):
        compiled.prepare(*concrete)
    return compiled, staged


def _spec(graph: Graph, name: str) -> TensorSpec:
    kind = graph.types.get(name)
    if isinstance(kind, TensorType):
        return TensorSpec(name, kind.dtype.name, kind.shape)
    return TensorSpec(name, "unknown" if kind is None else str(kind), None)


def _example(spec: TensorSpec, shapes: Mapping[str, Sequence[int]]) -> np.ndarray | None:
    """An array of the input's shape, fixed by the model or by ``shapes``; None when it is not fixed. Its pages are never touched."""
    shape = shapes.get(spec.name, spec.shape)
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    try:
        dtype = spec.numpy
    except KeyError:
        return None
    return np.empty(tuple(shape), dtype)  # type: ignore[arg-type]
