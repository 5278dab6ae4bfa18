"""Plain text tables."""

from __future__ import annotations

from collections.abc import Iterable


def format_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Columns padded to their widest cell; those numbered in ``right`` are aligned right."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]

    def line(row: tuple[str, ...]) -> str:
        cells = (
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column]) for column, cell in enumerate(row)
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), line(tuple("-" * width for width in widths)), *map(line, table[1:])])
