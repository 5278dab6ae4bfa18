"""From what the user hands over (path, bytes, ``ModelProto``) to a ``ModelProto``, its weights, and the folder of its external data."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from ...ir.errors import ModelError
from ...ir.graph_onnx import newest_opset
from ...runtime.parallel import in_threads
from .wire import skeleton

Model = str | os.PathLike[str] | bytes | onnx.ModelProto

_LARGE = 4096
"""Initializers of so many bytes are read on their own."""
_PART = 16 << 20
"""So much is read at a time, by each of two threads: memory that is touched first takes longer than the file."""


@dataclass(frozen=True)
class Source:
    """A model as read: the proto, the folder that external data must lie in (None when it did not come from a file), and the bytes
    of those initializers, by index, that the proto comes without."""

    proto: onnx.ModelProto
    folder: Path | None = None
    weights: Mapping[int, np.ndarray] = field(default_factory=dict)


def read_model(model: Model) -> Source:
    """The model, not yet checked beyond its versions.

    ``ModelError`` when the file is missing, truncated, not ONNX, or of an IR version or opset newer than the onnx package knows.
    """
    if isinstance(model, onnx.ModelProto):
        source = Source(model)
    elif isinstance(model, bytes | bytearray | memoryview):
        source = _from_bytes(bytes(model))
    elif isinstance(model, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        path = Path(model)
        try:
            source = _from_file(path)
        except OSError as error:
            raise ModelError(f"cannot read the model file {str(path)!r}: {error.strerror or error}") from None
    else:
        raise ModelError(f"a model is a path, bytes or an onnx.ModelProto, not a {type(model).__name__}")
    _check_versions(source.proto)
    return source


def _from_bytes(data: bytes) -> Source:
    found = skeleton(memoryview(data), _LARGE)
    if found is None:
        return Source(_parse(data, "the given bytes"))
    weights = {index: np.frombuffer(data, np.uint8, count, offset) for index, (offset, count) in found.weights.items()}
    return Source(_parse(found.data, "the given bytes"), weights=weights)


def _from_file(path: Path) -> Source:
    """Read each large weight straight into an array of its own: it is neither parsed nor copied, nor does it follow the file."""
    what = f"the file {str(path)!r}"
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return Source(_parse(b"", what))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            found = skeleton(data, _LARGE)
        if found is None:
            return Source(_parse(file.read(), what), path.parent)
        weights = {index: np.empty(count, np.uint8) for index, (_, count) in found.weights.items()}
        lock = threading.Lock()

        def fill(part: tuple[int, memoryview]) -> None:
            offset, memory = part
            while memory:
                if hasattr(os, "preadv"):
                    count = os.preadv(file.fileno(), [memory], offset)
                else:
                    with lock:
                        file.seek(offset)
                        count = file.readinto(memory)
                if not count:
                    raise OSError("it became shorter while it was read")
                offset, memory = offset + count, memory[count:]

        in_threads(fill, _parts(found.weights, weights))()
    return Source(_parse(found.data, what), path.parent, weights)


def _parts(places: Mapping[int, tuple[int, int]], weights: Mapping[int, np.ndarray]) -> list[tuple[int, memoryview]]:
    """What to read, by where it is in the file, in parts that take threads about equally long."""
    return [
        (offset + start, weights[index].data[start : start + _PART])
        for index, (offset, count) in places.items()
        for start in range(0, count, _PART)
    ]


def opset_imports(imports: object) -> dict[str, int]:
    """Domain to version, with the default domain spelled ``""``."""
    return {normal_domain(item.domain): item.version for item in imports}  # type: ignore[attr-defined]


def normal_domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else text(domain)


def text(value: str | bytes) -> str:
    """``value`` as protobuf gave it: bytes where it is not UTF-8, which is a ``ModelError``."""
    if isinstance(value, bytes):
        raise ModelError(f"the model has a name that is not UTF-8 text: {value!r}")
    return value


def _parse(data: bytes, what: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{what} is not an ONNX model, or is truncated ({len(data)} bytes)") from None
    if not proto.HasField("graph"):
        raise ModelError(f"{what} is not an ONNX model: it holds no graph ({len(data)} bytes)")
    return proto


def _check_versions(proto: onnx.ModelProto) -> None:
    if not proto.HasField("graph"):
        raise ModelError("the model holds no graph")
    if not 1 <= proto.ir_version <= onnx.IR_VERSION:
        raise ModelError(f"the model has IR version {proto.ir_version}; versions 1 to {onnx.IR_VERSION} are known")
    imports = opset_imports(proto.opset_import)
    if "" in imports and not 1 <= imports[""] <= newest_opset():
        raise ModelError(f"the model uses opset {imports['']}; opsets 1 to {newest_opset()} are known")
    if not imports and proto.ir_version >= 3:
        raise ModelError(f"the model names no opset, which IR version {proto.ir_version} requires")
