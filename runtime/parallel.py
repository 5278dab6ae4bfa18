"""Work that needs no GIL, such as hashing, done by a few threads; ``concurrent.futures`` takes longer to import than some of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], count: int = 2) -> Callable[[], list[Result]]:
    """Starts ``work`` on all items in up to ``count`` threads; what it gives waits for the results, or raises what ``work`` raised."""
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    left = iter(range(len(items)))

    def run() -> None:
        try:
            for at in left:
                results[at] = work(items[at])
        except BaseException as error:
            errors.append(error)

    threads: list[threading.Thread] = []
    for _ in range(min(count, len(items))):
        thread = threading.Thread(target=run)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or there are too many
            run()
            break
        threads.append(thread)

    def wait() -> list[Result]:
        for thread in threads:
            thread.join()
        for error in errors:
            raise error
        return [results[at] for at in range(len(items))]

    return wait
