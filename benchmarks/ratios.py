"""How much faster than the best peer: the figures that everything else is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]
PEERS = ("onnxruntime", "openvino")


def ratio(record: Record, threads: int) -> float | None:
    """The best peer's median time by ours: above 1 loopnest is faster. None where one of the two is not there."""
    theirs = best_peer(record, threads)
    ours = _engines(record, threads).get("loopnest", {}).get("median_s")
    return theirs / ours if theirs and ours else None


def best_peer(record: Record, threads: int) -> float | None:
    """The best peer's median time, in seconds; None where no peer ran the model."""
    engines = _engines(record, threads)
    return min((engines[peer]["median_s"] for peer in PEERS if "median_s" in engines.get(peer, {})), default=None)


def _engines(record: Record, threads: int) -> Mapping[str, Any]:
    return record.get("threads", {}).get(str(threads), {})


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None
