"""The arena planner: no two live tensors share bytes, whatever the lifetimes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopnest.ir.errors import VerificationError
from loopnest.runtime.memory import Lifetime, plan_arena, verify_arena


def lifetime(nbytes: int, first: int, length: int) -> Lifetime:
    return Lifetime(nbytes, first, first + length)


lifetimes_strategy = st.lists(st.builds(lifetime, st.integers(0, 5000), st.integers(0, 40), st.integers(0, 15)), max_size=60)


def peak(lifetimes: list[Lifetime], alignment: int) -> int:
    """Bytes alive at once in the worst step: no plan can do with less."""
    last = max((life.last_step for life in lifetimes), default=0)
    sizes = [(-(-life.nbytes // alignment) * alignment, life) for life in lifetimes]
    return max(sum(size for size, life in sizes if life.first_step <= step <= life.last_step) for step in range(last + 1))


@settings(max_examples=200, deadline=None)
@given(lifetimes_strategy, st.sampled_from([1, 64, 4096]))
def test_plans_are_valid_and_bounded(lifetimes: list[Lifetime], alignment: int) -> None:
    offsets, total = plan_arena(lifetimes, alignment)
    verify_arena(lifetimes, offsets, total, alignment)
    assert peak(lifetimes, alignment) <= total <= sum(-(-life.nbytes // alignment) * alignment for life in lifetimes)


def test_a_chain_needs_two_tensors() -> None:
    lifetimes = [Lifetime(1024, step, step + 1) for step in range(50)]
    assert plan_arena(lifetimes)[1] == 2048


def test_the_smallest_gap_is_taken() -> None:
    lifetimes = [
        Lifetime(1000, 0, 9),
        Lifetime(800, 0, 1),  # leaves a gap of 832 from step 2 on
        Lifetime(700, 0, 9),
        Lifetime(320, 0, 1),  # leaves a gap of 320 from step 2 on
        Lifetime(310, 0, 9),
        Lifetime(300, 2, 9),
    ]
    offsets, total = plan_arena(lifetimes)
    verify_arena(lifetimes, offsets, total)
    assert offsets[5] == offsets[3]


def test_nothing_needs_nothing() -> None:
    assert plan_arena([]) == ([], 0)
    assert plan_arena([Lifetime(0, 0, 5)]) == ([0], 0)


@pytest.mark.parametrize(("offsets", "total"), [([0, 0], 128), ([0, 32], 128), ([0, 64], 100), ([0, -64], 128)])
def test_the_verifier_finds_defects(offsets: list[int], total: int) -> None:
    with pytest.raises(VerificationError):
        verify_arena([Lifetime(64, 0, 2), Lifetime(64, 2, 3)], offsets, total)
