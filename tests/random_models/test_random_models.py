"""Random models compute what ONNX Runtime computes. A failure is shown by `python -m tests.random_models SEED SEED --show`."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import pytest

from . import judging_calls, judging_damage, judging_guards, judging_operators, judging_twists
from .children import judged
from .damage import DAMAGES
from .guards import guarded
from .hostile import CASES
from .judging import grow, problems
from .twists import TWISTS


@pytest.mark.parametrize("seed", range(12))
def test_random_model(seed: int) -> None:
    assert problems(seed, 1 + seed % 2) == []


def test_a_seed_is_always_the_same_model() -> None:
    assert grow(3).model() == grow(3).model()


def test_models_are_of_many_operators() -> None:
    operators = {node.op_type for seed in range(40) for node in grow(seed).nodes}
    assert len(operators) > 60


@pytest.mark.parametrize("seed", range(8))
def test_twisted_model(seed: int) -> None:
    """Other interfaces, branches and loops, calls with other shapes."""
    assert judging_twists.problems(seed) == []


@pytest.mark.parametrize("seed", range(25))
def test_hostile_arrays(seed: int) -> None:
    assert judging_operators.problems(seed) == []


@pytest.mark.parametrize("seed", range(100, 115))
def test_odd_and_wrong_arrays(seed: int) -> None:
    assert judging_calls.problems(seed) == []


@pytest.mark.parametrize("seed", range(15))
def test_nothing_beyond_arrays_is_touched(seed: int) -> None:
    assert judging_guards.problems(seed) == []


@pytest.mark.parametrize("seed", range(40))
def test_damaged_model(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPNEST_VERIFY", raising=False)  # as a user has it
    assert judging_damage.problems(seed) == []


@pytest.mark.parametrize("registered", [CASES, TWISTS, DAMAGES])
def test_a_name_stands_for_one_thing(registered: list[object]) -> None:
    assert len({item.__name__ for item in registered}) == len({id(item) for item in registered})  # type: ignore[attr-defined]


def _judge(seed: int) -> list[str]:
    match seed:
        case 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 2:
            time.sleep(60)
        case 3:
            raise KeyError("nothing")
        case 4:
            ctypes.memset(guarded(100, at_end=True).ctypes.data, 0, 101)
        case _:
            pass
    return ["a problem"] if seed == 5 else []


def test_what_kills_a_process_is_a_finding() -> None:
    found = dict(judged(_judge, 0, 6, seconds=3))
    assert list(found) == [1, 2, 3, 4, 5]
    assert "SIGSEGV" in found[1]
    assert "no result after 3 s" in found[2]
    assert "KeyError: 'nothing'" in found[3]
    assert "SIGSEGV" in found[4]
