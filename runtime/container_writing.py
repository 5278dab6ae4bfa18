"""Writing an artifact: a file or a folder takes the place of what was there once it is whole."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from ..ir.errors import ArtifactError
from .container import FORMAT, HEADER, MAGIC, MANIFEST, PAGE

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Bytes: TypeAlias = "bytes | memoryview"

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux."""


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
    try:
        _remove_left(target)
        with _temporary(target, folder=unpacked) as (temporary, file):
            if file is None:
                _write_folder(temporary, head, sections)
                _replace_folder(temporary, target)
            else:
                _write_file(file, head, sections)
                temporary.replace(target)
    except OSError as error:
        raise ArtifactError(f"cannot write the artifact {str(target)!r}: {error.strerror or error}") from None


@contextlib.contextmanager
def _temporary(target: Path, *, folder: bool) -> Generator[tuple[Path, BinaryIO | None]]:
    """A file, open, or a folder (None), beside ``target``, locked and of this call alone; gone afterwards, if it is still there."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        with contextlib.ExitStack() as held:
            file = None
            if not folder:
                file = held.enter_context(path.open("xb"))
                _lock(file.fileno())
            else:
                path.mkdir()
                if fcntl is not None:
                    handle = os.open(path, os.O_RDONLY)
                    held.callback(os.close, handle)
                    _lock(handle)
            if os.path.lexists(path):  # nobody took it for left before it was locked
                try:
                    yield path, file
                finally:
                    _remove(path)
                return


def _lock(handle: int) -> None:
    """Waits for a lock that ends with this process; nothing where there are none."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def _remove_left(target: Path) -> None:
    """Removes what calls for the same target left whose processes have ended: those that are still at it hold locks."""
    if fcntl is None:
        return
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        if not _TEMPORARY.fullmatch(path.name.removeprefix(f".{target.name}")):
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            held.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _write_file(file: BinaryIO, head: bytes, sections: Mapping[str, Sequence[Bytes]]) -> None:
    file.write(head)
    for parts in sections.values():
        file.write(bytes(-file.tell() % PAGE))
        _write_parts(file, parts)
    file.flush()
    if fcntl is None:  # an open file cannot be renamed there
        file.close()


def _write_folder(path: Path, head: bytes, sections: Mapping[str, Sequence[Bytes]]) -> None:
    (path / MANIFEST).write_bytes(head)
    for name, parts in sections.items():
        with (path / name).open("wb") as file:
            _write_parts(file, parts)


def _replace_folder(new: Path, target: Path) -> None:
    """Puts a folder into the place of ``target``: an artifact gives way; any other folder that is not empty does not. In one step where the
    system exchanges names (Linux); elsewhere there is nothing under the name for a moment."""
    if not (target / MANIFEST).is_file():
        new.rename(target)
    elif not _exchange(new, target):
        old = new.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        target.rename(old)
        new.rename(target)
        _remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step (renameat2(2)); False where that cannot be done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return rename is not None and rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _write_parts(file: BinaryIO, parts: Iterable[Bytes]) -> None:
    for part in parts:
        file.write(part)


def _described(name: str, parts: Sequence[Bytes], whole: bool) -> dict[str, Any]:
    digest = hashlib.sha256()
    for part in parts if whole else ():
        digest.update(part)
    return {"name": name, "nbytes": sum(map(len, parts)), "sha256": digest.hexdigest() if whole else None}
