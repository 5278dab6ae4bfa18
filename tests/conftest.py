"""Settings of the whole test suite."""

from __future__ import annotations

import hypothesis
import pytest

# The same examples in every run, and no deadline: compiling a kernel takes what it takes on a busy machine.
hypothesis.settings.register_profile("loopnest", deadline=None, derandomize=True)
hypothesis.settings.load_profile("loopnest")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what is generated over what is expected")
