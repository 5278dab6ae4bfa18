"""Settings of the whole test suite."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Whatever a test compiles is verified: the graph after every pass, and every loop nest.
os.environ.setdefault("LOOPNEST_VERIFY", "1")

# The same examples in every run, and no deadline: compiling a kernel takes what it takes on a busy machine.
hypothesis.settings.register_profile("loopnest", deadline=None, derandomize=True)
hypothesis.settings.load_profile("loopnest")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what is generated over what is expected")


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Any]:
    """``loopnest.compile`` as a new process would, with a cache of this test."""
    import loopnest
    from loopnest.runtime.cache import open_cache

    def compile_anew(model: Any, **options: Any) -> loopnest.CompiledModel:
        open_cache.cache_clear()
        config = {"cache_dir": str(tmp_path / "cache"), **options.pop("config", {})}
        return loopnest.compile(model, config=config, threads=1, **options)

    return compile_anew


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were read."""
    from loopnest.compiler import build

    read: list[Any] = []

    def counting(model: Any, *rest: Any) -> Any:
        read.append(model)
        return original(model, *rest)

    original = build.read
    monkeypatch.setattr(build, "read", counting)
    return read
