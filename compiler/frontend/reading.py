"""From what the user hands over (path, bytes, ``ModelProto``) to a checked ``ModelProto`` and the folder of its external data."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ...ir.errors import ModelError
from ...ir.graph_onnx import newest_opset

Model = str | os.PathLike[str] | bytes | onnx.ModelProto


def read_model(model: Model) -> tuple[onnx.ModelProto, Path | None]:
    """The model, and the folder that its external data must lie in (None when it did not come from a file).

    ``ModelError`` when the file is missing, truncated, not ONNX, or of an IR version or opset newer than the onnx package knows.
    """
    folder = None
    if isinstance(model, onnx.ModelProto):
        proto = model
    elif isinstance(model, bytes | bytearray | memoryview):
        proto = _parse(bytes(model), "the given bytes")
    elif isinstance(model, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        path = Path(model)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read the model file {str(path)!r}: {error.strerror or error}") from None
        proto, folder = _parse(data, f"the file {str(path)!r}"), path.parent
    else:
        raise ModelError(f"a model is a path, bytes or an onnx.ModelProto, not a {type(model).__name__}")
    _check_versions(proto)
    return proto, folder


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
