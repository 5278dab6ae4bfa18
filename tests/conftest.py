"""Settings of the whole test suite."""

from __future__ import annotations

import hypothesis

# The same examples in every run, and no deadline: compiling a kernel takes what it takes on a busy machine.
hypothesis.settings.register_profile("loopnest", deadline=None, derandomize=True)
hypothesis.settings.load_profile("loopnest")
