"""Checksums of artifacts, and comparing them while other work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
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
    """Bytes, what they are, and the checksum that they must have: XXH64 if it is ``fast``, else SHA-256, in hexadecimal."""

    what: str
    data: memoryview
    expected: str
    fast: bool = False


class Checks:
    """Compares checksums while other work goes on, in as many threads as there are processors to spare. ``what`` names the whole.

    XXH64 are computed by native code that needs no lock of the interpreter, which a busy thread gives away every 5 ms only.
    """

    def __init__(self, what: str, pieces: Iterable[Piece]) -> None:
        self._what = what
        ordered = sorted(pieces, key=lambda piece: -len(piece.data))  # the largest are taken first
        self._todo = [piece for piece in reversed(ordered) if not piece.fast]
        self._damaged: list[str] = []
        self._table = _Table([piece for piece in ordered if piece.fast])
        spare = min(available_cpus() - 1, sum(len(piece.data) for piece in ordered) >> 21)
        self._threads = [threading.Thread(target=self._work, name="loopnest-checksum", daemon=True) for _ in range(spare)]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Compares what is left. Raises ``ArtifactError`` naming a piece that is not what its checksum is of."""
        self._work()
        for thread in self._threads:
            thread.join()
        damaged = [*self._damaged, *self._table.damaged()]
        if damaged:
            raise ArtifactError(f"{self._what} is damaged: {min(damaged)} does not match its checksum")

    def _work(self) -> None:
        self._table.run()
        while self._todo:
            try:
                piece = self._todo.pop()
            except IndexError:
                return
            if sha256(piece.data) != piece.expected:
                self._damaged.append(piece.what)


class _Table:
    """Pieces with their XXH64, as the driver computes those of many at once (``loopnest_checksums``)."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        if not pieces:
            return
        import numpy as np

        from .buffers import address_of

        self._arrays = [np.frombuffer(piece.data, np.uint8) for piece in pieces]
        self._rows = np.array([(address_of(array), array.nbytes, 0) for array in self._arrays], np.uint64)
        self._next = np.zeros(1, np.int64)
        self._call = address_of(self._rows), len(pieces), address_of(self._next)

    def run(self) -> None:
        """Goes on until no piece is left to take, beside other threads that do."""
        if self._pieces:
            from .driver import driver

            driver().checksums(*self._call)

    def damaged(self) -> list[str]:
        """What is not as expected, when all threads are done."""
        found = self._rows[:, 2].tolist() if self._pieces else []
        return [piece.what for piece, result in zip(self._pieces, found, strict=True) if f"{result:016x}" != piece.expected]
