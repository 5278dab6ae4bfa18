"""Artifacts: a compiled model as one file, which another process runs without Numba, onnx or the compiler.

    header    magic, format number, SHA-256 and size of the manifest
    manifest  JSON: interface, instruction set, kernels, plans (``Program.to_dict``), places and SHA-256 of the two sections
    code      object files, as LLVM wrote them
    weights   packed, each on a cache line, the section on a page, so that processes share the pages that they map

What is read is checked before it is used: the manifest and the code always, before the code is linked; the weights unless the caller
says otherwise. See ``docs/artifact.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from ..ir import dtypes
from ..ir.errors import ArtifactError, IncompatibleArtifactError, InputError, VerificationError
from .buffers import Workspaces, address_of, aligned
from .cpus import available_cpus
from .direct import Direct
from .isa import Isa
from .linker import LinkError, link
from .model import CompiledModel, Key
from .plan_data import MALFORMED, PlanData, plan_key
from .program import TensorSpec, tensor_spec

FORMAT = 1
"""Of the files that are written; files of formats up to this one are read."""

_MAGIC = b"LOOPNEST MDL"
_HEADER = Struct("<12sI32sQ")  # magic, format, SHA-256 of the manifest, its bytes
_PAGE = 4096


def save(model: CompiledModel, path: str | os.PathLike[str]) -> None:
    """Writes ``model`` with the plans that it has: ``CompiledModel.save``."""
    manifest, code, weights = _collect(model)
    text = json.dumps(manifest, separators=(",", ":")).encode()
    header = _HEADER.pack(_MAGIC, FORMAT, hashlib.sha256(text).digest(), len(text))
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(header + text)
            for section in (code, weights):
                file.write(bytes(-file.tell() % _PAGE))
                for part in section:
                    file.write(part)
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ArtifactError(f"cannot write the artifact {str(target)!r}: {error.strerror or error}") from None


def load(path: str | os.PathLike[str], *, threads: int | None = None, verify: bool = True) -> CompiledModel:
    """The callable that was saved in the file ``path``, for the shapes that were planned for then.

    ``threads`` None means the CPUs that this process may use. ``verify=False`` leaves out the check of the weights, which reads all of
    them; that of the manifest and the machine code is always made. An artifact is a program: load only what you would run. Raises
    ``ArtifactError`` for a file that is missing, damaged or of a newer format, ``IncompatibleArtifactError`` naming the features that
    this machine lacks.
    """
    artifact = Artifact.read(path)
    lacking = artifact.isa.missing()
    if lacking:
        raise IncompatibleArtifactError(
            f"{artifact.what} is compiled for {artifact.isa.name}, and this machine lacks {', '.join(lacking)}; "
            f'compile it with target="cpu-generic", or for an instruction set that all machines have'
        )
    if verify:
        artifact.verify_weights()
    return artifact.model(threads or available_cpus())


@dataclass(frozen=True)
class Artifact:
    """A file that was read, its manifest and code checked. ``data`` is mapped; kernels are not linked yet."""

    what: str
    data: mmap.mmap
    manifest: Mapping[str, Any]
    code: bytes
    weights_at: int

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Artifact:
        """Raises ``ArtifactError``."""
        what = f"the artifact {str(Path(path))!r}"
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ArtifactError(f"cannot read {what}: {error.strerror or error}") from None
        except ValueError:
            raise ArtifactError(f"{what} is empty") from None
        manifest, end = _manifest(what, data)
        try:
            section = manifest["code"]
            start = end + -end % _PAGE
            code = data[start : start + section["nbytes"]]
            weights_at = start + section["nbytes"]
            weights_at += -weights_at % _PAGE
            short = len(data) < weights_at + manifest["weights"]["nbytes"]
            sound = hashlib.sha256(code).hexdigest() == section["sha256"] and "sha256" in manifest["weights"]
        except MALFORMED as error:
            raise _malformed(what, error) from None
        if short:
            raise ArtifactError(f"{what} is truncated: {len(data)} bytes")
        if not sound:
            raise ArtifactError(f"{what} is damaged: its code does not match its checksum")
        return Artifact(what, data, manifest, code, weights_at)

    @property
    def isa(self) -> Isa:
        """What a machine needs to run it."""
        try:
            fields = self.manifest["isa"]
            return Isa(str(fields["name"]), str(fields["arch"]), tuple(map(str, fields["features"])))
        except MALFORMED as error:
            raise _malformed(self.what, error) from None

    def verify_weights(self) -> None:
        """Raises ``ArtifactError`` unless the weights are those that were saved."""
        section = self.manifest["weights"]
        view = memoryview(self.data)[self.weights_at : self.weights_at + section["nbytes"]]
        if hashlib.sha256(view).hexdigest() != section["sha256"]:
            raise ArtifactError(f"{self.what} is damaged: its weights do not match their checksum")

    def model(self, threads: int) -> CompiledModel:
        """The callable, its kernels linked."""
        manifest = self.manifest
        try:
            inputs, outputs = ([tensor_spec(item) for item in manifest[side]] for side in ("inputs", "outputs"))
            values = tuple(manifest["value_inputs"])
            linked = link({key: self._object(item) for key, item in manifest["kernels"].items()})
            keys = [plan_key(plan) for plan in manifest["plans"]]
            refuse = partial(_refuse, self.what, inputs, keys)
            model = CompiledModel(inputs, outputs, refuse, values, name=manifest["name"], max_plans=len(keys), isa=self.isa)
            workspaces = Workspaces()
            for plan in manifest["plans"]:
                data = PlanData.from_dict(plan)
                data.check(inputs, outputs, values)
                blobs = [self._blob(*manifest["blobs"][index]) for index in plan["constants"]]
                direct = data.runnable(linked.addresses, blobs, threads, workspaces=workspaces, keep=linked)
                model.adopt(data.key, direct)
        except (*MALFORMED, VerificationError, LinkError) as error:
            raise _malformed(self.what, error) from None
        return model

    def _object(self, item: Mapping[str, Any]) -> tuple[bytes, str]:
        code = self.code[item["offset"] : item["offset"] + item["nbytes"]]
        return code, item["symbol"]

    def _blob(self, offset: int, nbytes: int) -> np.ndarray:
        if not 0 <= offset <= offset + nbytes <= self.manifest["weights"]["nbytes"]:
            raise ValueError("a weight lies outside of the weights")
        return np.frombuffer(self.data, np.uint8, nbytes, self.weights_at + offset)

    def as_text(self) -> str:
        """What is in it: interface, instruction set, sizes, plans."""
        manifest = self.manifest
        lines = [
            f"{manifest['name']}, format {manifest['format']}, written by loopnest {manifest['loopnest']}",
            *(f"  {side[:-1]} {tensor_spec(item)}" for side in ("inputs", "outputs") for item in manifest[side]),
            f"  for {self.isa.name}: {self.isa.arch} with {', '.join(self.isa.features) or 'nothing else'}",
            f"  {len(manifest['kernels'])} kernels, {len(self.code):,} bytes of code, {manifest['weights']['nbytes']:,} bytes of weights",
            f"  {len(manifest['plans'])} plans:",
            *(f"    {_shapes_text(manifest['inputs'], plan_key(plan))}" for plan in manifest["plans"]),
        ]
        return "\n".join(lines)


def _manifest(what: str, data: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The manifest, checked, and where it ends."""
    if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
        raise ArtifactError(f"{what} is not a loopnest artifact")
    _, number, checksum, nbytes = _HEADER.unpack_from(data)
    if number > FORMAT:
        raise ArtifactError(f"{what} has format {number}; this version of loopnest reads formats up to {FORMAT}")
    end = _HEADER.size + nbytes
    text = data[_HEADER.size : end]
    if len(text) < nbytes:
        raise ArtifactError(f"{what} is truncated: {len(data)} bytes")
    if hashlib.sha256(text).digest() != checksum:
        raise ArtifactError(f"{what} is damaged: its manifest does not match its checksum")
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise _malformed(what, error) from None
    if not isinstance(manifest, dict) or manifest.get("format") != number:
        raise ArtifactError(f"{what} is damaged: its manifest has another format than its header")
    return manifest, end


def _malformed(what: str, error: Exception) -> ArtifactError:
    return ArtifactError(f"{what} is damaged: {type(error).__name__}: {error}")


def _collect(model: CompiledModel) -> tuple[dict[str, Any], list[bytes], list[bytes | memoryview]]:
    """The manifest, and the parts of the two sections in order, padding included."""
    from .. import __version__

    plans = model.plans_by_key()
    if not plans:
        raise ArtifactError(
            "the model has no plan yet: call it, or prepare(), for each set of shapes that it shall be saved with"
        )
    if model.isa is None:
        raise ArtifactError("the model does not say which instruction set it is compiled for")
    for spec in (*model.inputs, *model.outputs):
        if not any(dtype.name == spec.dtype and dtype.is_numeric for dtype in dtypes.ALL):
            raise ArtifactError(f"a model with {spec} cannot be saved: only numeric tensors go in and out of an artifact")
    weights, objects = _Weights(), dict[str, tuple[bytes, str]]()
    entries: list[dict[str, Any]] = []
    for key, runner in plans:
        if not isinstance(runner, Direct):
            raise ArtifactError(
                "this model cannot be saved: parts of it run in Python, or are planned when data is there (see its plan: print(f))"
            )
        objects.update(runner.native.objects())
        entries.append(
            {
                **PlanData(key, runner.picks, runner.native.program).to_dict(),
                "constants": [weights.add(blob) for blob in runner.native.constants],
            }
        )
    kernels, code = _kernels(objects)
    manifest = {
        "format": FORMAT,
        "loopnest": __version__,
        "name": model.name,
        "isa": asdict(model.isa),
        "inputs": [asdict(spec) for spec in model.inputs],
        "outputs": [asdict(spec) for spec in model.outputs],
        "value_inputs": model.value_inputs,
        "kernels": kernels,
        "plans": entries,
        "blobs": weights.places,
        "code": _section(code),
        "weights": _section(weights.parts),
    }
    return manifest, code, weights.parts


def _kernels(objects: Mapping[str, tuple[bytes, str]]) -> tuple[dict[str, Any], list[bytes]]:
    places: dict[str, Any] = {}
    at = 0
    for key, (code, symbol) in objects.items():
        places[key] = {"symbol": symbol, "offset": at, "nbytes": len(code)}
        at += len(code)
    return places, [code for code, _ in objects.values()]


def _section(parts: Sequence[bytes | memoryview]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return {"nbytes": sum(map(len, parts)), "sha256": digest.hexdigest()}


class _Weights:
    """The weights of all plans, each once."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.places: list[tuple[int, int]] = []
        self._known: dict[tuple[int, int], int] = {}
        self._end = 0

    def add(self, blob: np.ndarray) -> int:
        """The number of a blob."""
        identity = address_of(blob), blob.nbytes
        if identity not in self._known:
            start = aligned(self._end)
            self.parts += [bytes(start - self._end), blob.reshape(-1).view(np.uint8).data]
            self._known[identity] = len(self.places)
            self.places.append((start, blob.nbytes))
            self._end = start + blob.nbytes
        return self._known[identity]


def _shapes_text(inputs: Sequence[Mapping[str, Any]], key: Key) -> str:
    shapes = ", ".join(f"{spec['name']}={list(shape)}" for spec, shape in zip(inputs, key, strict=False))  # type: ignore[arg-type]
    values = ", ".join(part.hex() for part in key if isinstance(part, bytes))
    return f"{shapes} with values {values}" if values else shapes or "no inputs"


def _refuse(what: str, inputs: Sequence[TensorSpec], keys: Sequence[Key], values: tuple[Any, ...]) -> Any:
    """A planner that says which plans there are."""
    named = [asdict(spec) for spec in inputs]
    given = ", ".join(f"{spec.name}={list(np.shape(value))}" for spec, value in zip(inputs, values, strict=True))
    listing = "; ".join(_shapes_text(named, key) for key in keys)
    raise InputError(f"{what} has no plan for {given}, or for the values that decide shapes; it has {listing}")
