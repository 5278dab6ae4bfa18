"""Writing an artifact: a file or a folder takes the place of what was there once it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from ..ir.errors import ArtifactError
from .container import FORMAT, HEADER, MAGIC, MANIFEST, PAGE

Bytes: TypeAlias = "bytes | memoryview"


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
