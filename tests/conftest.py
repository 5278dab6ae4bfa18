"""Settings of the whole test suite."""

from __future__ import annotations

import os

import hypothesis
import pytest

# Whatever a test compiles is verified: the graph after every pass, and every loop nest.
os.environ.setdefault("LOOPNEST_VERIFY", "1")

# The same examples in every run, and no deadline: compiling a kernel takes what it takes on a busy machine.
hypothesis.settings.register_profile("loopnest", deadline=None, derandomize=True)
hypothesis.settings.load_profile("loopnest")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what is generated over what is expected")
