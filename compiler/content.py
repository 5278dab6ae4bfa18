"""What a model consists of, by content: the SHA-256 of its bytes and of the files that it refers to. Nothing is parsed for that.

Times of files tell nothing here: a file is read to know what is in it. They only show whether it is still the one that was read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .frontend.reading import Model

_CHUNK = 1 << 20
_SETTLED_NS = 2_000_000_000
"""A file that changed twice within the resolution of its times looks the same; two seconds is that of the coarsest file systems."""


class FileContent:
    """A file as it is when this is made."""

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``."""
        self.path = path
        self._status = _status(path)
        self._settled = time.time_ns() - self._status[-1] > _SETTLED_NS

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of what is in it; raises ``OSError``."""
        return self._hash()

    def _hash(self) -> str:
        digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK))
        with self.path.open("rb", buffering=0) as file:
            while count := file.readinto(chunk):
                digest.update(chunk[:count])
        return digest.hexdigest()

    def is_unchanged(self) -> bool:
        """Whether the file still is what ``digest`` is the digest of."""
        try:
            return self._status == _status(self.path) and (self._settled or self._hash() == self.digest)
        except OSError:
            return False


class Content:
    """A model as the user hands it over. ``source`` is what it can be read from again: its path, or its bytes."""

    def __init__(self, source: Path | bytes) -> None:
        """Raises ``OSError``."""
        self.source = source
        self._file = FileContent(source) if isinstance(source, Path) else None
        self._external: dict[str, FileContent] = {}
        self._found: str | None = None
        self._hashing = threading.Thread(target=self._hash)
        self._hashing.start()

    @staticmethod
    def of(model: Model) -> Content | None:
        """None for what cannot be read; whoever reads it says why."""
        try:
            if isinstance(model, str | os.PathLike):
                return Content(Path(model))
            if isinstance(model, bytes | bytearray | memoryview):
                return Content(bytes(model))
            serialize = getattr(cast(Any, model), "SerializeToString", None)
            return None if serialize is None else Content(serialize(deterministic=True))
        except Exception:  # too large for protobuf, no path at all: as good as unknown
            return None

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the model without what it refers to, worked out by another thread; None where it could not be read."""
        self._hashing.join()
        return self._found

    def external(self, names: Iterable[str]) -> Mapping[str, str] | None:
        """The SHA-256 of files in the model's folder by the names that the model calls them by; None where not all can be read."""
        try:
            return {name: self._external_file(name).digest for name in names}
        except OSError:
            return None

    def note(self, name: str) -> None:
        """Takes down such a file as it is before it is read."""
        with contextlib.suppress(OSError):
            self._external_file(name)

    def forget(self) -> None:
        """Lets go of the bytes of a model that is no file."""
        if isinstance(self.source, bytes):
            self._hashing.join()
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

    def _hash(self) -> None:
        try:
            self._found = self._file.digest if self._file else hashlib.sha256(cast(bytes, self.source)).hexdigest()
        except OSError:
            self._found = None


def _status(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
