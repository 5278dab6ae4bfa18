"""What a model consists of, by content: the SHA-256 of its bytes and of the files that it refers to. Nothing is parsed for that. Large
ones are hashed in parts by two threads; their digest is that of the digests of the parts.

Times of files tell nothing here: a file is read to know what is in it. They only show whether it is still the one that was read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..runtime.parallel import in_threads

if TYPE_CHECKING:
    from .frontend.reading import Model

_PART, _CHUNK = 8 << 20, 1 << 18
_SETTLED_NS = 2_000_000_000
"""A file that changed twice within the resolution of its times looks the same; two seconds is that of the coarsest file systems."""


class FileContent:
    """A file as it is when this is made."""

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``."""
        self.path = path
        self._status = _status(path)
        self.is_settled = time.time_ns() - self._status[-1] > _SETTLED_NS

    @property
    def nbytes(self) -> int:
        return self._status[2]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of what is in it; raises ``OSError``."""
        return self.hashing()()

    def hashing(self) -> Callable[[], str]:
        """Starts to hash what is in it, and gives what waits for the result."""
        return _hashing(self._part, self.nbytes)

    def _part(self, start: int) -> bytes:
        digest, chunk, left = hashlib.sha256(), memoryview(bytearray(_CHUNK)), _PART
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            while left and (count := file.readinto(chunk[:left])):
                digest.update(chunk[:count])
                left -= count
        return digest.digest()

    def is_unchanged(self) -> bool:
        """Whether the file still is what ``digest`` is the digest of."""
        try:
            return self._status == _status(self.path) and (self.is_settled or self.hashing()() == self.digest)
        except OSError:
            return False


class Content:
    """A model as the user hands it over. ``source`` is what it can be read from again: its path, or its bytes."""

    def __init__(self, source: Path | bytes, limit: int = sys.maxsize) -> None:
        """Raises ``OSError``, and ``ValueError`` over ``limit`` bytes."""
        self.source = source
        self._left = limit - (source.stat().st_size if isinstance(source, Path) else len(source))
        if self._left < 0:
            raise ValueError("too large")
        self._file = FileContent(source) if isinstance(source, Path) else None
        self._external: dict[str, FileContent] = {}
        self._wait: Callable[[], str] | None = None

    @staticmethod
    def of(model: Model, limit: int = sys.maxsize) -> Content | None:
        """None for what is larger than ``limit`` bytes, or cannot be read; whoever reads it says why."""
        try:
            if isinstance(model, str | os.PathLike):
                return Content(Path(model).absolute(), limit)
            if isinstance(model, bytes | bytearray | memoryview):
                return Content(bytes(model), limit)
            serialize = getattr(cast(Any, model), "SerializeToString", None)
            return None if serialize is None else Content(serialize(deterministic=True), limit)
        except Exception:  # too large for protobuf, no path at all: as good as unknown
            return None

    @property
    def nbytes(self) -> int:
        """That of the model without what it refers to."""
        return self._file.nbytes if self._file else len(self.source)  # type: ignore[arg-type]

    @property
    def is_settled(self) -> bool:
        """Whether a change from now on shows; what is not settled is to be hashed before it is read."""
        return self._file is None or self._file.is_settled

    def start(self) -> None:
        """Has other threads work out ``digest`` from now on, before it is asked for."""
        if self._wait is None:
            self._wait = self._file.hashing() if self._file else _hashing(self._part, len(self.source))  # type: ignore[arg-type]

    @cached_property
    def digest(self) -> str | None:
        """The SHA-256 of the model without what it refers to, worked out by other threads; None where it could not be read."""
        try:
            self.start()
            assert self._wait is not None
            return self._wait()
        except OSError:
            return None

    def external(self, names: Iterable[str]) -> Mapping[str, str] | None:
        """The SHA-256 of files in the model's folder by the names that the model calls them by; None where not all can be read, or
        they are over the limit."""
        try:
            files = {name: self._external_file(name) for name in names}
            if sum(file.nbytes for file in files.values()) > self._left:
                return None
            return {name: file.digest for name, file in files.items()}
        except OSError:
            return None

    def note(self, name: str) -> None:
        """Takes down such a file as it is before it is read."""
        with contextlib.suppress(OSError):
            self._external_file(name)

    def forget(self) -> None:
        """Lets go of the bytes of a model that is no file, when ``digest`` is known."""
        if isinstance(self.source, bytes):
            _ = self.digest
            self.source = b""

    def is_unchanged(self) -> bool:
        """Whether the model and all files that were asked for still are what they were."""
        files = [*self._external.values(), *([self._file] if self._file else ())]
        return all(file.is_unchanged() for file in files)

    def _external_file(self, name: str) -> FileContent:
        found = self._external.get(name)
        if found is None:
            if not isinstance(self.source, Path):
                raise FileNotFoundError(name)
            root = self.source.parent.resolve()
            path = (root / name).resolve()
            if not path.is_relative_to(root) or not path.is_file():
                raise FileNotFoundError(name)
            found = self._external[name] = FileContent(path)
        return found

    def _part(self, start: int) -> bytes:
        assert isinstance(self.source, bytes)
        return hashlib.sha256(memoryview(self.source)[start : start + _PART]).digest()


def _hashing(part: Callable[[int], bytes], size: int) -> Callable[[], str]:
    wait = in_threads(part, range(0, size, _PART))
    return lambda: hashlib.sha256(b"".join(wait())).hexdigest()


def _status(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
