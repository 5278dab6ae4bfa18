"""Comparing two calls in time: in turns, as a ratio of pairs, until the answer is clear beyond noise or nothing is left to gain."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

BATCH = 0.003
"""Seconds that one side of a pair takes at least: calls are repeated."""
LEAST, MOST = 5, 25
"""Pairs."""
WORTH = 0.01
"""Gains below this are not looked for any longer."""
_QUANTILES = {2: 9.92, 3: 5.84, 4: 4.60, 5: 4.03, 6: 3.71, 7: 3.50, 8: 3.36, 9: 3.25, 10: 3.17, 12: 3.05, 15: 2.95, 20: 2.85}
"""Student's t for 99.5 % on one side, by degrees of freedom: many candidates are tried, so few may win by chance."""


@dataclass(frozen=True)
class Comparison:
    """``ratio``: time of the candidate by that of the incumbent, the middle of all pairs; ``low`` and ``high`` bound it beyond noise.
    ``milliseconds`` are the candidate's."""

    ratio: float
    low: float
    high: float
    milliseconds: float
    pairs: int

    @property
    def better(self) -> bool:
        return self.high < 1.0


def compare(
    incumbent: Callable[[], object],
    candidate: Callable[[], object],
    clock: Callable[[], float] = time.process_time,
    seconds: float = 1.0,
) -> Comparison:
    """Times both in turns, for about ``seconds`` at most. It ends as soon as the candidate is clearly faster, or clearly not by more than
    ``WORTH``."""

    def timed(call: Callable[[], object], times: int) -> float:
        start = clock()
        for _ in range(times):
            call()
        return max(clock() - start, 1e-9)

    times = max(1, math.ceil(BATCH / max(timed(incumbent, 2) / 2, 1e-7)))
    timed(candidate, max(1, times // 4))
    ratios, taken = list[float](), list[float]()
    stop = time.perf_counter() + seconds
    while True:
        first, second = (incumbent, candidate) if len(ratios) % 2 == 0 else (candidate, incumbent)
        a, b = timed(first, times), timed(second, times)
        old, new = (a, b) if first is incumbent else (b, a)
        ratios.append(math.log(new / old))
        taken.append(new / times)
        low, high = bounds(ratios)
        hopeless = len(ratios) >= 2 and min(ratios) > math.log(1.1)
        decided = len(ratios) >= LEAST and (high < -WORTH / 2 or low > -WORTH)
        if hopeless or decided or len(ratios) >= MOST or (len(ratios) >= LEAST and time.perf_counter() > stop):
            return Comparison(math.exp(median(ratios)), math.exp(low), math.exp(high), median(taken) * 1e3, len(ratios))


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Where the mean of ``values`` lies, by Student's t with the smallest and the largest value drawn in to their neighbours (Yuen, 1974):
    somebody else's work on the machine is an outlier."""
    ordered = sorted(values)
    count = len(ordered)
    if count < 3:
        return -math.inf, math.inf
    if count >= 5:
        ordered[0], ordered[-1] = ordered[1], ordered[-2]
    mean = sum(ordered) / count
    deviation = math.sqrt(sum((v - mean) ** 2 for v in ordered) / (count - 1))
    freedom = count - 1 if count < 5 else count - 3
    quantile = next((q for known, q in sorted(_QUANTILES.items(), reverse=True) if known <= freedom), _QUANTILES[2])
    half = quantile * deviation / math.sqrt(count)
    return mean - half, mean + half
