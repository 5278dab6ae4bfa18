"""Weights taken out of a serialized model without parsing them.

A protobuf parser copies every weight into its own memory, and reading it from there copies it again. The wire format (see
https://protobuf.dev/programming-guides/encoding) is simple enough to walk over: the large ``raw_data`` of the main graph's
initializers is left out of what is parsed, and only its place in the file is noted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Field numbers of ``ModelProto.graph``, ``GraphProto.initializer`` and ``TensorProto.raw_data``."""
_BYTES = 2
"""The wire type of what begins with its length."""
_MAX_TENSOR_FIELDS = 64


@dataclass(frozen=True)
class Skeleton:
    """``data`` is the serialized model without the weights that ``weights`` places: initializer index to (offset, bytes)."""

    data: bytes
    weights: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class _Field:
    number: int
    kind: int
    start: int
    """Where its tag begins."""
    value: int
    """Where its content begins."""
    end: int


def skeleton(data: memoryview, at_least: int) -> Skeleton | None:
    """``data`` less the initializers of ``at_least`` bytes; None when there are none, or the walk finds anything unusual."""
    try:
        graphs = [field for field in _fields(data, 0, len(data)) if field.number == _GRAPH]
        if len(graphs) != 1 or graphs[0].kind != _BYTES:
            return None
        (graph,) = graphs
        parts, weights = _without_weights(data, graph, at_least)
    except (ValueError, IndexError):
        return None
    if not weights:
        return None
    inner = b"".join(parts)
    tag = bytes(data[graph.start : graph.start + 1])
    return Skeleton(b"".join((data[: graph.start], tag, _varint(len(inner)), inner, data[graph.end :])), weights)


def _without_weights(
    data: memoryview, graph: _Field, at_least: int
) -> tuple[list[bytes | memoryview], dict[int, tuple[int, int]]]:
    parts: list[bytes | memoryview] = []
    weights: dict[int, tuple[int, int]] = {}
    copied, index = graph.value, -1
    for field in _fields(data, graph.value, graph.end):
        if field.number != _INITIALIZER:
            continue
        index += 1
        raw = _raw_data(data, field) if field.end - field.value >= at_least else None
        if raw is None or raw.end - raw.value < at_least:
            continue
        weights[index] = (raw.value, raw.end - raw.value)
        rest = field.end - field.value - (raw.end - raw.start)
        tag = bytes(data[field.start : field.start + 1])
        parts += [data[copied : field.start], tag, _varint(rest), data[field.value : raw.start], data[raw.end : field.end]]
        copied = field.end
    parts.append(data[copied : graph.end])
    return parts, weights


def _raw_data(data: memoryview, tensor: _Field) -> _Field | None:
    found: list[_Field] = []
    for count, field in enumerate(_fields(data, tensor.value, tensor.end)):
        if count == _MAX_TENSOR_FIELDS:
            return None
        if field.number == _RAW_DATA:
            found.append(field)
    return found[0] if len(found) == 1 and found[0].kind == _BYTES else None


def _fields(data: memoryview, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        start = position
        tag, position = _read_varint(data, position)
        value = position
        match tag & 7:
            case 0:
                _, position = _read_varint(data, position)
            case 1:
                position += 8
            case 2:
                length, value = _read_varint(data, position)
                position = value + length
            case 5:
                position += 4
            case other:
                raise ValueError(f"wire type {other}")
        if position > end:
            raise ValueError("a field ends after what holds it")
        yield _Field(tag >> 3, tag & 7, start, value, position)


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
