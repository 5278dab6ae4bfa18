"""Python's collector of cycles, out of the way while many objects are made at once: it would read all of them again and again, and find
nothing to free before the last is there."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager

_lock = threading.Lock()
_blocks = 0
_enabled = False


@contextmanager
def paused() -> Generator[None]:
    """No collection in the block; it may be nested, and entered by several threads. Who has it switched off finds it off afterwards."""
    global _blocks, _enabled
    with _lock:
        if not _blocks:
            _enabled = gc.isenabled()
            gc.disable()
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks and _enabled:
                gc.enable()
