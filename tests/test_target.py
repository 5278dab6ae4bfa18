"""Targets: the table of instruction sets, resolution by name, and what this machine can run."""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest

from loopnest.codegen import target as targets
from loopnest.codegen.host import Host
from loopnest.ir.errors import TargetError

ADD = "define <16 x float> @f(<16 x float> %a, <16 x float> %b) {{ %r = f{op} <16 x float> %a, %b\n ret <16 x float> %r }}"


@pytest.mark.parametrize(
    ("name", "bits", "registers", "block"),
    [("cpu-avx512", 512, 32, 16), ("cpu-avx2", 256, 16, 8), ("cpu-sse2", 128, 16, 4), ("cpu-neon", 128, 32, 4)],
)
def test_instruction_sets_are_data(name: str, bits: int, registers: int, block: int) -> None:
    target = targets.resolve(name)
    assert (target.vector_bits, target.vector_registers, target.block) == (bits, registers, block)
    assert target.lanes(64) == bits // 64
    assert target.lanes(8) == bits // 8


@pytest.mark.parametrize("isa", [isa.name for isa in targets.ISAS])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_register_tiles_fit_the_register_file(isa: str, dtype: str) -> None:
    target = targets.resolve(f"cpu-{isa}")
    tile = target.register_tile(dtype)
    temporaries = tile.vectors + 1 + (not target.fma)
    assert tile.rows * tile.vectors + temporaries <= target.vector_registers


@pytest.mark.parametrize("name", targets.known_names())
def test_llvm_emits_code_for_every_known_target(name: str) -> None:
    target = targets.resolve(name)
    module = llvm.parse_assembly(ADD.format(op="add"))
    module.triple = target.triple
    assembly = target.machine().emit_assembly(module)
    register = {512: "%zmm", 256: "%ymm", 128: "%xmm"}[target.vector_bits] if target.triple.startswith("x86_64") else "fadd"
    assert register in assembly


def test_named_targets_take_nothing_from_the_host_that_changes_code() -> None:
    assert targets.resolve("cpu-avx2").features == ""
    assert targets.resolve("cpu-avx2").cpu == "x86-64-v3"
    assert str(targets.resolve("cpu-avx2").l2) not in targets.resolve("cpu-avx2").key


def test_the_host_target_is_tuned_for_the_host_and_runs() -> None:
    target = targets.resolve("cpu")
    assert target.cpu == llvm.get_host_cpu_name()
    assert target.runs_here
    target.require_runnable()


def test_unknown_target_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'cpu-avx51', did you mean 'cpu-avx512'\?.*cpu-avx2.*cpu-generic"):
        targets.resolve("cpu-avx51")


def test_target_of_another_architecture_resolves_but_does_not_run() -> None:
    foreign = next(isa for isa in targets.ISAS if isa.arch != targets.host_isa().arch)
    target = targets.resolve(f"cpu-{foreign.name}")
    assert not target.runs_here
    with pytest.raises(TargetError, match=f"lacks the {foreign.arch} architecture; it can run cpu,"):
        target.require_runnable()


def test_missing_features_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    features = ",".join(f"{'-' if feature == 'fma' else '+'}{feature}" for feature in sorted(targets.ISAS[1].requires))
    monkeypatch.setattr(targets, "host", lambda: Host("x86_64-unknown-linux-gnu", "some-cpu", features))
    targets._resolve.cache_clear()
    try:
        assert targets.resolve("cpu-avx2").missing == ("fma",)
        assert targets.host_isa().name == "sse2"
    finally:
        targets._resolve.cache_clear()


def test_narrower_vectors() -> None:
    avx512 = targets.resolve("cpu-avx512")
    narrow = avx512.with_vector_bits(256)
    assert (narrow.block, narrow.vector_registers) == (8, 32)
    assert narrow.key != avx512.key
    assert avx512.with_vector_bits(None) is avx512
    with pytest.raises(TargetError, match="256-bit vectors; vector_bits = 512 is wider"):
        targets.resolve("cpu-avx2").with_vector_bits(512)


def test_cache_sizes(tmp_path) -> None:
    for name, level, kind, size in [
        ("index0", 1, "Data", "48K"),
        ("index1", 1, "Instruction", "16K"),
        ("index3", 3, "Unified", "2M"),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "level").write_text(f"{level}\n")
        (tmp_path / name / "type").write_text(f"{kind}\n")
        (tmp_path / name / "size").write_text(f"{size}\n")
    assert targets.cache_sizes(str(tmp_path)) == (48 << 10, targets.DEFAULT_CACHES[1], 2 << 20)
    assert targets.cache_sizes(str(tmp_path / "absent")) == targets.DEFAULT_CACHES
