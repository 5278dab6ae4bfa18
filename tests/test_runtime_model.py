"""Input binding and the compiled model, with planners in NumPy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from loopnest.ir.errors import InputError
from loopnest.runtime.entry import Argument, decline
from loopnest.runtime.inputs import InputBinder
from loopnest.runtime.model import CompiledModel
from loopnest.runtime.profile import Profile, StepTime
from loopnest.runtime.program import TensorSpec

X = TensorSpec("x", "float32", ("N", 3))
MASK = TensorSpec("mask", "bool", None)
RATE = TensorSpec("sr", "int64", ())


class Array:
    """A foreign array type."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class WithArray(Array):
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


class WithDlpack(Array):
    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class Refusing(Array):
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("it requires grad")


def test_binds_by_position_and_by_name() -> None:
    bind = InputBinder((X, MASK, RATE)).bind
    x, mask, rate = np.zeros((2, 3), np.float32), np.ones((1, 1), bool), np.array(16000)
    for _ in range(2):  # the second time on the fast path
        for args, named in (
            ((x, mask, rate), {}),
            ((x,), {"sr": rate, "mask": mask}),
            ((), {"sr": rate, "mask": mask, "x": x}),
        ):
            bound = bind(args, named)
            assert [a is b for a, b in zip(bound, (x, mask, rate), strict=True)] == [True] * 3


@pytest.mark.parametrize("wrap", [WithArray, WithDlpack, lambda a: a.view(np.matrix), memoryview])
def test_takes_foreign_arrays_without_copying(wrap: Callable[[np.ndarray], object]) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (bound,) = InputBinder((X,)).bind((wrap(x),), {})
    assert type(bound) is np.ndarray
    assert np.shares_memory(bound, x)


def test_takes_python_numbers_of_the_exact_dtype() -> None:
    (bound,) = InputBinder((RATE,)).bind((16000,), {})
    assert bound == 16000
    with pytest.raises(InputError, match=r"input 'sr' has dtype float64, expected int64 \(sr: int64\[\]\)"):
        InputBinder((RATE,)).bind((16000.0,), {})


@pytest.mark.parametrize(
    ("args", "named", "message"),
    [
        ((np.zeros((2, 3)),), {}, "input 'x' has dtype float64, expected float32 (x: float32[N, 3])"),
        ((np.zeros((2, 3), ml_dtypes.bfloat16),), {}, "input 'x' has dtype bfloat16, expected float32"),
        ((np.zeros((2, 3), "M8[s]"),), {}, "input 'x' has dtype datetime64[s], expected float32"),
        ((np.zeros((2, 3), ">f4"),), {}, "input 'x' has dtype >f4 in foreign byte order, expected native float32"),
        ((np.zeros(3, np.float32),), {}, "input 'x' has rank 1 (shape (3,)), expected 2 (x: float32[N, 3])"),
        ((np.zeros((2, 4), np.float32),), {}, "input 'x' has extent 4 in dim 1 (shape (2, 4)), expected 3"),
        ((object(),), {}, "input 'x' has dtype string, expected float32"),
        (([[1.0], [1.0, 2.0]],), {}, "input 'x': expected an array (x: float32[N, 3]), got list"),
        ((Refusing(np.zeros(3)),), {}, "it requires grad"),
        ((), {}, "missing input: x: float32[N, 3]"),
        ((), {"y": 1}, "the model has no input 'y'; its inputs are x: float32[N, 3]"),
        ((1, 2), {}, "2 inputs given, expected 1: x: float32[N, 3]"),
        ((1,), {"x": 2}, "input 'x' is given twice: by position 0 and by name"),
    ],
)
def test_wrong_inputs_are_named(args: tuple[object, ...], named: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        InputBinder((X,)).bind(args, named)
    assert message in str(error.value)


def test_near_names_are_suggested_and_all_missing_ones_listed() -> None:
    binder = InputBinder((X, MASK, RATE))
    with pytest.raises(InputError, match="no input 'maks' \\(did you mean 'mask'\\?\\)"):
        binder.bind((), {"maks": 1})
    with pytest.raises(InputError, match=r"missing inputs: x: float32\[N, 3\], sr: int64\[\]"):
        binder.bind((), {"mask": 1})


@pytest.mark.parametrize(
    "name", ["float16", "bfloat16", "float8e4m3fn", "float8e5m2fnuz", "int4", "uint2", "float4e2m1", "complex64"]
)
def test_every_dtype_is_known(name: str) -> None:
    spec = TensorSpec("x", name, (2,))
    x = np.zeros(2, spec.numpy)
    binder = InputBinder((spec,))
    assert binder.bind((x,), {})[0] is x
    with pytest.raises(InputError, match=f"dtype uint8, expected {name}"):
        binder.bind((np.zeros(2, np.uint8),), {})


def test_strings_become_objects() -> None:
    (bound,) = InputBinder((TensorSpec("s", "string", (2,)),)).bind((np.array(["a", "bc"]),), {})
    assert bound.dtype == object
    assert bound.tolist() == ["a", "bc"]


class Doubling:
    """A runner: the double and the triple of its first input."""

    def __init__(self, number: int) -> None:
        self.number = number

    def run(self, inputs: Sequence[np.ndarray], /) -> list[np.ndarray]:
        return [2 * inputs[0], 3 * inputs[0]]

    def entry(self, arguments: Sequence[Argument], /, *, bare: bool) -> Callable[..., Any]:
        return decline

    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        return (None, None)

    def bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], /) -> Callable[[], None]:
        def run() -> None:
            for array, result in zip(outputs, self.run(inputs), strict=True):
                array[...] = result

        return run

    def trim(self) -> int:
        return 10

    def profile(self, inputs: Sequence[np.ndarray], repeat: int, /) -> Profile:
        return Profile((StepTime("n", "Mul", "k", float(repeat)),), 1.0)

    def as_text(self) -> str:
        return f"plan {self.number}"


class Planner:
    def __init__(self) -> None:
        self.calls: list[tuple[np.ndarray, ...]] = []

    def __call__(self, inputs: tuple[np.ndarray, ...]) -> Doubling:
        time.sleep(0.005)
        self.calls.append(inputs)
        return Doubling(len(self.calls))


OUTPUTS = (TensorSpec("twice", "float32", ("N", 3)), TensorSpec("thrice", "float32", ("N", 3)))


def rows(n: int) -> np.ndarray:
    return np.ones((n, 3), np.float32)


def test_one_plan_for_each_set_of_shapes() -> None:
    planner = Planner()
    f = CompiledModel((X,), OUTPUTS, planner)
    for n in (1, 2, 1, 2, 1):
        twice, thrice = f(rows(n))
        assert twice.shape == (n, 3)
        assert thrice[0, 0] == 3
    assert len(planner.calls) == len(f.plans) == 2


def test_values_of_value_inputs_are_part_of_the_key() -> None:
    planner = Planner()
    f = CompiledModel((X, RATE), OUTPUTS, planner, (1,))
    for rate in (8000, 16000, 8000):
        f(rows(1), np.array(rate))
    assert len(planner.calls) == 2
    f(2 * rows(1), sr=np.array(8000))
    assert len(planner.calls) == 2


def test_many_threads_plan_once() -> None:
    planner = Planner()
    f = CompiledModel((X,), OUTPUTS, planner)
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        f(rows(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(planner.calls) == 1


def test_no_call_waits_for_the_plan_of_another() -> None:
    planning, finish = threading.Event(), threading.Event()

    def planner(inputs: tuple[np.ndarray, ...]) -> Doubling:
        if len(inputs[0]) == 3:
            planning.set()
            assert finish.wait(30)
        return Doubling(len(inputs[0]))

    f = CompiledModel((X,), OUTPUTS, planner)
    f(rows(1)), f(rows(2))
    slow = threading.Thread(target=f, args=(rows(3),))
    slow.start()
    assert planning.wait(30)
    for n in (1, 2, 1):
        assert f(rows(n))[0].shape == (n, 3)
    assert len(f.plans) == 2
    finish.set()
    slow.join(30)
    assert len(f.plans) == 3


def test_plans_used_least_recently_go() -> None:
    planner = Planner()
    f = CompiledModel((X,), OUTPUTS, planner, max_plans=2)
    for n in (1, 2, 1, 3, 1):
        f(rows(n))
    assert [p.number for p in f.plans if isinstance(p, Doubling)] == [3, 1]
    f(rows(2))
    assert len(planner.calls) == 4


def test_a_planner_that_fails_is_asked_again() -> None:
    attempts: list[int] = []

    def planner(inputs: tuple[np.ndarray, ...]) -> Doubling:
        attempts.append(1)
        if len(attempts) == 1:
            raise MemoryError("not now")
        return Doubling(0)

    f = CompiledModel((X,), OUTPUTS, planner)
    with pytest.raises(MemoryError):
        f(rows(1))
    assert f(rows(1))[0][0, 0] == 2


def test_run_takes_names_and_feeds() -> None:
    f = CompiledModel((X,), OUTPUTS, Planner())
    thrice, twice = f.run(["thrice", "twice"], {"x": rows(1)})
    assert (thrice[0, 0], twice[0, 0]) == (3, 2)
    assert len(f.run(None, {"x": rows(1)})) == 2
    with pytest.raises(InputError, match=r"no output 'once'; its outputs are twice: float32\[N, 3\], thrice"):
        f.run(["once"], {"x": rows(1)})


def test_one_output_is_returned_bare() -> None:
    class One(Doubling):
        def run(self, inputs: Sequence[np.ndarray], /) -> list[np.ndarray]:
            return super().run(inputs)[:1]

    f = CompiledModel((X,), OUTPUTS[:1], lambda inputs: One(0))
    assert isinstance(f(x=rows(2)), np.ndarray)


def test_an_input_may_be_called_self() -> None:
    f = CompiledModel((TensorSpec("self", "float32", None),), OUTPUTS, Planner())
    assert f(self=rows(1))[0][0, 0] == 2


def test_text_shows_interface_and_latest_plan() -> None:
    f = CompiledModel((X,), OUTPUTS, Planner(), name="net")
    assert str(f).splitlines() == [
        "net(x: float32[N, 3]) -> (twice: float32[N, 3], thrice: float32[N, 3])",
        "no plan yet: one is made at the first call",
    ]
    f(rows(1))
    assert str(f).endswith("plan 1")
    f.prepare(rows(2))
    assert str(f).endswith("plan 2")
    f(rows(1))
    assert str(f).endswith("plan 1")


def test_trim_asks_every_plan() -> None:
    f = CompiledModel((X,), OUTPUTS, Planner())
    f(rows(1)), f(rows(2))
    assert f.trim() == 20


def test_profile_passes_through() -> None:
    f = CompiledModel((X,), OUTPUTS, Planner())
    assert f.profile(rows(1), repeat=7).steps[0].ms == 7


def test_profiles_join() -> None:
    a = Profile((StepTime("a", "Conv", "k1", 2.0, 4_000_000, 1_000_000),), 2.0, 2)
    b = Profile((StepTime("b", "Relu", "k2", 1.0),), 1.0)
    joined = Profile.join((a, b))
    assert [step.name for step in joined.steps] == ["a", "b"]
    assert (joined.total_ms, joined.workers) == (3.0, 2)
    assert joined.steps[0].gflops == pytest.approx(2.0)
    assert joined.steps[0].gbps == pytest.approx(0.5)
    assert Profile.join(()).steps == ()
    assert "66.7" in joined.as_text()
