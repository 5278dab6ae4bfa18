"""Plans on disk, for processes that run a model which was planned before: neither onnx nor a compiler nor the model is needed then.

Three kinds of records (``records.py``): the interface of a model, a plan with its small constants, and the driver. Kernels and large
constants are files of their own (``cache.py``, ``arrays.py``), which plans refer to; a plan of which something is gone is as good as gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from ..ir.errors import MALFORMED, VerificationError
from ..ir.frozen import Frozen
from . import driver
from .arrays import MAPPED_BYTES, ArrayCache, bytes_of
from .buffers import aligned, aligned_empty
from .cache import CacheEntry, KernelCache
from .files import CacheFiles, Damaged
from .parallel import in_threads
from .plan_data import Interface, PlanData
from .program import ALIGNMENT, TensorSpec
from .records import CacheKey, Form

_INTERFACE = Form(b"LOOPNEST MODEL 1", "model")
_DRIVER = Form(b"LOOPNEST DRIVER1", "driver")
_PLAN = Form(b"LOOPNEST PLAN  1", "plan", ALIGNMENT)
_UNPACKED = "elements"
"""The first part of the key of a constant that no packing made."""


class KeptInterface(Frozen):
    """What a model takes and gives; ``files`` are the SHA-256 of the files that it refers to, by the names that it calls them by."""

    interface: Interface
    files: Mapping[str, str]


class KeptPlan(Frozen):
    """A plan, its kernels by digest, its constants, and what the user was told when it was made: kinds and texts."""

    data: PlanData
    kernels: Mapping[str, CacheEntry]
    constants: Sequence[np.ndarray]
    notices: Sequence[Sequence[str]] = ()


class PlanCache:
    """Interfaces and plans by key. Safe from many threads and many processes; problems with the disk are one ``CacheWarning`` each kind."""

    def __init__(self, kernels: KernelCache, files: CacheFiles) -> None:
        self.kernels = kernels
        self.files = files

    def may_have_interface(self, nbytes: int) -> bool:
        """Whether there is that of any model of ``nbytes``."""
        return any(name.startswith(f"plans/{nbytes}-") for name in self.files.names("plans"))

    def interface(self, key: CacheKey, nbytes: int) -> KeptInterface | None:
        """The interface stored under ``key``, of a model of ``nbytes``."""
        return self.files.read(_interface_name(key, nbytes), lambda file: _read_interface(key, file))

    def put_interface(self, key: CacheKey, nbytes: int, kept: KeptInterface) -> None:
        self.files.write(_interface_name(key, nbytes), _INTERFACE.encode(key, kept.to_dict(), ()))

    def plan(self, key: CacheKey, arrays: ArrayCache) -> KeptPlan | None:
        """The plan stored under ``key``, its large constants mapped from ``arrays``; None where anything of it is gone."""
        found = self.files.read(_name(key), lambda file: _read_plan(key, file))
        if found is None:
            return None
        data, constants, notices = found
        mapped = [place for place in constants if isinstance(place, tuple)]
        wait = in_threads(lambda place: _mapped(*place, arrays), mapped)
        kernels = {digest: entry for digest in data.program.kernels if (entry := self.kernels.find(digest)) is not None}
        made = dict(zip([array_key for array_key, _ in mapped], wait(), strict=True))
        blobs = [_flat(made[place[0]]) if isinstance(place, tuple) else place for place in constants]
        if len(kernels) < len(data.program.kernels) or any(blob is None for blob in blobs):
            return None
        return KeptPlan(data, kernels, [blob for blob in blobs if blob is not None], notices)

    def put(
        self,
        key: CacheKey,
        data: PlanData,
        constants: Sequence[np.ndarray],
        arrays: ArrayCache,
        notices: Sequence[Sequence[str]] = (),
    ) -> None:
        """Stores a plan, what the user was told of it, and those of its large constants that are not mapped from ``arrays``; nothing where
        they do not find room."""
        places: list[dict[str, Any]] = []
        inline: list[bytes | memoryview] = []
        at = 0
        if not arrays.has_room(sum(b.nbytes for b in constants if b.nbytes >= MAPPED_BYTES and arrays.key_of(b) is None)):
            return
        for blob in constants:
            if blob.nbytes < MAPPED_BYTES:
                places.append({"at": at, "nbytes": blob.nbytes})
                inline += [bytes_of(blob), bytes(aligned(blob.nbytes) - blob.nbytes)]
                at += aligned(blob.nbytes)
                continue
            array_key = arrays.key_of(blob) or _store(blob, arrays)
            if array_key is None:
                return
            places.append({"key": array_key.parts, "nbytes": blob.nbytes})
        self.files.write(
            _name(key), _PLAN.encode(key, {"plan": data.to_dict(), "constants": places, "notices": notices}, inline)
        )

    def bring_driver(self) -> None:
        """Spares this process, or the next one, compiling the driver (``driver.py``), which all plans need. Raises ``LinkError``."""
        wanted = driver.wanted()
        if wanted is None:
            return
        key = CacheKey((("driver", wanted),))
        code = self.files.read(_name(key), lambda file: _read_driver(key, file))
        if code is None:
            _, code = driver.object_code()
            self.files.write(_name(key), _DRIVER.encode(key, {}, [code]))
        driver.bring(wanted, code)

    def stored(self) -> Iterator[CacheKey]:
        """The keys of the valid plans on disk."""
        for name in self.files.names("plans"):
            found = self.files.peek(name, lambda file: _PLAN.decode(file.read()))
            if found is not None:
                yield found.key


def _name(key: CacheKey) -> str:
    return f"plans/{key.digest}.plan"


def _mapped(key: CacheKey, nbytes: int, arrays: ArrayCache) -> np.ndarray | None:
    """A large constant. Of what is not packed, such as a table of embeddings, a call may read little: checking it leaves nothing behind."""
    found = arrays.get(key, nbytes)
    if found is not None and key.parts[0][0] == _UNPACKED:
        arrays.set_aside(found)
    return found


def _interface_name(key: CacheKey, nbytes: int) -> str:
    return f"plans/{nbytes}-{key.digest}.plan"


def _store(blob: np.ndarray, arrays: ArrayCache) -> CacheKey | None:
    """The key of a constant that no packing made, by its content."""
    key = CacheKey(((_UNPACKED, hashlib.sha256(bytes_of(blob)).hexdigest()),))
    found = arrays.get(key, blob.nbytes) if not arrays.patient or arrays.may_have(blob.nbytes) else None
    if found is None:
        found = arrays.put(key, blob)
    if found is None:
        return None
    arrays.set_aside(found)
    return key


def _flat(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.reshape(-1).view(np.uint8)


def _read_interface(key: CacheKey, file: BinaryIO) -> KeptInterface:
    fields = _INTERFACE.decode_for(key, file.read()).fields
    try:
        interface = Interface.from_dict(fields["interface"], _spec)
        return KeptInterface(interface, {str(name): str(digest) for name, digest in fields["files"].items()})
    except MALFORMED as error:
        raise Damaged(f"it is malformed: {error!r}") from None


def _spec(item: Mapping[str, Any]) -> TensorSpec:
    """As ``tensor_spec``, of any input or output, be it a tensor or not."""
    return TensorSpec(str(item["name"]), str(item["dtype"]), None if item["shape"] is None else tuple(item["shape"]))


def _read_driver(key: CacheKey, file: BinaryIO) -> bytes:
    data = file.read()
    return data[_DRIVER.decode_for(key, data).body :]


def _read_plan(
    key: CacheKey, file: BinaryIO
) -> tuple[PlanData, list[np.ndarray | tuple[CacheKey, int]], list[tuple[str, str]]]:
    """A plan, of each constant the bytes, or the key and size of an array, and what is told of it."""
    data = file.read()
    record = _PLAN.decode_for(key, data)
    body, _ = aligned_empty((len(data) - record.body,), np.dtype(np.uint8), len(data) - record.body)
    body[...] = np.frombuffer(data, np.uint8, offset=record.body)
    try:
        plan = PlanData.from_dict(record.fields["plan"])
        constants: list[np.ndarray | tuple[CacheKey, int]] = []
        notices = [(str(kind), str(text)) for kind, text in record.fields["notices"]]
        for item, nbytes in zip(record.fields["constants"], plan.program.constants, strict=True):
            if item["nbytes"] != nbytes or ("at" in item and not 0 <= item["at"] <= body.size - nbytes):
                raise ValueError("a constant has another size")
            inline = "at" in item
            constants.append(body[item["at"] : item["at"] + nbytes] if inline else (CacheKey.of(item["key"]), nbytes))
    except (*MALFORMED, VerificationError) as error:
        raise Damaged(f"it is malformed: {error!r}") from None
    return plan, constants, notices
