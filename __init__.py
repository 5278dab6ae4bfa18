"""loopnest: a JIT compiler from ONNX models to Numba-compiled CPU kernels.

>>> import loopnest
>>> f = loopnest.compile("model.onnx")
>>> y = f(x)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compiler import backend as backend
    from .compiler.api import compile as compile
    from .compiler.check import check as check
    from .compiler.config import Config as Config
    from .compiler.precompile import precompile as precompile
    from .compiler.tuning.search import tune as tune
    from .ir.errors import ArtifactError as ArtifactError
    from .ir.errors import ConfigError as ConfigError
    from .ir.errors import IncompatibleArtifactError as IncompatibleArtifactError
    from .ir.errors import InputError as InputError
    from .ir.errors import KernelError as KernelError
    from .ir.errors import LoopnestError as LoopnestError
    from .ir.errors import ModelError as ModelError
    from .ir.errors import TargetError as TargetError
    from .ir.errors import UnsupportedOperatorError as UnsupportedOperatorError
    from .runtime.artifact import load as load
    from .runtime.model import CompiledModel as CompiledModel

__version__ = "0.1.0"

_HOMES = {
    "compile": ".compiler.api",
    "check": ".compiler.check",
    "precompile": ".compiler.precompile",
    "load": ".runtime.artifact",
    "Config": ".compiler.config",
    "CompiledModel": ".runtime.model",
    "tune": ".compiler.tuning.search",
    "backend": ".compiler",
    **dict.fromkeys(
        (
            "LoopnestError",
            "ModelError",
            "UnsupportedOperatorError",
            "InputError",
            "ConfigError",
            "TargetError",
            "KernelError",
            "ArtifactError",
            "IncompatibleArtifactError",
        ),
        ".ir.errors",
    ),
}
__all__ = [
    "ArtifactError",
    "CompiledModel",
    "Config",
    "ConfigError",
    "IncompatibleArtifactError",
    "InputError",
    "KernelError",
    "LoopnestError",
    "ModelError",
    "TargetError",
    "UnsupportedOperatorError",
    "__version__",
    "backend",
    "check",
    "compile",
    "load",
    "precompile",
    "tune",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'loopnest' has no attribute {name!r}")
    if name == "backend":
        return import_module(".compiler.backend", __name__)
    return getattr(import_module(home, __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
