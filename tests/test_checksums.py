"""Checksums: XXH64 of the driver next to its specification, SHA-256 of the interpreter next to OpenSSL's, and who compares what."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from onnx.helper import make_node

import loopnest
from loopnest.codegen.target import host_isa
from loopnest.ir.errors import ArtifactError
from loopnest.runtime import checksums, container
from loopnest.runtime.artifact import Artifact
from loopnest.runtime.checksums import sha256, xxh64
from tests.faults import python
from tests.graphs import make_model, values

MASK = (1 << 64) - 1
PRIMES = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def rotated(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & MASK


def specified(data: bytes) -> int:
    """XXH64 with seed 0, step by step as in the xxHash specification."""
    p1, p2, p3, p4, p5 = PRIMES

    def round_(acc: int, lane: int) -> int:
        return rotated((acc + lane * p2) & MASK, 31) * p1 & MASK

    def word(at: int, nbytes: int = 8) -> int:
        return int.from_bytes(data[at : at + nbytes], "little")

    n, at, acc = len(data), 0, p5
    if n >= 32:
        lanes = [(p1 + p2) & MASK, p2, 0, -p1 & MASK]
        for at in range(0, n - n % 32, 32):
            lanes = [round_(lane, word(at + 8 * k)) for k, lane in enumerate(lanes)]
        at = n - n % 32
        acc = sum(rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for lane in lanes:
            acc = ((acc ^ round_(0, lane)) * p1 + p4) & MASK
    acc = (acc + n) & MASK
    while at + 8 <= n:
        acc = (rotated(acc ^ round_(0, word(at)), 27) * p1 + p4) & MASK
        at += 8
    if at + 4 <= n:
        acc = (rotated(acc ^ (word(at, 4) * p1 & MASK), 23) * p2 + p3) & MASK
        at += 4
    for byte in data[at:]:
        acc = rotated(acc ^ (byte * p5 & MASK), 11) * p1 & MASK
    for by, prime in ((33, p2), (29, p3), (32, 1)):
        acc = (acc ^ acc >> by) * prime & MASK
    return acc


def test_xxh64_is_the_published_one() -> None:
    assert (xxh64(b""), xxh64(b"abc")) == ("ef46db3751d8e999", "44bc2cf5ad770999")


@pytest.mark.parametrize("n", [*range(1, 80), 127, 128, 1000, 4097])
def test_xxh64_of_any_size_at_any_address(n: int) -> None:
    data = random.Random(n).randbytes(n + 7)
    for start in (0, 1, 7):
        piece = memoryview(data)[start : start + n]
        assert xxh64(piece) == f"{specified(bytes(piece)):016x}"


def test_xxh64_tells_every_flipped_bit_and_every_exchange_of_words() -> None:
    data = random.Random(0).randbytes(203)
    found = {xxh64(data)}
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        found.add(xxh64(bytes(changed)))
    for at in range(8, 200, 8):
        changed = bytearray(data)
        changed[:8], changed[at : at + 8] = data[at : at + 8], data[:8]
        found.add(xxh64(bytes(changed)))
    found |= {xxh64(data[:n]) for n in range(len(data))}
    assert len(found) == 1 + 8 * 203 + 24 + 203


@pytest.mark.parametrize("n", [0, 1, 63, 1000, (1 << 20) - 1, 1 << 20])
def test_sha256_is_that_of_hashlib(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(n).randbytes(n)
    assert sha256(data) == hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(checksums, "_OWN", ("no_such_module", "json"))
    assert sha256(data) == hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checksums") / "m.lnest"
    model = make_model([make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 30]}, ["y"], {"w": values(30, 40)})
    f = loopnest.compile(model, target=f"cpu-{host_isa().name}")
    f.prepare(values(2, 30))
    f.save(path)
    return path


@pytest.mark.parametrize("kept", [("sha256", "xxh64"), ("sha256",)])
def test_weights_are_compared_with_what_the_artifact_has(artifact: Path, tmp_path: Path, kept: tuple[str, ...]) -> None:
    """Artifacts of earlier versions have SHA-256 alone."""
    data = artifact.read_bytes()
    _, number, _, nbytes = container.HEADER.unpack_from(data)
    manifest = json.loads(data[container.HEADER.size : container.HEADER.size + nbytes])
    manifest["blobs"] = [
        {key: value for key, value in blob.items() if key in ("offset", "nbytes", *kept)} for blob in manifest["blobs"]
    ]
    text = json.dumps(manifest).encode()
    head = container.HEADER.pack(container.MAGIC, number, hashlib.sha256(text).digest(), len(text)) + text
    end = container.HEADER.size + nbytes
    sound = head + bytes(-len(head) % container.PAGE) + data[end + -end % container.PAGE :]
    path = tmp_path / "m.lnest"
    path.write_bytes(sound)
    (piece, *_) = Artifact.read(path)._weights(Artifact.read(path).parts, fast=True)
    assert piece.fast == ("xxh64" in kept)
    loopnest.load(path)
    path.write_bytes(sound.replace(bytes(piece.data[:50]), bytes(piece.data[:49]) + b"?"))
    with pytest.raises(ArtifactError, match="blob 0 of its weights does not match its checksum"):
        loopnest.load(path)
    loopnest.load(path, verify=False)
    with pytest.raises(ArtifactError, match="blob 0 of its weights does not match its checksum"):
        Artifact.read(path).verify()


LOADED = """
import sys
import numpy as np
before = set(sys.modules)
import loopnest
f = loopnest.load(sys.argv[1])
f(np.ones((2, 30), np.float32))
print(*sorted(set(sys.modules) - before))
"""


def test_loading_brings_no_module_that_it_has_no_use_for(artifact: Path) -> None:
    brought = set(python(LOADED, artifact).stdout.split())
    assert "loopnest.runtime.loaded" in brought
    needless = {"_hashlib", "secrets", "random", "difflib", "shutil", "llvmlite", "concurrent.futures", "importlib.metadata"}
    ours = {"contents", "container_writing", "records", "files", "profile", "artifact_text", "cache"}
    assert not brought & (needless | {f"loopnest.runtime.{name}" for name in ours})
