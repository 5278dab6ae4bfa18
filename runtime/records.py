"""The form of all files in the cache: a key, fields and a body, under a checksum.

    magic (16 bytes), checksum, size of the header, the header (JSON: key and fields), zeros up to the alignment, the body

The checksum is the SHA-256 of all after the size of the header; of a large body its XXH64 stands there in its place.
A file is named by the SHA-256 of its key. What is read must be whole and carry the key that it is looked up by.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from ..ir.errors import MALFORMED
from .checksums import xxh64
from .files import Damaged

_HEADER = struct.Struct("<16s32sI")


@dataclass(frozen=True)
class CacheKey:
    """Everything that an entry depends on, as named printable parts in a fixed order, the coarsest first."""

    parts: tuple[tuple[str, str], ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the parts in hexadecimal."""
        return hashlib.sha256(json.dumps(self.parts).encode()).hexdigest()

    @staticmethod
    def of(parts: Any) -> CacheKey:
        """The key of these parts, as JSON has them."""
        return CacheKey(tuple((str(name), str(value)) for name, value in parts))

    def as_text(self) -> str:
        return "\n".join(
            f"{name}: {value}" if "\n" not in value else f"{name}:\n{_indent(value)}" for name, value in self.parts
        )

    def difference(self, other: CacheKey) -> tuple[int, str] | None:
        """The index of the first part that differs and a sentence about it; None for equal keys."""
        for index, (mine, theirs) in enumerate(itertools.zip_longest(self.parts, other.parts)):
            if mine == theirs:
                continue
            if mine is None or theirs is None or mine[0] != theirs[0]:
                return index, f"part {mine and mine[0]!r} stands where the other key has {theirs and theirs[0]!r}"
            return index, f"{mine[0]} differs: {_first_difference(mine[1], theirs[1])}"
        return None

    def explain(self, other: CacheKey) -> str:
        """Why ``other`` is not this key: the first part that differs."""
        found = self.difference(other)
        return found[1] if found else "the keys are equal"


@dataclass(frozen=True)
class Record:
    """What a file holds; ``body`` is where the body starts."""

    key: CacheKey
    fields: Mapping[str, Any]
    body: int


@dataclass(frozen=True)
class Form:
    """A kind of record: its magic, what it is called, where its body begins, and whether bodies are large."""

    magic: bytes
    what: str
    alignment: int = 1
    large: bool = False

    def encode(self, key: CacheKey, fields: Mapping[str, Any], body: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
        """A file, in parts."""
        header = json.dumps({"key": key.parts, **fields}).encode()
        head = header + bytes(-(_HEADER.size + len(header)) % self.alignment)
        return [_HEADER.pack(self.magic, self._checksum(head, *body), len(header)), head, *body]

    def decode(self, data: bytes | mmap.mmap) -> Record:
        """Raises ``Damaged``."""
        if len(data) < _HEADER.size:
            raise Damaged("it is truncated")
        magic, checksum, header_nbytes = _HEADER.unpack_from(data)
        if magic != self.magic:
            raise Damaged(f"it is not a loopnest {self.what} of this version")
        end = _HEADER.size + header_nbytes
        body = end + -end % self.alignment
        with memoryview(data) as view:
            if self._checksum(view[_HEADER.size : body], view[body:]) != checksum:
                raise Damaged("its checksum does not match")
        try:
            fields = cast("dict[str, Any]", json.loads(data[_HEADER.size : end]))
            key = CacheKey.of(fields.pop("key"))
        except MALFORMED as error:
            raise Damaged(f"its header is malformed: {error!r}") from None
        return Record(key, fields, body)

    def _checksum(self, head: bytes | memoryview, *body: bytes | memoryview) -> bytes:
        digest = hashlib.sha256(head)
        for part in body:
            digest.update(xxh64(part).encode() if self.large else part)
        return digest.digest()

    def decode_for(self, key: CacheKey, data: bytes | mmap.mmap) -> Record:
        """Raises ``Damaged`` for a record of another key too."""
        record = self.decode(data)
        if record.key != key:
            raise Damaged("it belongs to another key")
        return record


def nearest(key: CacheKey, others: Sequence[CacheKey]) -> str | None:
    """The first part in which ``key`` differs from that of ``others`` which agrees with it furthest, in words; None without others."""
    found = max((found for other in others if (found := key.difference(other))), default=None)
    return found and found[1]


def _indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _first_difference(mine: str, theirs: str) -> str:
    lines = itertools.zip_longest(mine.splitlines(), theirs.splitlines(), fillvalue="")
    number, (a, b) = next(((n, pair) for n, pair in enumerate(lines, 1) if pair[0] != pair[1]), (1, (mine, theirs)))
    where = f"line {number}: " if "\n" in mine or "\n" in theirs else ""
    same = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return f"{where}{_excerpt(a, same)!r} here, {_excerpt(b, same)!r} there"


def _excerpt(line: str, at: int) -> str:
    """What a line says around a place in it."""
    start, end = max(0, at - 20), at + 40
    return f"{'…' * (start > 0)}{line[start:end]}{'…' * (end < len(line))}"
