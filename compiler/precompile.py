"""Compiling ahead: a model for a list of shapes and instruction sets, as an artifact; and adding shapes to one.

Machine code for instruction sets that this machine lacks is made and stored, never linked or run; what is computed while compiling (folded
constants, packed weights) is NumPy's work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError

from ..codegen.target import ISAS, host_isa
from ..ir.errors import ArtifactError, InputError, ModelError
from ..runtime.artifact import Artifact
from ..runtime.contents import Contents, contents_of
from ..runtime.loaded import contents_of_artifact
from ..runtime.model import CompiledModel
from ..runtime.plan_data import Interface
from ..runtime.program import TensorSpec
from . import progress
from .config import Config, load_config
from .frontend.reading import Model
from .lazy import LazyPlanner, Shapes, unplanned
from .setup import Setup

Dims = Mapping[str, int | Iterable[int]]
ConfigLike = Config | Mapping[str, Any] | str | os.PathLike[str] | None


def precompile(
    model: Model,
    path: str | os.PathLike[str],
    *,
    shapes: Shapes | Sequence[Shapes] = (),
    dims: Dims | None = None,
    isa: str | Sequence[str] = (),
    inputs: Mapping[str, Any] | None = None,
    config: ConfigLike = None,
    with_model: bool = False,
    unpacked: bool = False,
) -> None:
    """Compiles ``model`` and writes an artifact, which ``loopnest.load`` runs without the compiler.

    ``shapes``: the shapes of inputs by name; a list of them makes a plan for each. ``dims``: extents of dims by name, as in
    ``{"batch": range(1, 33)}``, a plan for each combination. A dim that neither names is 1. ``inputs`` has the inputs whose values decide
    shapes or control flow. ``isa``: names of instruction sets (``avx512``, ``avx2``, ``sse2``, ``neon``), whether or not this machine has
    them; without, the best one that it has. ``with_model`` puts the model into the artifact, so that
    ``loopnest.load(..., allow_compile=True)`` can plan for other shapes. ``unpacked`` writes a folder.

    Raises ``ModelError``, ``UnsupportedOperatorError``, ``ConfigError``, ``TargetError``, ``InputError``, ``ArtifactError``.
    """
    names = [isa] if isinstance(isa, str) else list(isa)
    contents = _compiled(model, sorted_isas(names or [host_isa().name]), shapes, dims or {}, inputs or {}, config)
    if with_model:
        contents = contents.replace(model=serialized(model))
    contents.write(path, unpacked=unpacked)


def add_shapes(
    path: str | os.PathLike[str],
    *,
    shapes: Shapes | Sequence[Shapes] = (),
    dims: Dims | None = None,
    inputs: Mapping[str, Any] | None = None,
    model: Model | None = None,
    config: ConfigLike = None,
) -> None:
    """Adds plans to the artifact ``path``, for all of its instruction sets; arguments as in ``precompile``.

    ``model`` None means the one that is in the artifact. Raises what ``precompile`` raises.
    """
    artifact = Artifact.read(path)
    contents = contents_of_artifact(artifact)
    source = model if model is not None else artifact.model
    if source is None:
        raise ArtifactError(f"{artifact.what} has no model in it: say which one it is made from")
    names = [part.isa.name for part in contents.parts]
    more = _compiled(cast("Model", source), names, shapes, dims or {}, inputs or {}, config)
    contents.merged(more).write(path, unpacked=Path(path).is_dir())


def planner_for(model: Model, isa: str, config: ConfigLike, threads: int, interface: Interface) -> LazyPlanner:
    """What plans ``model`` for an artifact with ``interface``. ``ArtifactError`` when that is of another model."""
    planner = LazyPlanner(model, Setup.of(f"cpu-{isa}", load_config(config), threads))
    interface.joined(planner.interface)
    return planner


def sorted_isas(names: Iterable[str]) -> list[str]:
    """Names of instruction sets, also as names of targets (``cpu-avx2``), the best one first. Those that are not known come last."""
    order = {isa.name: rank for rank, isa in enumerate(ISAS)}
    plain = dict.fromkeys(name.strip().removeprefix("cpu-") for name in names)
    return sorted(plain, key=lambda name: order.get(name, len(order)))


def serialized(model: Model) -> bytes:
    """A model as one ONNX file, data that lie in other files included. Raises ``ModelError``, and ``ArtifactError`` over 2 GB."""
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model)
    try:
        proto = model if isinstance(model, onnx.ModelProto) else onnx.load(os.fspath(model))
        return proto.SerializeToString()
    except (OSError, DecodeError) as error:
        raise ModelError(f"cannot read the model {model!r}: {error}") from None
    except (ValueError, EncodeError):
        raise ArtifactError(
            "the model is larger than the 2 GB that one ONNX file can be: leave it beside the artifact"
        ) from None


def plan_shapes(inputs: Sequence[TensorSpec], shapes: Shapes, dims: Dims) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shapes of all inputs of each plan: ``shapes`` where it has them, with dims of the same names; each extent of ``dims``; else 1."""
    specs = {spec.name: spec for spec in inputs}
    for name in shapes:
        if name not in specs:
            raise InputError(f"the model has no input {name!r}; it has {', '.join(specs) or 'none'}")
    known = {dim for spec in inputs for dim in spec.shape or () if isinstance(dim, str)}
    for dim in dims:
        if dim not in known:
            raise InputError(f"no input has a dim {dim!r}; their dims are {', '.join(sorted(known)) or 'all fixed'}")
    bound = {dim: extent for name, shape in shapes.items() for dim, extent in zip(specs[name].shape or (), shape, strict=False)}
    for extents in product(*([extent] if isinstance(extent, int) else list(extent) for extent in dims.values())):
        chosen: dict[Any, int] = {**bound, **dict(zip(dims, extents, strict=True))}
        yield {
            name: tuple(shapes[name])
            if name in shapes
            else tuple(dim if isinstance(dim, int) else chosen.get(dim, 1) for dim in spec.shape or ())
            for name, spec in specs.items()
        }


def _compiled(
    model: Model,
    isas: Iterable[str],
    shapes: Shapes | Sequence[Shapes],
    dims: Dims,
    values: Mapping[str, Any],
    config: ConfigLike,
) -> Contents:
    """The plans for all shapes and instruction sets."""
    listed = [shapes] if isinstance(shapes, Mapping) else list(shapes) or [{}]
    made: list[Contents] = []
    for name in isas:
        planner = LazyPlanner(model, Setup.of(f"cpu-{name}", load_config(config), foreign=True))
        compiled = unplanned(planner.interface, planner, planner.setup, planner.report, max_plans=sys.maxsize)
        wanted = {tuple(chosen.items()) for chosen in _wanted(compiled, listed, dims)}
        for done, chosen in enumerate(sorted(wanted)):
            progress.report(f"plans for {name}", done, len(wanted))
            compiled.prepare(**_examples(compiled, dict(chosen), values))
        made.append(contents_of(compiled))
    whole = made[0]
    for contents in made[1:]:
        whole = whole.merged(contents)
    return whole


def _wanted(compiled: CompiledModel, listed: Sequence[Shapes], dims: Dims) -> Iterator[dict[str, tuple[int, ...]]]:
    for shapes in listed:
        yield from plan_shapes(compiled.inputs, shapes, dims)


def _examples(
    compiled: CompiledModel, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Arrays of these shapes, without memory of their own; of inputs whose values decide, those in ``values``."""
    examples: dict[str, np.ndarray] = {}
    for index, spec in enumerate(compiled.inputs):
        if spec.name in values:
            examples[spec.name] = np.asarray(values[spec.name]).astype(spec.numpy)
        elif index in compiled.value_inputs:
            raise InputError(
                f"the value of input {spec} decides shapes or control flow: give it, as in inputs={{{spec.name!r}: ...}}"
            )
        else:
            examples[spec.name] = np.broadcast_to(np.zeros((), spec.numpy), shapes[spec.name])
    return examples
