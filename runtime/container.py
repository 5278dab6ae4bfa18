"""What an artifact is kept in: a manifest and named sections of bytes, as one file or as the files of a folder.

    header    magic, format number, SHA-256 and size of the manifest
    manifest  JSON; ``sections`` lists their names, sizes and SHA-256 in order
    sections  each on a page, so that processes share the pages that they map

In a folder, header and manifest are the file ``manifest``, and each section is the file of its name. The manifest is checked when it is
read; sections when somebody asks (``checksums.py``), before they use them. ``container_writing.py`` writes it. See ``docs/artifact.md``.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
from collections.abc import Mapping
from struct import Struct
from typing import Any

from ..ir.errors import MALFORMED, ArtifactError
from ..ir.frozen import Frozen
from .checksums import sha256

FORMAT = 3
"""Of the files that are written; files of formats up to this one are read. 1: ``format1``; 2: no program computes image after image."""

MAGIC = b"LOOPNEST MDL"
HEADER = Struct("<12sI32sQ")  # magic, format, SHA-256 of the manifest, its bytes
PAGE = 4096
MANIFEST = "manifest"
"""The file of a folder that has the header and the manifest."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")


class Section(Frozen):
    """``sha256`` None: of which the manifest has the checksums piece by piece."""

    name: str
    nbytes: int
    sha256: str | None


class Container(Frozen):
    """One that was read, its manifest checked and the sections mapped. ``number`` is its format, ``what`` names it in messages."""

    what: str
    number: int
    manifest: Mapping[str, Any]
    sections: Mapping[str, Section]
    views: dict[str, memoryview]

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Container:
        """Raises ``ArtifactError`` for what is missing, damaged, truncated or of a newer format.

        A folder that is replaced meanwhile is read again.
        """
        source = os.fspath(path)
        while True:
            before = _identity(source)
            try:
                found = Container._read(source)
            except ArtifactError:
                if before == _identity(source):
                    raise
            else:
                if before == _identity(source):
                    return found

    @staticmethod
    def _read(source: str) -> Container:
        what = f"the artifact {source!r}"
        folder = os.path.isdir(source)
        head = _mapped(what, os.path.join(source, MANIFEST) if folder else source)
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
            start, data = (0, _mapped(what, os.path.join(source, name))) if folder else (end + -end % PAGE, head)
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


def _section(item: Mapping[str, Any]) -> Section:
    name, nbytes, sha256 = str(item["name"]), item["nbytes"], item["sha256"]
    if not _NAME.fullmatch(name) or name == MANIFEST or not isinstance(nbytes, int) or nbytes < 0:
        raise ValueError(f"a section {name!r} of {nbytes!r} bytes")
    return Section(name, nbytes, None if sha256 is None else str(sha256))


def _identity(path: str) -> tuple[int, ...] | None:
    """What tells a folder from the one that takes its place; None for what is none, which is one file and needs no telling."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_ctime_ns) if stat.S_ISDIR(status.st_mode) else None


def _mapped(what: str, path: str) -> memoryview:
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
    if sha256(text) != checksum.hex():
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
