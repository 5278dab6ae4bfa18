"""How much faster than the best peer: the figures that everything else is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.worker import PEERS

Record = Mapping[str, Any]


def ratio(record: Record, threads: int) -> float | None:
    """The best peer's median time by ours: above 1 loopnest is faster. None where one of the two is not there."""
    engines = record.get("threads", {}).get(str(threads), {})
    peers = [engines[peer]["median_s"] for peer in PEERS if "median_s" in engines.get(peer, {})]
    ours = engines.get("loopnest", {}).get("median_s")
    return min(peers) / ours if peers and ours else None


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None
