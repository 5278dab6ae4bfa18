"""Executables: results, errors, concurrency, fork, overheads that must not exist."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from loopnest.ir.errors import InputError, KernelError
from loopnest.runtime.buffers import RECYCLED, Workspaces, address_of, aligned_empty
from loopnest.runtime.executor import Executable
from loopnest.runtime.program import Program, Step
from loopnest.runtime.shares import pieces_of
from tests.runtime_programs import chain, chained, executable, vector, whole

THREADS = (1, 2, 3)


def shares_of(threads: int) -> int:
    """How many shares a step of unknown cost has."""
    return threads * pieces_of(float("inf"), threads)


def checking(n: int, parallel: bool = True) -> Program:
    errors = ("index {value} is negative", "index {value} is out of range [0, 1000]")
    steps = (
        Step("check", ((0, 0),), (n,), parallel, name="gather_1", op="Gather", errors=errors),
        Step("scale", ((0, 0), (1, 0)), (n, 2), parallel, name="mul_2", op="Mul"),
    )
    return Program((vector("x", n),), (vector("y", n),), (whole("input", n), whole("output", n)), steps)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_results(threads: int, steps: int) -> None:
    f = executable(chain(steps, n=37), threads)
    x = np.arange(37)
    for _ in range(3):
        np.testing.assert_array_equal(f.run([x])[0], chained(x, steps))


def test_constants_and_offsets_are_where_the_program_says() -> None:
    blobs = (np.arange(6).view(np.uint8), np.arange(100, 110).view(np.uint8))
    buffers = (whole("constant", 4, index=1, offset=16), whole("constant", 4, index=0, offset=16), whole("output", 8))
    steps = (Step("scale", ((0, 8), (2, 0)), (3, 1)), Step("scale", ((1, 0), (2, 32)), (4, 10)))
    program = Program((), (vector("y", 8),), buffers, steps, constants=(48, 80))
    result = executable(program, constants=blobs).run([])[0]
    assert result[:3].tolist() == [103, 104, 105]
    assert result[4:].tolist() == [20, 30, 40, 50]


def test_constants_of_the_wrong_size_are_refused() -> None:
    program = Program((), (), (), (), constants=(48,))
    with pytest.raises(ValueError, match="40 bytes, the program expects 48"):
        executable(program, constants=(np.zeros(40, np.uint8),))


def test_program_without_steps_returns_outputs() -> None:
    program = Program((vector("x", 0),), (vector("y", 0),), (), ())
    assert executable(program, 2).run([np.zeros(0, np.int64)])[0].shape == (0,)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("threads", THREADS)
def test_only_parallel_steps_are_shared(threads: int, parallel: bool) -> None:
    n = shares_of(3)
    everywhere = Step("scale", ((0, 0), (1, 0)), (n, 1), parallel=True)
    program = Program(
        (vector("x", n),),
        (vector("y", n),),
        (whole("input", n), whole("output", n)),
        (everywhere, Step("crew", ((1, 0),), parallel=parallel)),
    )
    result = executable(program, threads).run([np.zeros(n, np.int64)])[0]
    expected = [shares_of(threads)] * shares_of(threads) if parallel else [1]
    assert result.tolist() == expected + [0] * (n - len(expected))


@pytest.mark.parametrize("threads", THREADS)
def test_each_worker_has_its_own_scratch(threads: int) -> None:
    n = shares_of(threads)
    program = Program(
        (),
        (vector("y", n),),
        (whole("output", n), whole("scratch", 100)),
        (Step("own_scratch", ((0, 0), (1, 0)), (100,), parallel=True),),
        scratch_nbytes=800,
    )
    assert executable(program, threads).run([])[0].tolist() == list(range(1, n + 1))


def test_workers_that_need_not_meet() -> None:
    program = chain(2, n=8)
    independent = (
        Step("scale", ((0, 0), (2, 0)), (8, 3), parallel=True, barrier=False),
        Step("scale", ((0, 0), (3, 0)), (8, 5), parallel=True),
        Step("reverse", ((3, 0), (1, 0)), (8,), parallel=True, barrier=False),
    )
    f = executable(program.replace(steps=independent), 2)
    assert f.run([np.arange(8)])[0].tolist() == [5 * i + 1 for i in range(8)][::-1]


@pytest.mark.parametrize("threads", THREADS)
def test_error_names_the_node_and_the_value(threads: int) -> None:
    f = executable(checking(30), threads)
    x = np.arange(30)
    x[29] = -7
    with pytest.raises(KernelError, match=r"^gather_1: index -7 is negative$"):
        f.run([x])
    x[3] = 4000
    for _ in range(50):  # of several errors, the same one is reported each time
        with pytest.raises(KernelError, match=r"^gather_1: index 4000 is out of range \[0, 1000\]$"):
            f.run([x])
    np.testing.assert_array_equal(f.run([np.arange(30)])[0], 2 * np.arange(30))


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("seed", range(5))
def test_the_first_of_many_errors_is_reported(threads: int, seed: int) -> None:
    n = 3000
    f, random = executable(checking(n), threads), np.random.default_rng(seed)
    for _ in range(50):
        x = np.arange(n) % 1000
        wrong = random.choice(n, random.integers(1, 20), replace=False)
        x[wrong] = -1 - wrong
        with pytest.raises(KernelError, match=f"index {-1 - wrong.min()} is negative"):
            f.run([x])


@pytest.mark.parametrize("threads", THREADS)
def test_steps_after_an_error_are_skipped(threads: int) -> None:
    f = executable(checking(30), threads)
    y = np.full(30, 99)
    with pytest.raises(KernelError):
        f.run([np.full(30, -1)], [y])
    assert (y == 99).all()


def test_code_without_a_message_is_still_an_error() -> None:
    program = checking(3)
    program = program.replace(steps=(program.steps[0].replace(errors=()), program.steps[1]))
    with pytest.raises(KernelError, match="gather_1: kernel check stopped with code 1"):
        executable(program).run([np.full(3, -1)])


def test_inputs_with_other_strides_or_alignment_are_copied() -> None:
    f = executable(chain(1, n=6))
    base = np.arange(12)
    unaligned = np.zeros(49, np.uint8)[1:].view(np.int64)
    unaligned[:] = np.arange(6)
    for x in (base[::2], base[::-2], np.broadcast_to(np.int64(3), (6,)), unaligned, base[:6]):
        np.testing.assert_array_equal(f.run([x])[0], chained(x, 1))


def test_readonly_inputs_are_taken_as_they_are() -> None:
    x = np.arange(8)
    x.flags.writeable = False
    np.testing.assert_array_equal(executable(chain(1)).run([x])[0], chained(x, 1))


def test_an_input_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"input 'x' has 56 bytes, expected 64 \(x: int64\[8\]\)"):
        executable(chain(1)).run([np.arange(7)])


def test_outputs_are_fresh() -> None:
    f = executable(chain(2))
    first = f.run([np.zeros(8, np.int64)])[0]
    second = f.run([np.ones(8, np.int64)])[0]
    assert first.tolist() == [2] * 8
    assert second.tolist() == [3] * 8
    assert all(array.flags.carray for array in (first, second))


def test_outputs_of_the_caller_are_written() -> None:
    f = executable(chain(2))
    y = np.empty(8, np.int64)
    assert f.run([np.zeros(8, np.int64)], [y])[0] is y
    assert y.tolist() == [2] * 8
    for wrong in (np.empty(8, np.int32), np.empty(7, np.int64), np.empty(16, np.int64)[::2]):
        with pytest.raises(InputError, match="output array for 'y' must be a writable C-contiguous y: int64"):
            f.run([np.zeros(8, np.int64)], [wrong])


def test_address_of_agrees_with_numpy() -> None:
    for array in (np.zeros(()), np.zeros((3, 4))[1:, ::2], np.zeros(0), np.arange(5)[::-1], np.zeros(3, "U4")):
        assert address_of(array) == array.__array_interface__["data"][0]
    array, address = aligned_empty((2, 3), np.dtype(np.float32), 24)
    assert array.ctypes.data == address
    assert address % 64 == 0


def test_programs_share_workspaces() -> None:
    shared = Workspaces()
    small, large = chain(3, n=8), chain(3, n=4000)
    addresses = executable(small).__dict__["_keep"].addresses
    programs = [Executable(program, addresses, workspaces=shared) for program in (small, large, small)]
    for f, n in zip(programs, (8, 4000, 8), strict=True):
        np.testing.assert_array_equal(f.run([np.arange(n)])[0], chained(np.arange(n), 3))
    assert len(shared.free) == 1


def test_large_outputs_are_recycled_once_nobody_holds_them() -> None:
    n = RECYCLED
    f, x = executable(chain(2, n=n)), np.arange(n)
    first, second = f.run([x])[0], f.run([x])[0]
    address = address_of(first)
    del first
    assert address_of(f.run([x])[0]) == address
    view = second[3:].reshape(-1, 1)
    del second
    later = [f.run([x + i])[0] for i in range(5)]
    np.testing.assert_array_equal(view[:, 0], chained(x, 2)[3:])
    for i, y in enumerate(later):
        np.testing.assert_array_equal(y, chained(x + i, 2))


@pytest.mark.parametrize(("held", "blocks"), [(0, 1), (1, 2), (2, 2)])
def test_as_many_blocks_are_kept_as_the_caller_makes_use_of(held: int, blocks: int) -> None:
    f, x = executable(chain(2, n=RECYCLED)), np.arange(RECYCLED)
    results: list[np.ndarray] = []
    for _ in range(6):
        results = [*results, f.run([x])[0]][-held:] if held else [f.run([x])[0]][:0]
    assert len(f._workspaces.outputs._handed_out) == blocks


def test_recycled_outputs_of_programs_of_other_sizes() -> None:
    shared = Workspaces()
    sizes = (RECYCLED, 3 * RECYCLED, RECYCLED, 2 * RECYCLED)
    programs = [chain(2, n=n) for n in sizes]
    addresses = executable(programs[0]).__dict__["_keep"].addresses
    runs = [Executable(program, addresses, workspaces=shared) for program in programs]
    held = [(f.run([np.arange(n) * i])[0], n, i) for i in range(3) for f, n in zip(runs, sizes, strict=True)]
    for y, n, i in held:
        np.testing.assert_array_equal(y, chained(np.arange(n) * i, 2))
    assert len(shared.outputs._handed_out) <= 2


@pytest.mark.parametrize("threads", THREADS)
def test_many_threads_at_once_with_recycled_outputs(threads: int) -> None:
    f = executable(chain(2, n=RECYCLED // 8), threads)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.arange(RECYCLED // 8) * seed
        expected = chained(x, 2)
        held: list[np.ndarray] = []
        for i in range(60):
            held = [*held[-(i % 3) :], f.run([x])[0]] if i % 3 else [f.run([x])[0]]
            if not all(np.array_equal(y, expected) for y in held):
                wrong.append(seed)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not wrong


def test_memory_is_given_back() -> None:
    n = 2 * RECYCLED
    f = executable(chain(3, n=n))
    x = np.arange(n)
    kept = f.run([x])[0]
    f.run([x])  # in a second block
    assert f.trim() >= 8 * n * 3  # the arena and two outputs
    assert f.trim() == 0
    np.testing.assert_array_equal(f.run([x + 1])[0], chained(x + 1, 3))
    np.testing.assert_array_equal(kept, chained(x, 3))


@pytest.mark.parametrize("threads", THREADS)
def test_many_threads_at_once(threads: int) -> None:
    f = executable(chain(20, n=64), threads)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.arange(64) * seed
        for _ in range(200):
            if not np.array_equal(f.run([x])[0], chained(x, 20)):
                wrong.append(seed)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not wrong
    assert not any(caller.is_alive() for caller in callers)


@pytest.mark.parametrize(("threads", "steps"), [(2, 100_000), (5, 10_000)])
def test_barrier_holds_over_many_steps(threads: int, steps: int) -> None:
    x = np.arange(8)
    np.testing.assert_array_equal(executable(chain(steps), threads).run([x])[0], chained(x, steps))


def test_workers_wake_from_sleep() -> None:
    f = executable(chain(4), 2)
    x = np.arange(8)
    for _ in range(20):
        time.sleep(0.002)
        np.testing.assert_array_equal(f.run([x])[0], chained(x, 4))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_gets_its_own_workers() -> None:
    f = executable(chain(50), 2)
    x = np.arange(8)
    f.run([x])
    child = os.fork()
    if child == 0:
        right = all(np.array_equal(f.run([x])[0], chained(x, 50)) for _ in range(10))
        names = {thread.name for thread in threading.enumerate()}
        os._exit(0 if right and "loopnest-worker-1" in names else 1)
    deadline = time.monotonic() + 30
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(f.run([x])[0], chained(x, 50))


@pytest.mark.parametrize("threads", [1, 2])
def test_profile_has_every_step(threads: int) -> None:
    program = chain(3, n=1000)
    program = program.replace(steps=tuple(step.replace(flops=1000, bytes=160_000) for step in program.steps))
    profile = executable(program, threads).profile([np.arange(1000)], repeat=5)
    assert [step.name for step in profile.steps] == ["reverse_0", "reverse_1", "reverse_2"]
    assert all(step.ms > 0 and step.gflops > 0 and step.gbps > 0 for step in profile.steps)
    assert profile.total_ms >= 0.5 * sum(step.ms for step in profile.steps)
    assert profile.workers == threads
    text = profile.as_text()
    assert "reverse_1" in text and "GFLOP/s" in text and "total" in text


def test_cost_of_a_step_is_native() -> None:
    """A step of nothing costs tens of nanoseconds: Python does nothing per step."""
    x = np.zeros(0, np.int64)

    def best(f: Executable) -> float:
        times: list[float] = []
        for _ in range(300):
            start = time.perf_counter()
            f.run([x])
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(executable(chain(1000, n=0))) < 1000 * 200e-9
