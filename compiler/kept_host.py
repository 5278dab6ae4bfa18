"""What LLVM says of this machine, in the cache: a process that finds its plan there does not load LLVM to be told what it is for."""

from __future__ import annotations

from dataclasses import asdict
from typing import BinaryIO

from ..codegen.host import Host, host, is_known, tell
from ..runtime.cpus import processor_identity
from ..runtime.files import CacheFiles, Damaged
from ..runtime.records import CacheKey, Form
from ..runtime.versions import version_of

_HOST = Form(b"LOOPNEST HOST  1", "description of a machine")


def bring_host(files: CacheFiles) -> None:
    """Tells ``codegen.host`` what the cache knows of this machine, or the cache what LLVM says; nothing where the system does not say
    which processor this is."""
    identity = None if is_known() else processor_identity()
    if identity is None:
        return
    key = CacheKey((("llvmlite", version_of("llvmlite")), ("processor", identity)))
    name = f"plans/{key.digest}.plan"
    found = files.read(name, lambda file: _read(key, file))
    if found is None:
        files.write(name, _HOST.encode(key, asdict(host()), ()))
    else:
        tell(found)


def _read(key: CacheKey, file: BinaryIO) -> Host:
    fields = _HOST.decode_for(key, file.read()).fields
    if set(fields) != set(asdict(Host("", "", ""))) or not all(isinstance(value, str) for value in fields.values()):
        raise Damaged("it is malformed")
    return Host(**fields)
