"""The pause of Python's collector: it ends with the outermost block, and leaves what the user chose."""

from __future__ import annotations

import gc

import pytest

from loopnest.codegen.collector import paused


@pytest.fixture(autouse=True)
def enabled() -> None:
    gc.enable()


def test_the_outermost_block_ends_it() -> None:
    with paused():
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_ends_it() -> None:
    with pytest.raises(ValueError, match="broken"), paused():
        raise ValueError("broken")
    assert gc.isenabled()


def test_who_has_it_switched_off_finds_it_off() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
