"""A process that does for another one what takes LLVM and Numba long: text comes in, text or object code goes out.

The two are this package, started from one another, and the pipe is theirs alone. A message is a number of parts, each with its length
before it. What cannot be done ends the process: whoever asked does it again itself, and finds out why.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from struct import Struct
from typing import BinaryIO

_LENGTH = Struct("<Q")
READY = b"loopnest"
"""The message that says that the process has started."""


def send(stream: BinaryIO, *parts: bytes) -> None:
    """Raises ``OSError`` when nobody reads the pipe any more."""
    lengths = [_LENGTH.pack(len(part)) for part in parts]
    stream.write(b"".join([_LENGTH.pack(len(parts)), *lengths, *parts]))
    stream.flush()


def receive(stream: BinaryIO) -> list[bytes]:
    """The parts of the next message. Raises ``EOFError`` when the other end is closed."""
    (count,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    lengths = [length for (length,) in _LENGTH.iter_unpack(_read(stream, count * _LENGTH.size))]
    return [_read(stream, length) for length in lengths]


def _read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


EARLY = (1, 2, 3)
"""What most models ask for: as many loops over tasks, which a process compiles that has been started before there is anything to do."""


PATIENCE = 30.0
"""Seconds for which such a process waits for the first message: shapes may be missing, and come with the first call or never."""


def main(*, early: bool = False) -> None:
    """Answers the messages on standard input until it is closed; ``early``: they will be some time coming."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints does not go to the parent
    send(sink, READY)
    waiting = threading.Timer(PATIENCE, os._exit, (0,))
    if early:
        waiting.daemon = True
        waiting.start()
        from .outer import compile_loops

        for rank in EARLY:
            compile_loops(rank)
    while True:
        try:
            message = receive(source)
        except EOFError:
            return
        waiting.cancel()
        send(sink, answer(message))


def answer(message: Sequence[bytes]) -> bytes:
    """``loops``, rank: the LLVM IR of so many loops over tasks. ``object``, entry, triple, cpu, features, texts...: the object code
    of a module."""
    kind, *arguments = (part.decode() for part in message)
    if kind == "loops":
        from .outer import compile_loops

        return compile_loops(int(arguments[0])).encode()
    from .objects import Machine, object_code

    entry, triple, cpu, features, *texts = arguments
    return object_code(texts, entry, Machine(triple, cpu, features))
