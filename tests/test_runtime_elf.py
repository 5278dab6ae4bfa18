"""Object code put into memory without LLVM, on the objects of a kept artifact."""

from __future__ import annotations

import sys
from pathlib import Path
from struct import Struct

import numpy as np
import pytest

import loopnest
from loopnest.runtime import elf, linker
from loopnest.runtime.artifact import Artifact
from loopnest.runtime.buffers import address_of
from loopnest.runtime.loaded import Loaded

PATH = Path(__file__).parent / "fixtures" / "format1.lnest"
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not Artifact.read(PATH).parts[0].isa.is_host_architecture(),
    reason="elsewhere LLVM's linker does it",
)
_ENTRY = Struct("<QQq")


def kernel() -> tuple[bytes, str]:
    """The first that has relocations."""
    artifact = Artifact.read(PATH)
    loaded = Loaded(artifact, artifact.parts[0], 1)
    objects = [loaded.object(key) for key in artifact.parts[0].entry["kernels"]]
    return next(item for item in objects if relocations(elf.Object.read(item[0])))


def relocations(item: elf.Object) -> list[int]:
    """Where those of its code are in the file."""
    return [
        at
        for section in item.sections
        if section.kind == 4 and "text" in item.sections[section.info].text
        for at in range(section.offset, section.offset + section.nbytes, _ENTRY.size)
    ]


def changed(code: bytes, offset: int | None = None, info: int | None = None) -> elf.Object:
    """With another first relocation."""
    at = relocations(elf.Object.read(code))[0]
    old = _ENTRY.unpack_from(code, at)
    copy = bytearray(code)
    _ENTRY.pack_into(copy, at, old[0] if offset is None else offset, old[1] if info is None else info, old[2])
    return elf.Object.read(bytes(copy))


def test_code_is_executable_and_not_writable() -> None:
    placed = elf.place({"k": elf.Object.read(kernel()[0])}, linker.address_of_symbol)
    start = address_of(np.frombuffer(placed.memory, np.uint8))
    rows = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = {tuple(int(end, 16) for end in row[0].split("-")): row[1] for row in rows}
    assert [access for (first, last), access in ranges.items() if first <= start < last] == ["r-xp"]
    assert start <= placed.addresses["k"][kernel()[1]] < start + len(placed.memory)


def test_both_linkers_give_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    ours = loopnest.load(PATH)(x)
    places: list[object] = []

    def never(*arguments: object) -> None:
        places.append(arguments)
        raise elf.NotPlain

    monkeypatch.setattr(linker, "place", never)
    np.testing.assert_array_equal(loopnest.load(PATH)(x), ours)
    assert places


def test_other_relocations_are_left_to_llvm() -> None:
    code, _ = kernel()
    info = _ENTRY.unpack_from(code, relocations(elf.Object.read(code))[0])[1]
    with pytest.raises(elf.NotPlain):
        elf.place({"k": changed(code, info=info & ~0xFFFFFFFF | 2)}, linker.address_of_symbol)


def test_relocations_stay_inside_of_their_section() -> None:
    for offset in (1 << 40, elf.Object.read(kernel()[0]).sections[1].nbytes + (1 << 20)):
        with pytest.raises(ValueError, match="a relocation lies outside of its section"):
            elf.place({"k": changed(kernel()[0], offset=offset)}, linker.address_of_symbol)
    with pytest.raises(IndexError):
        elf.place({"k": changed(kernel()[0], info=1 << 50 | 1)}, linker.address_of_symbol)


def test_every_truncation_is_an_error() -> None:
    code, symbol = kernel()
    for length in range(0, len(code), 97):
        with pytest.raises(linker.LinkError):
            linker.link({"k": (code[:length], symbol)})


def test_symbols_are_found_in_the_process_or_where_it_was_told() -> None:
    assert linker.address_of_symbol("memset")
    assert linker.address_of_symbol("exp")
    assert linker.address_of_symbol("PyTuple_New")
    assert not linker.address_of_symbol("loopnest_no_such_symbol")
    linker.tell_symbol("loopnest_told_by_a_test", 4096)
    assert linker.address_of_symbol("loopnest_told_by_a_test") == 4096
