"""Checksums of artifacts, and comparing them while other work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NamedTuple

from ..ir.errors import ArtifactError
from .cpus import available_cpus

_SMALL = 1 << 20
"""Bytes: loading OpenSSL, which hashes six times as fast as the interpreter's own code, takes longer than hashing so many."""

_OWN = ("_sha2", "_sha256")
"""Where interpreters have SHA-256 of their own, from version 3.12 on and before."""


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return _sha256(len(data))(data).hexdigest()


def xxh64(data: bytes | memoryview) -> str:
    """XXH64 with seed 0 in hexadecimal: finds damage as fast as memory is read. Needs the driver (``checksum.ll``)."""
    import numpy as np

    from .buffers import address_of
    from .driver import driver

    array = np.frombuffer(data, np.uint8)
    return f"{driver().checksum(address_of(array), array.nbytes) & (1 << 64) - 1:016x}"


def _sha256(nbytes: int) -> Callable[[bytes | memoryview], Any]:
    for name in _OWN if nbytes < _SMALL else ():
        try:
            return import_module(name).sha256
        except (ImportError, AttributeError):
            continue
    import hashlib

    return hashlib.sha256


class Piece(NamedTuple):
    """Bytes, what they are, and the checksum that ``digest`` of them must be."""

    what: str
    data: memoryview
    expected: str
    digest: Callable[[memoryview], str] = sha256


class Checks:
    """Compares checksums while other work goes on, in as many threads as there are processors to spare. ``what`` names the whole."""

    def __init__(self, what: str, pieces: Iterable[Piece]) -> None:
        self._what = what
        self._todo = sorted(pieces, key=lambda piece: len(piece.data))  # the largest are taken first
        self._damaged: list[str] = []
        spare = min(available_cpus() - 1, sum(len(piece.data) for piece in self._todo) >> 21)
        self._threads = [threading.Thread(target=self._work, name="loopnest-checksum", daemon=True) for _ in range(spare)]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Compares what is left. Raises ``ArtifactError`` naming a piece that is not what its checksum is of."""
        self._work()
        for thread in self._threads:
            thread.join()
        if self._damaged:
            raise ArtifactError(f"{self._what} is damaged: {min(self._damaged)} does not match its checksum")

    def _work(self) -> None:
        while self._todo:
            try:
                piece = self._todo.pop()
            except IndexError:
                return
            if piece.digest(piece.data) != piece.expected:
                self._damaged.append(piece.what)
