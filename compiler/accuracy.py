"""How far two sets of results are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def difference(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The largest difference of two lists of arrays, as a share of the largest magnitude of each; inf where they do not compare."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return float("inf")
        if a.dtype.kind not in "fiubV" or not a.size:
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if not same.all():
            gap, scale = np.abs(a - b)[~same].max(), np.abs(b[np.isfinite(b)]).max(initial=0.0)
            worst = max(worst, float("inf") if not np.isfinite(gap) else float(gap / (scale or 1.0)))
    return worst
