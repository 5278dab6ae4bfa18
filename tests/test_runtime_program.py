"""Programs as data: text, JSON, verification."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopnest.ir.errors import VerificationError
from loopnest.runtime.program import BufferSpec, Program, Step, TensorSpec, verify
from tests.runtime_programs import chain

PROGRAM = chain(3).replace(
    buffers=(*chain(3).buffers, BufferSpec("constant", 0, 64, 64), BufferSpec("scratch", 0, 0, 32)),
    constants=(128,),
    scratch_nbytes=32,
)


def test_survives_json() -> None:
    verify(PROGRAM)
    assert Program.from_dict(json.loads(json.dumps(PROGRAM.to_dict()))) == PROGRAM


def test_text_says_everything() -> None:
    text = PROGRAM.as_text()
    for part in ("x: int64[8]", "arena 128 B", "%4 = constant 0 [64, 128)", "Reverse reverse(%0, %3; 8) parallel  # reverse_0"):
        assert part in text, text


def test_table_has_one_line_per_step_and_a_total() -> None:
    lines = PROGRAM.as_table().splitlines()
    assert len(lines) == 2 + 3 + 1
    assert lines[0].split() == ["step", "op", "kernel", "layout", "MFLOP", "MB", "nodes"]
    assert lines[-1].split()[0] == "total"


def with_step(**changes: Any) -> Program:
    return PROGRAM.replace(steps=(PROGRAM.steps[0].replace(**changes), *PROGRAM.steps[1:]))


def with_buffer(**changes: Any) -> Program:
    return PROGRAM.replace(buffers=(*PROGRAM.buffers[:-2], PROGRAM.buffers[-2].replace(**changes), PROGRAM.buffers[-1]))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (with_step(kernel=""), "step 0 (reverse_0): names no kernel"),
        (with_step(buffers=((9, 0),)), "there is no buffer %9+0"),
        (with_step(buffers=((-1, 0),)), "there is no buffer %-1+0"),
        (with_step(buffers=((0, 65),)), "offset 65 lies outside buffer %0 of 64 bytes"),
        (with_step(extents=(1.5,)), "not an integer"),
        (with_step(parallel="yes"), "a field has the wrong type"),
        (with_buffer(index=1), "there is no constant 1"),
        (with_buffer(offset=65), "bytes 65+64 lie outside constant 0 of 128 bytes"),
        (with_buffer(kind="heap"), "unknown kind 'heap'"),
        (with_buffer(kind="arena", offset=128), "lie outside arena 0 of 128 bytes"),
        (with_buffer(kind="input", index=1), "there is no input 1"),
        (with_buffer(offset=-1), "not a natural number"),
        (PROGRAM.replace(arena_nbytes=-1), "a size of memory"),
        (PROGRAM.replace(inputs=(TensorSpec("x", "int64", ("N",)),)), "the shape of x: int64[N] is not static"),
        (PROGRAM.replace(inputs=(TensorSpec("x", "int64", (-8,)),)), "negative extent"),
        (PROGRAM.replace(outputs=(TensorSpec("", "int64", (8,)),)), "has no name"),
    ],
)
def test_defects_are_found(program: Program, message: str) -> None:
    with pytest.raises(VerificationError) as error:
        verify(program)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "damage", [{"steps": 3}, {"inputs": [{"name": "x"}]}, {"buffers": [{"kind": "arena", "size": 1}]}, {"constants": None}]
)
def test_malformed_data_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(VerificationError, match="not a program"):
        Program.from_dict({**PROGRAM.to_dict(), **damage})


def test_kernels_are_listed_once() -> None:
    assert PROGRAM.replace(steps=(*PROGRAM.steps, Step("other", ()))).kernels == ("reverse", "other")


def test_tensor_spec_prints_what_is_known() -> None:
    assert str(TensorSpec("x", "float32", ("batch", None, 3))) == "x: float32[batch, ?, 3]"
    assert str(TensorSpec("x", "float32", None)) == "x: float32[...]"
    assert TensorSpec("x", "bfloat16", (2, 3)).nbytes == 12
