"""Models exported by PyTorch with random weights: built on first use, then kept in the user's cache folder.

    from benchmarks import exports
    model = exports.path("resnet50")        # needs the extra `torch` only if it is not there yet

`python -m benchmarks.exports` builds all of them and prints where they are; `benchmarks/models` defines them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from filelock import FileLock

from benchmarks import models
from benchmarks.models import NAMES

if TYPE_CHECKING:
    from benchmarks.models.common import Recipe

OPSET = 20
SEED = 20


def path(name: str) -> Path:
    """The exported model of that name (see NAMES), exported now if its definition has not yet been.

    Raises `KeyError` for a name that is none, and what PyTorch raises.
    """
    file = _file(name)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f"{name}.lock")):
            if not file.exists():
                _export(name, file)
                for old in file.parent.glob(f"{name}-*.onnx"):
                    if old != file:
                        old.unlink()
    return file


def unavailable(name: str) -> str | None:
    """Why `path(name)` cannot give the model: None if it can."""
    if _file(name).exists():
        return None
    missing = [package for package in models.requirements(name) if importlib.util.find_spec(package) is None]
    return f"not exported yet and not installed: {', '.join(missing)} (extra `torch`)" if missing else None


def _file(name: str) -> Path:
    """Where the export is kept: its name holds a hash of the files that define it."""
    folder = Path(models.__file__).parent
    sources = (folder / f"{models.file_of(name)}.py", folder / "common.py", Path(__file__))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("loopnest")) / "models" / f"{name}-{digest}.onnx"


def _recipe(name: str) -> Recipe:
    import torch

    torch.manual_seed(SEED)
    return getattr(importlib.import_module(f"benchmarks.models.{models.file_of(name)}"), name)()


def _export(name: str, file: Path) -> None:
    import onnx
    import torch

    recipe = _recipe(name)
    partial = file.with_name(f"{file.stem}.{os.getpid()}.partial")
    dims: dict[str, Any] = {}
    shapes = tuple(
        {axis: dims.setdefault(dim, torch.export.Dim(dim)) for axis, dim in recipe.dynamic.get(name, {}).items()}
        for name in recipe.inputs
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            recipe.module.eval(),
            tuple(recipe.inputs.values()),
            str(partial),
            input_names=list(recipe.inputs),
            output_names=list(recipe.outputs),
            dynamic_shapes=shapes if dims else None,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if recipe.finish:
        model = onnx.load(partial)
        recipe.finish(model)
        onnx.save(model, partial)
    partial.replace(file)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES:
        print(f"{wanted:20} {path(wanted)}", flush=True)
