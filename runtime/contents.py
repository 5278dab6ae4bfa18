"""What an artifact holds, in memory: collected from compiled models, put together, and written as a ``container``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir.errors import ArtifactError
from ..ir.frozen import Frozen
from . import driver
from .buffers import aligned
from .checksums import xxh64
from .container_writing import Bytes, write
from .direct import Direct
from .isa import Isa
from .model import CompiledModel, Key
from .plan_data import Interface, PlanData

READER = "0.1.0"
"""The first version of loopnest that reads the format."""


class StoredPlan(Frozen):
    """A plan and its packed weights, in the order of ``Program.constants``."""

    data: PlanData
    constants: tuple[np.ndarray, ...]


class Part(Frozen):
    """What there is for one instruction set; ``objects`` are object code and symbol of each kernel by key."""

    isa: Isa
    plans: Mapping[Key, StoredPlan]
    objects: Mapping[str, tuple[bytes, str]]

    def merged(self, other: Part) -> Part:
        """Both; a plan that both have is that of ``other``."""
        isa = self.isa.replace(features=tuple(sorted({*self.isa.features, *other.isa.features})))
        return Part(isa, {**self.plans, **other.plans}, {**self.objects, **other.objects})


class Contents(Frozen):
    """``parts``: the best instruction set first. ``model``: the ONNX file, for shapes to come; None without."""

    interface: Interface
    parts: tuple[Part, ...]
    model: Bytes | None = None

    def merged(self, other: Contents) -> Contents:
        """Both. ``ArtifactError`` where they are of models with other inputs or outputs."""
        interface = self.interface.joined(other.interface)
        parts = {part.isa.name: part for part in self.parts}
        for part in other.parts:
            parts[part.isa.name] = parts[part.isa.name].merged(part) if part.isa.name in parts else part
        return Contents(interface, tuple(parts.values()), other.model or self.model)

    def write(self, path: str | os.PathLike[str], *, unpacked: bool = False) -> None:
        """As a file, or ``unpacked`` as a folder. Raises ``ArtifactError``."""
        from .. import __version__

        weights = _Weights()
        sections: dict[str, Sequence[Bytes]] = {}
        isas = [_part_entry(part, weights, sections) for part in self.parts]
        sections["weights"] = weights.parts
        if self.model is not None:
            sections["model.onnx"] = [self.model]
        manifest = {"loopnest": __version__, "needs": READER, **self.interface.to_dict(), "isas": isas, "blobs": weights.places}
        write(path, manifest, sections, unpacked=unpacked, pieced=("weights",))


def contents_of(model: CompiledModel) -> Contents:
    """The plans that ``model`` has. Raises ``ArtifactError`` where there is none yet, or some part of the model is not native."""
    plans = model.plans_by_key()
    if not plans and model.origin is None:
        raise ArtifactError(
            "the model has no plan yet: call it, or prepare(), for each set of shapes that it shall be saved with"
        )
    if model.isa is None:
        raise ArtifactError("the model does not say which instruction set it is compiled for")
    for spec in (*model.inputs, *model.outputs):
        if not any(dtype.name == spec.dtype and dtype.is_numeric for dtype in dtypes.ALL):
            raise ArtifactError(f"a model with {spec} cannot be saved: only numeric tensors go in and out of an artifact")
    stored: dict[Key, StoredPlan] = {}
    objects: dict[str, tuple[bytes, str]] = {}
    for key, runner in plans:
        if not isinstance(runner, Direct):
            raise ArtifactError(
                "this model cannot be saved: parts of it run in Python, or are planned when data is there (see its plan: print(f))"
            )
        objects.update(runner.native.objects())
        stored[key] = StoredPlan(PlanData(key, runner.picks, runner.native.program), runner.native.constants)
    interface = Interface(model.name, model.inputs, model.outputs, model.value_inputs)
    return Contents(interface, (Part(model.isa, stored, objects),))


def _part_entry(part: Part, weights: _Weights, sections: dict[str, Sequence[Bytes]]) -> dict[str, Any]:
    """What the manifest says of a part, whose sections and weights are added."""
    code, texts = _Joined(), _Joined()
    kernels = {key: {"symbol": symbol, **code.add(data)} for key, (data, symbol) in part.objects.items()}
    plans: list[dict[str, Any]] = []
    for plan in part.plans.values():
        entry = plan.data.to_dict()
        program = json.dumps(entry["program"], separators=(",", ":")).encode() + b"\n"
        constants = [weights.add(blob) for blob in plan.constants]
        plans.append({**entry, "constants": constants, "program": texts.add(program)})
    native = part.isa.is_host_architecture()
    entry = {"driver": _driver_entry(code)} if native else {}
    names = {"code": f"code-{part.isa.name}", "programs": f"programs-{part.isa.name}"}
    sections |= {names["code"]: code.parts, names["programs"]: texts.parts}
    return {**part.isa.to_dict(), **names, "kernels": kernels, "plans": plans, **entry}


def _driver_entry(code: _Joined) -> dict[str, Any]:
    key, data = driver.object_code()
    return {"key": key, **code.add(data)}


class _Joined:
    """Pieces of bytes, one after the other."""

    def __init__(self) -> None:
        self.parts: list[Bytes] = []
        self._end = 0

    def add(self, data: Bytes) -> dict[str, int]:
        """Where it is."""
        place = {"offset": self._end, "nbytes": len(data)}
        self.parts.append(data)
        self._end += len(data)
        return place


class _Weights:
    """The weights of all plans for all instruction sets, each once, on cache lines."""

    def __init__(self) -> None:
        self.parts: list[Bytes] = []
        self.places: list[dict[str, Any]] = []
        self._known: dict[tuple[int, str], int] = {}
        self._end = 0

    def add(self, blob: np.ndarray) -> int:
        """The number of a blob."""
        data = blob.reshape(-1).view(np.uint8).data
        identity = blob.nbytes, hashlib.sha256(data).hexdigest()
        if identity not in self._known:
            start = aligned(self._end)
            self.parts += [bytes(start - self._end), data]
            self._known[identity] = len(self.places)
            self.places.append({"offset": start, "nbytes": blob.nbytes, "sha256": identity[1], "xxh64": xxh64(data)})
            self._end = start + blob.nbytes
        return self._known[identity]
