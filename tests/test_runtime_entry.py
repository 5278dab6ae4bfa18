"""Entries: what they take, what they decline, and that nothing leaks."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from loopnest.ir.errors import KernelError
from loopnest.runtime import entry, executor
from loopnest.runtime.driver import driver
from loopnest.runtime.entry import Argument
from loopnest.runtime.executor import Executable
from loopnest.runtime.program import Program, Step
from tests.runtime_programs import chain, chained, executable, vector, whole

INT64 = np.dtype(np.int64)


def test_this_interpreter_has_entries() -> None:
    assert entry.supported()
    assert driver().enter


@pytest.mark.parametrize("threads", [1, 2])
def test_takes_arrays_that_fit(threads: int) -> None:
    f = executable(chain(3), threads)
    f.run([np.arange(8)])  # starts the team
    bare, whole_ = (f.entry([Argument(INT64, (8,), 0)], bare=bare) for bare in (True, False))
    np.testing.assert_array_equal(bare(np.arange(8)), chained(np.arange(8), 3))
    np.testing.assert_array_equal(whole_(np.arange(8))[0], chained(np.arange(8), 3))


def test_declines_everything_else() -> None:
    f = executable(chain(1)).entry([Argument(INT64, (8,), 0)], bare=True)
    unaligned = np.zeros(65, np.uint8)[1:].view(np.int64)
    wrong = [
        [],
        [np.arange(8), np.arange(8)],
        [np.arange(7)],
        [np.arange(8).reshape(1, 8)],
        [np.arange(8.0)],
        [np.arange(16)[::2]],
        [unaligned],
        [np.arange(8).view(np.matrix)],
        [np.arange(8).astype(">i8")],
        [list(range(8))],
        [None],
    ]
    assert [f(*arguments) for arguments in wrong] == [None] * len(wrong)
    with pytest.raises(TypeError):
        f(x=np.arange(8))


def test_values_and_arguments_that_are_not_read() -> None:
    value = np.array([3, 4])
    arguments = [Argument(INT64, (2,), -1, value.tobytes()), Argument(INT64, (8,), 0), Argument(INT64, (), -1)]
    f = executable(chain(1)).entry(arguments, bare=True)
    x = np.arange(8)
    np.testing.assert_array_equal(f(np.array([3, 4]), x, np.array(5)), chained(x, 1))
    assert f(np.array([3, 5]), x, np.array(5)) is None
    assert f(np.array([3, 4]), x, np.array(5.0)) is None


def test_an_empty_value_is_not_read() -> None:
    f = executable(chain(1)).entry([Argument(INT64, (0,), -1, b""), Argument(INT64, (8,), 0)], bare=True)
    np.testing.assert_array_equal(f(np.array([5, 6])[:0], np.arange(8)), chained(np.arange(8), 1))


def test_outputs_of_a_page_start_on_a_cache_line() -> None:
    f = executable(chain(1, n=513))
    outputs = [f.run([np.arange(513)])[0] for _ in range(20)]
    assert all(array.ctypes.data % 64 == 0 and array.flags.carray for array in outputs)


def failing() -> Executable:
    step = Step("check", ((0, 0),), (8,), name="gather_1", errors=("index {value} is negative",))
    return executable(Program((vector("x", 8),), (vector("y", 8),), (whole("input", 8), whole("output", 8)), (step,)))


def test_nothing_leaks() -> None:
    f, g = executable(chain(2)).entry([Argument(INT64, (8,), 0)], bare=True), failing()
    x, bad = np.arange(8), np.full(8, -1)
    before = [sys.getrefcount(item) for item in (x, bad, INT64)]
    for _ in range(1000):
        assert sys.getrefcount(f(x)) == 1 + (sys.version_info < (3, 14))
        f(x[::2])
        with pytest.raises(KernelError, match="gather_1: index -1 is negative"):
            g.run([bad])
    after = [sys.getrefcount(item) for item in (x, bad, INT64)]
    assert all(abs(b - a) < 20 for a, b in zip(before, after, strict=True))
    assert len(g._workspaces.free) == 1


def test_everything_goes_the_long_way_where_there_are_no_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    without = driver().replace(enter=0, rerun=0)
    monkeypatch.setattr(executor, "driver", lambda: without)
    f = executable(chain(3), 2)
    x, y = np.arange(8), np.zeros(8, np.int64)
    assert f.entry([Argument(INT64, (8,), 0)], bare=True)(x) is None
    np.testing.assert_array_equal(f.run([x])[0], chained(x, 3))
    f.bind([x], [y])()
    np.testing.assert_array_equal(y, chained(x, 3))
