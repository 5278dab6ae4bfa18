"""``TensorProto`` and ``SparseTensorProto`` to NumPy: every dtype, packed sub-byte values, external data mapped and fenced in."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import onnx

from ...ir import dtypes
from ...ir.dtypes import DType
from ...ir.errors import ModelError

MAX_TENSOR_BYTES = 2**40
"""What no tensor of a sane model reaches; dims beyond it are taken for damage."""


_note: ContextVar[Callable[[str], None] | None] = ContextVar("loopnest_external_files", default=None)


@contextmanager
def noting_files(note: Callable[[str], None]) -> Generator[None]:
    """Calls ``note`` with the name of every file that tensors refer to, before it is read."""
    token = _note.set(note)
    try:
        yield
    finally:
        _note.reset(token)


def to_array(tensor: onnx.TensorProto, folder: Path | None, raw: np.ndarray | None = None) -> np.ndarray:
    """The tensor's values as a read-only array; int4, uint4, int2, uint2 and float4 take one byte a value, strings are objects.

    ``raw`` is its ``raw_data`` when the tensor comes without it. External data is memory-mapped from a file inside ``folder``.
    ``ModelError`` when dims, dtype and data do not fit together.
    """
    dtype = _dtype(tensor)
    shape = tuple(tensor.dims)
    count = element_count(shape, dtype, f"tensor {tensor.name!r}")
    if dtype is dtypes.string:
        return _strings(tensor, shape, count)
    if raw is not None:
        pass
    elif tensor.data_location == onnx.TensorProto.EXTERNAL:
        raw = _map_external(tensor, folder, _nbytes(count, dtype))
    elif tensor.HasField("raw_data"):
        raw = np.frombuffer(tensor.raw_data, np.uint8)
    else:
        raw = _typed_data(tensor, dtype)
    if raw.size != _nbytes(count, dtype):
        raise ModelError(
            f"tensor {tensor.name!r} is {dtype}{list(shape)}, {_nbytes(count, dtype)} bytes, but its data has {raw.size} bytes"
        )
    array = _view(raw, dtype, count).reshape(shape)
    array.flags.writeable = False
    return array


def sparse_to_array(sparse: onnx.SparseTensorProto, folder: Path | None) -> np.ndarray:
    """The dense array of a sparse tensor in COO form; indices are linear ``[nnz]`` or by axis ``[nnz, rank]``."""
    name = sparse.values.name
    values = to_array(sparse.values, folder)
    indices = to_array(sparse.indices, folder) if sparse.HasField("indices") else np.zeros(0, np.int64)
    shape = tuple(sparse.dims)
    count = element_count(shape, dtypes.from_numpy(values.dtype), f"sparse tensor {name!r}")
    dense = np.zeros(count, values.dtype)
    if values.size:
        if indices.ndim == 2 and indices.shape[1:] == (len(shape),) and _within(indices, np.array(shape)):
            indices = np.asarray(np.ravel_multi_index(tuple(indices.T), shape))
        if indices.shape != values.shape or not _within(indices, count):
            raise ModelError(
                f"sparse tensor {name!r} of shape {list(shape)} has indices that do not fit its values or its shape"
            )
        dense[indices] = values
    return dense.reshape(shape)


def element_count(shape: tuple[int, ...], dtype: DType, what: str) -> int:
    """The number of elements; ``ModelError`` for negative extents and for sizes that no machine holds."""
    if any(extent < 0 for extent in shape):
        raise ModelError(f"{what} has a negative extent in its dims {list(shape)}")
    count = math.prod(shape)
    if math.prod(extent or 1 for extent in shape) * dtype.itemsize >= MAX_TENSOR_BYTES:  # none either of an array that is empty
        raise ModelError(f"{what} has dims {list(shape)} of {dtype}, more than {MAX_TENSOR_BYTES // 2**30} GiB")
    return count


def _dtype(tensor: onnx.TensorProto) -> DType:
    try:
        return dtypes.from_onnx(tensor.data_type)
    except KeyError:
        raise ModelError(f"tensor {tensor.name!r} has data type {tensor.data_type}, which ONNX does not define") from None


def _nbytes(count: int, dtype: DType) -> int:
    return -(-count * dtype.bits // 8)


def _within(indices: np.ndarray, end: int | np.ndarray) -> bool:
    return bool(((indices >= 0) & (indices < end)).all())


def _strings(tensor: onnx.TensorProto, shape: tuple[int, ...], count: int) -> np.ndarray:
    if len(tensor.string_data) != count:
        raise ModelError(f"tensor {tensor.name!r} is string{list(shape)} but has {len(tensor.string_data)} values")
    array = np.empty(count, object)
    array[:] = [value.decode("utf-8", "replace") for value in tensor.string_data]
    return array.reshape(shape)


def _typed_data(tensor: onnx.TensorProto, dtype: DType) -> np.ndarray:
    """The bytes of values stored in one of the typed fields (``float_data`` ...); int32_data holds all narrow types as bits."""
    match dtype.name:
        case "float32" | "complex64":
            values = np.array(tensor.float_data, np.float32)
        case "float64" | "complex128":
            values = np.array(tensor.double_data, np.float64)
        case "int64":
            values = np.array(tensor.int64_data, np.int64)
        case "uint64" | "uint32":
            values = np.array(tensor.uint64_data, np.uint64).astype(dtype.numpy)
        case _:
            values = np.array(tensor.int32_data, np.int32).astype(f"u{dtype.itemsize}")
    return values.view(np.uint8)


def _view(raw: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    if dtype.bits >= 8:
        storage = np.dtype(dtype.numpy)
        aligned = raw if raw.ctypes.data % storage.itemsize == 0 else raw.copy()
        return aligned.view(storage)
    shifts = np.arange(0, 8, dtype.bits, dtype=np.uint8)
    bits = ((raw[:, None] >> shifts) & (2**dtype.bits - 1)).reshape(-1)[:count]
    if dtype.kind == "float":
        return bits.view(dtype.numpy)
    if dtype.kind == "int":
        sign = 1 << (dtype.bits - 1)
        return ((bits.astype(np.int8) ^ sign) - sign).astype(dtype.numpy)
    return bits.astype(dtype.numpy)


def _map_external(tensor: onnx.TensorProto, folder: Path | None, nbytes: int) -> np.ndarray:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _external_path(tensor.name, entries.get("location", ""), folder)
    offset = _external_number(tensor.name, entries, "offset", 0)
    length = _external_number(tensor.name, entries, "length", nbytes)
    if length != nbytes:
        raise ModelError(f"tensor {tensor.name!r} needs {nbytes} bytes but its external data is {length} bytes long")
    note = _note.get()
    if note is not None:
        note(entries["location"])
    size = path.stat().st_size
    if offset + length > size:
        raise ModelError(
            f"tensor {tensor.name!r} lies at bytes {offset} to {offset + length} of {entries['location']!r}, which has {size} bytes"
        )
    if length == 0:
        return np.zeros(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, mode="r", offset=offset, shape=(length,)))


def _external_path(name: str, location: str, folder: Path | None) -> Path:
    if folder is None:
        raise ModelError(f"tensor {name!r} has external data; give the model as a path so that {location!r} can be found")
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(root):
        raise ModelError(f"tensor {name!r} has external data at {location!r}, outside the model's folder: refused")
    if not path.is_file():
        raise ModelError(f"tensor {name!r} has external data at {location!r}, which is not a file in the model's folder")
    return path


def _external_number(name: str, entries: dict[str, str], key: str, default: int) -> int:
    return _parse_natural(entries.get(key, ""), default, lambda text: f"tensor {name!r} has external data with {key} {text!r}")


def _parse_natural(text: str, default: int, complaint: Callable[[str], str]) -> int:
    if not text:
        return default
    if not text.isdecimal():
        raise ModelError(f"{complaint(text)}, which is not a non-negative number")
    return int(text)
