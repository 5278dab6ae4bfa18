"""The ratios of a run as a drawing: one dot a model and number of threads, on a logarithmic axis, family after family. SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.ratios import ratio

COLORS = ("#1f6fb4", "#d9731a", "#3a8f3a", "#8c4fa8")
_LEFT, _WIDTH, _ROW, _TOP = 190, 620, 17, 46
_TICKS = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)


def svg(records: Sequence[Mapping[str, Any]]) -> str:
    """The drawing; models without any ratio have no row."""
    threads = sorted({int(count) for record in records for count in record.get("threads", {})})
    rows = [(record, found) for record in records if (found := {t: r for t in threads if (r := ratio(record, t))})]
    values = [value for _, found in rows for value in found.values()]
    low, high = math.log(min([0.8, *values]) * 0.95), math.log(max([1.25, *values]) * 1.05)
    height = _TOP + _ROW * len(rows) + 12

    def across(value: float) -> float:
        return _LEFT + _WIDTH * (math.log(value) - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{_LEFT + _WIDTH + 20}" height="{height}" fill="white"/>',
        *(line for tick in _TICKS if low <= math.log(tick) <= high for line in _tick(across(tick), tick, height)),
        *_legend(threads),
    ]
    family = None
    for index, (record, found) in enumerate(rows):
        y = _TOP + _ROW * index + _ROW / 2
        if record["family"] != family:
            family = record["family"]
            parts.append(f'<line x1="0" x2="{_LEFT + _WIDTH}" y1="{y - _ROW / 2}" y2="{y - _ROW / 2}" stroke="#ddd"/>')
            parts.append(f'<text x="4" y="{y + 4}" fill="#888">{escape(family)}</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(record["name"])}</text>')
        for count, value in found.items():
            color = COLORS[threads.index(count) % len(COLORS)]
            title = f"{record['name']}, {count} thread{'s' if count > 1 else ''}: {value:.2f}"
            parts.append(
                f'<circle cx="{across(value):.1f}" cy="{y}" r="4" fill="{color}"><title>{escape(title)}</title></circle>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _tick(x: float, value: float, height: int) -> Iterator[str]:
    stroke = "#333" if value == 1 else "#ddd"
    yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{height - 8}" stroke="{stroke}"/>'
    yield f'<text x="{x:.1f}" y="{_TOP - 10}" text-anchor="middle">{value:g}</text>'


def _legend(threads: Sequence[int]) -> Iterator[str]:
    yield '<text x="4" y="16">the best peer\'s time / loopnest\'s (right of 1: loopnest is faster)</text>'
    for index, count in enumerate(threads):
        x = _LEFT + 260 + 90 * index
        yield f'<circle cx="{x}" cy="12" r="4" fill="{COLORS[index % len(COLORS)]}"/>'
        yield f'<text x="{x + 8}" y="16">{count} thread{"s" if count > 1 else ""}</text>'
