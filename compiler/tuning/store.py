"""The file of a tuning: TOML that people read and edit, of which only the tables ``[tuned...]`` are written anew, and a journal beside it.

Both survive the end of the process at any moment: the file is renamed into place, and a line of the journal that is cut short is skipped.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ...ir.errors import ConfigError
from ...runtime.files import write_whole

_TUNED = re.compile(r"^\[\s*tuned\b.*?(?=^\s*\[(?!\s*tuned\b)|\Z)", re.MULTILINE | re.DOTALL)
_TITLE = "# What loopnest tune found, by processor and kernel. Other tables of this file come first; gain and milliseconds are remarks."

Entries = dict[str, dict[str, dict[str, Any]]]


def read_entries(path: Path) -> Entries:
    """The entries of a file by processor and kernel; none where there is no file. Raises ``ConfigError`` for one that is no TOML."""
    found = _parsed(path, _text(path)).get("tuned", {})
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: tuned = {found!r}: expected tables")
    return {
        processor: {name: dict(entry) for name, entry in cast("dict[str, Any]", table).items() if isinstance(entry, dict)}
        for processor, table in cast("dict[str, Any]", found).items()
        if isinstance(table, dict)
    }


def write_entries(path: Path, entries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Puts ``entries`` into a file instead of those that it has, and leaves everything else in it as it is."""
    text = _text(path)
    rest = _TUNED.sub("", text).replace(_TITLE, "").rstrip()
    kept = {key: value for key, value in _parsed(path, text).items() if key != "tuned"}
    if _parsed(path, rest) != kept:
        raise ConfigError(f"{path}: its tables [tuned...] cannot be told from the rest; put them at its end")
    tables = [
        f"[tuned.{_quoted(processor)}.{_quoted(name)}]\n" + "".join(f"{key} = {_value(entry[key])}\n" for key in entry)
        for processor, table in entries.items()
        for name, entry in table.items()
    ]
    text = "\n".join([*([f"{rest}\n"] if rest else []), _TITLE, *tables])
    try:
        write_whole(path, [text.encode()], durable=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in cast("Mapping[str, Any]", value).items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    return _quoted(value) if isinstance(value, str) else repr(value)


class Journal:
    """What was tried, a line of JSON for each candidate; ``resume`` reads what is there, otherwise it begins anew. Raises ``ConfigError``
    where it cannot be written, before anything is measured."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.tried: set[tuple[str, str]] = set()
        try:
            path.open("a" if resume else "w", encoding="utf-8").close()
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
        for line in _text(path).splitlines():
            try:
                kernel, candidate = json.loads(line)[:2]
            except (ValueError, TypeError):
                continue
            self.tried.add((str(kernel), str(candidate)))

    def add(self, kernel: str, candidate: str, outcome: str) -> None:
        self.tried.add((kernel, candidate))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([kernel, candidate, outcome]) + "\n")

    def close(self) -> None:
        """Removes the journal of a tuning that is done."""
        self.path.unlink(missing_ok=True)
