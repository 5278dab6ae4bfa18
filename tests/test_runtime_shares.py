"""How steps are shared: what the cost model says, and that any mixture of crews, sleeping workers and callers computes the same."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from loopnest.runtime.program import Program, Step
from loopnest.runtime.shares import PIECE_US, PIECES, SHARE_US, WAKE_US, cost_us, pieces_of, shares
from tests.runtime_programs import chain, chained, executable, vector, whole


def step(us: float, parallel: bool = True, barrier: bool = True) -> Step:
    return Step("k", (), parallel=parallel, barrier=barrier, bytes=int(us * 20_000))


def test_costs_are_of_arithmetic_and_traffic() -> None:
    assert cost_us(Step("k", (), flops=100_000)) == 2
    assert cost_us(Step("k", (), flops=100_000, bytes=40_000)) == 4
    assert cost_us(Step("k", ())) == float("inf")


@pytest.mark.parametrize(
    ("us", "threads", "crew"), [(0.1, 8, 1), (4.9, 8, 1), (5.1, 8, 2), (5.1, 1, 1), (13, 8, 5), (1000, 8, 8), (1000, 2, 2)]
)
def test_a_step_gets_the_workers_that_it_is_worth(us: float, threads: int, crew: int) -> None:
    assert shares([step(us)], threads)[0].crew == crew
    assert shares([step(us, parallel=False)], threads)[0].crew == 1
    assert crew <= max(1, us / SHARE_US)


def test_runs_of_steps_with_one_crew() -> None:
    found = shares([step(15), step(15), step(15, parallel=False), step(0.1), step(5.1), step(15, barrier=False)], 4)
    assert [share.crew for share in found] == [4, 4, 1, 1, 2, 4]
    assert [share.end for share in found] == [2, 2, 4, 4, 5, 6]
    assert [share.meet for share in found] == [True] * 6


def test_workers_need_not_meet_inside_a_run() -> None:
    assert [share.meet for share in shares([step(9, barrier=False)] * 3, 2)] == [False, False, True]


def test_only_what_is_long_waits_for_sleepers_and_only_what_is_left_wakes_them() -> None:
    found = shares([step(0.6 * WAKE_US), step(2 * WAKE_US), step(0.6 * WAKE_US), step(0.6 * WAKE_US)], 2)
    assert [share.wait for share in found] == [False, True, False, False]
    assert [share.wake for share in found] == [True, True, True, False]


@pytest.mark.parametrize(
    ("us", "crew", "pieces"), [(10, 1, 1), (1e9, 1, 1), (9.9, 2, 1), (21, 2, 2), (1e9, 2, PIECES), (35, 3, 2)]
)
def test_parts_are_cut_into_pieces_that_are_long_enough(us: float, crew: int, pieces: int) -> None:
    assert pieces_of(us, crew) == pieces
    assert pieces == 1 or us / crew / pieces >= PIECE_US
    assert pieces_of(float("inf"), crew) == (PIECES if crew > 1 else 1)


def test_steps_after_which_nobody_meets_have_no_pieces() -> None:
    assert [share.pieces for share in shares([step(100, barrier=False), step(100)], 2)] == [1, 10]


def test_who_is_done_takes_pieces_of_others() -> None:
    """The first piece waits until a piece of the same row has been done by someone else."""
    program = Program((), (vector("y", 4),), (whole("output", 4),), (Step("patient", ((0, 0),), (3,), parallel=True),))
    f = executable(program, 2)
    for _ in range(20):
        assert f.run([], [np.zeros(4, np.int64)])[0][:3].tolist() == [1, 1, 0]


def crews(costs: list[int], threads: int) -> Program:
    """Steps of given traffic, each of which writes the size of its crew, times the pieces of each of its parts."""
    n, each = len(costs), threads * PIECES
    steps = tuple(Step("crew", ((0, 8 * i * each),), parallel=True, bytes=cost) for i, cost in enumerate(costs))
    return Program((), (vector("y", n * each),), (whole("output", n * each),), steps)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_crews_are_no_larger_than_they_are_worth(threads: int) -> None:
    small, large = 105_000, 10_000_000  # two workers; all, and worth waiting for
    f = executable(crews([small, large, small, large, 100], threads), threads)
    for _ in range(20):
        f.run([])
        rows = f.run([], [np.zeros(5 * threads * PIECES, np.int64)])[0].reshape(5, threads * PIECES)
        assert all(row.max() <= 2 for row in rows[[0, 2]])
        assert (rows[[1, 3]] == threads * PIECES).all()
        assert rows[4, 0] == 1


def test_short_steps_do_not_wait_for_sleepers() -> None:
    f = executable(crews([120_000], 2), 2)
    f.run([])
    time.sleep(0.05)  # far longer than a worker spins
    for _ in range(50):
        assert f.run([])[0][0] == 1


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_crews_computes_the_same(threads: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    program = chain(60, n=33)
    costs = [int(cost) for cost in 10 ** random.uniform(3, 7, 60)]
    parallel = random.random(60) < 0.7
    steps = (step.replace(bytes=cost, parallel=bool(p)) for step, cost, p in zip(program.steps, costs, parallel, strict=True))
    f = executable(program.replace(steps=tuple(steps)), threads)
    wrong: list[int] = []

    def work(number: int) -> None:
        for i in range(100):
            x = np.arange(33) * (number + i)
            if not np.array_equal(f.run([x])[0], chained(x, 60)):
                wrong.append(i)
            if i % 10 == 0:
                time.sleep(0.0005 * number)

    callers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert not wrong
    assert not any(caller.is_alive() for caller in callers)


def test_meeting_is_fast() -> None:
    """The barrier of two workers takes under 2 microseconds, when both have a processor of their own for a moment."""
    f, steps = executable(chain(201, n=0), 2), 200
    x, best = np.zeros(0, np.int64), float("inf")
    deadline = time.monotonic() + 60
    while best > 2e-6 and time.monotonic() < deadline:
        start = time.perf_counter()
        f.run([x])
        best = min(best, (time.perf_counter() - start) / steps)
    assert best < 2e-6
