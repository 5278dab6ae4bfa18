"""What an artifact is kept in: a manifest and named sections of bytes, as one file or as the files of a folder.

    header    magic, format number, SHA-256 and size of the manifest
    manifest  JSON; ``sections`` lists their names, sizes and SHA-256 in order
    sections  each on a page, so that processes share the pages that they map

In a folder, header and manifest are the file ``manifest``, and each section is the file of its name. The manifest is checked when it is
read; sections when somebody asks (``Checks``), before they use them. See ``docs/artifact.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, TypeAlias

from ..ir.errors import ArtifactError
from .cpus import available_cpus
from .records import MALFORMED

FORMAT = 2
"""Of the files that are written; files of formats up to this one are read."""

MAGIC = b"LOOPNEST MDL"
HEADER = Struct("<12sI32sQ")  # magic, format, SHA-256 of the manifest, its bytes
PAGE = 4096
MANIFEST = "manifest"
"""The file of a folder that has the header and the manifest."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")

Bytes: TypeAlias = "bytes | memoryview"


@dataclass(frozen=True)
class Section:
    """``sha256`` None: of which the manifest has the checksums piece by piece."""

    name: str
    nbytes: int
    sha256: str | None


@dataclass(frozen=True)
class Container:
    """One that was read, its manifest checked and the sections mapped. ``number`` is its format, ``what`` names it in messages."""

    what: str
    number: int
    manifest: Mapping[str, Any]
    sections: Mapping[str, Section]
    views: dict[str, memoryview]

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Container:
        """Raises ``ArtifactError`` for what is missing, damaged, truncated or of a newer format."""
        source = Path(path)
        what = f"the artifact {str(source)!r}"
        folder = os.path.isdir(source)
        head = _mapped(what, source / MANIFEST if folder else source)
        number, manifest, end = _manifest(what, head)
        if number == 1:
            from .format1 import upgraded

            manifest = upgraded(what, manifest)
        try:
            sections = {str(item["name"]): _section(item) for item in manifest["sections"]}
        except MALFORMED as error:
            raise malformed(what, error) from None
        views: dict[str, memoryview] = {}
        for name, section in sections.items():
            start, data = (0, _mapped(what, source / name)) if folder else (end + -end % PAGE, head)
            end = start + section.nbytes
            if len(data) < end:
                raise ArtifactError(f"{what} is truncated: {name} ends at byte {end}, and there are {len(data)}")
            views[name] = data[start:end]
        return Container(what, number, manifest, sections, views)

    def detach(self, name: str) -> None:
        """Reads a section into memory of this process, so that it stays what it is when somebody writes into the file."""
        self.views[name] = memoryview(bytes(self.views[name]))

    def piece(self, name: str, offset: int, nbytes: int) -> memoryview:
        """Bytes of a section; ``ValueError`` for what lies outside."""
        if not 0 <= offset <= offset + nbytes <= self.sections[name].nbytes:
            raise ValueError(f"bytes {offset}+{nbytes} lie outside of {name}")
        return self.views[name][offset : offset + nbytes]


class Checks:
    """Checksums that are compared while other work goes on, by as many threads as there are processors to spare.

    ``pieces``: what each is, its bytes and its SHA-256 in hexadecimal.
    """

    def __init__(self, what: str, pieces: Iterable[tuple[str, memoryview, str]]) -> None:
        self._what = what
        self._todo = sorted(pieces, key=lambda piece: len(piece[1]))  # the largest are taken first
        self._damaged: list[str] = []
        spare = min(available_cpus() - 1, sum(len(data) for _, data, _ in self._todo) >> 21)
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
                name, data, expected = self._todo.pop()
            except IndexError:
                return
            if hashlib.sha256(data).hexdigest() != expected:
                self._damaged.append(name)


def write(
    path: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    sections: Mapping[str, Sequence[Bytes]],
    *,
    unpacked: bool = False,
    pieced: Iterable[str] = (),
) -> None:
    """Writes a file, or with ``unpacked`` a folder, which takes the place of what was there once it is whole.

    A section is given in parts. Those in ``pieced`` get no checksum of their own. Raises ``ArtifactError`` where it cannot be written.
    """
    listed = [_described(name, parts, name not in set(pieced)) for name, parts in sections.items()]
    text = json.dumps({"format": FORMAT, **manifest, "sections": listed}, separators=(",", ":")).encode()
    head = HEADER.pack(MAGIC, FORMAT, hashlib.sha256(text).digest(), len(text)) + text
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp")  # of this call alone
    try:
        if unpacked:
            _write_folder(temporary, target, head, sections)
        else:
            with temporary.open("xb") as file:
                file.write(head)
                for parts in sections.values():
                    file.write(bytes(-file.tell() % PAGE))
                    _write_parts(file, parts)
            temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
        raise ArtifactError(f"cannot write the artifact {str(target)!r}: {error.strerror or error}") from None


def _write_folder(temporary: Path, target: Path, head: bytes, sections: Mapping[str, Sequence[Bytes]]) -> None:
    temporary.mkdir()
    (temporary / MANIFEST).write_bytes(head)
    for name, parts in sections.items():
        with (temporary / name).open("wb") as file:
            _write_parts(file, parts)
    if target.is_dir() and (target / MANIFEST).is_file():  # an artifact gives way; any other folder that is not empty does not
        old = temporary.with_suffix(".old")
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old)
    else:
        temporary.rename(target)


def _write_parts(file: BinaryIO, parts: Iterable[Bytes]) -> None:
    for part in parts:
        file.write(part)


def _described(name: str, parts: Sequence[Bytes], whole: bool) -> dict[str, Any]:
    digest = hashlib.sha256()
    for part in parts if whole else ():
        digest.update(part)
    return {"name": name, "nbytes": sum(map(len, parts)), "sha256": digest.hexdigest() if whole else None}


def _section(item: Mapping[str, Any]) -> Section:
    name, nbytes, sha256 = str(item["name"]), item["nbytes"], item["sha256"]
    if not _NAME.fullmatch(name) or name == MANIFEST or not isinstance(nbytes, int) or nbytes < 0:
        raise ValueError(f"a section {name!r} of {nbytes!r} bytes")
    return Section(name, nbytes, None if sha256 is None else str(sha256))


def _mapped(what: str, path: Path) -> memoryview:
    try:
        unwaiting = getattr(os, "O_NONBLOCK", 0)  # as opening a pipe would
        handle = os.open(path, os.O_RDONLY | unwaiting | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb"):
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError("it is not a regular file")
            return memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ArtifactError(f"cannot read {what}: {error.strerror or error}") from None
    except ValueError:  # an empty file cannot be mapped
        return memoryview(b"")


def _manifest(what: str, data: memoryview) -> tuple[int, dict[str, Any], int]:
    """The format, the manifest, checked, and where it ends."""
    if len(data) < HEADER.size or bytes(data[: len(MAGIC)]) != MAGIC:
        raise ArtifactError(f"{what} is {'not a loopnest artifact' if len(data) else 'empty'}")
    _, number, checksum, nbytes = HEADER.unpack_from(data)
    end = HEADER.size + nbytes
    text = data[HEADER.size : end]
    if len(text) < nbytes:
        raise ArtifactError(f"{what} is truncated: {len(data)} bytes")
    if hashlib.sha256(text).digest() != checksum:
        raise ArtifactError(f"{what} is damaged: its manifest does not match its checksum")
    try:
        manifest = json.loads(bytes(text))
    except ValueError as error:
        raise malformed(what, error) from None
    if number > FORMAT:
        from .. import __version__

        needs = manifest.get("needs", "a newer version") if isinstance(manifest, dict) else "a newer version"
        raise ArtifactError(
            f"{what} has format {number}, which needs loopnest {needs}; this is loopnest {__version__}, which reads formats up to {FORMAT}"
        )
    if not isinstance(manifest, dict) or manifest.get("format") != number:
        raise ArtifactError(f"{what} is damaged: its manifest has another format than its header")
    return number, manifest, end


def malformed(what: str, error: Exception) -> ArtifactError:
    return ArtifactError(f"{what} is damaged: {type(error).__name__}: {error}")
