"""The public entry points: ``compile``, and the stages of a compilation as text. What it imports is light: onnx and the compiler come when
they are needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..runtime import later
from ..runtime.model import CompiledModel
from ..runtime.program import TensorSpec
from .config import Config, load_config
from .lazy import LazyPlanner, Shapes, callable_of
from .setup import Setup

if TYPE_CHECKING:
    from .frontend.reading import Model


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
    setup = Setup.of(target, load_config(config), threads)
    if setup.config.dump_directory is not None:
        from . import build
        from .dump import Dump

        return build.compile_dumping(model, setup, shapes or {}, Dump())
    planner = LazyPlanner(model, setup, shapes or {})
    later.wait()  # for what this process has made of the same model
    with later.held():
        return callable_of(planner.interface, planner, setup, planner.report)


def stages(
    model: Model,
    shapes: Shapes | None = None,
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    target: str = "cpu",
) -> dict[str, str]:
    """Every stage of a compilation as text, by name, in order. Stages after the passes need input shapes that are fixed.

    Raises what ``compile`` raises.
    """
    from . import build
    from .dump import Dump

    kept: dict[str, str] = {}
    build.compile_dumping(model, Setup.of(target, load_config(config), 1), shapes or {}, Dump(kept=kept))
    return kept


def interface(model: Model) -> tuple[TensorSpec, ...]:
    """The inputs of ``model``, which is not compiled. Raises ``ModelError``."""
    from . import build

    return build.inputs_of(model)
