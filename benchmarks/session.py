"""A run over many models: every stage in a process of its own, one record a model, kept on disk as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.ratios import PEERS

ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-4
"""Largest difference from ONNX Runtime, as a share of an output's largest magnitude, that counts as right."""

Record = dict[str, Any]


PARTS = ("time", "memory")
"""What there is to measure of a model; a record has either or both, and each says with which version it was measured."""


@dataclass(frozen=True)
class Settings:
    """How to measure. `seconds` is for each engine and number of threads, in `rounds` turns; `limit` ends a stage that hangs."""

    threads: tuple[int, ...] = (1, 2)
    seconds: float = 2.0
    rounds: int = 8
    clock: str = "wall"
    limit: float = 900.0


def measure(name: str, family: str, settings: Settings, parts: Collection[str] = PARTS) -> Record:
    """The record of one model. What goes wrong is in it as `error` (of the memory alone: in `memory`); nothing is raised for it."""
    record: Record = {"name": name, "family": family}
    with tempfile.TemporaryDirectory(prefix="loopnest-bench-") as folder:
        job = {"model": name, "folder": folder, "cache_dir": f"{folder}/cache", **asdict(settings)}
        record |= _stage({**job, "stage": "prepare"}, settings.limit)
        if "error" not in record and "memory" in parts:
            record["memory"] = _version() | _memory({**job, "cache_dir": f"{folder}/cache-memory"}, settings.limit)
        if "time" in parts:
            record |= _version() | {"settings": asdict(settings)}
            if "error" not in record:
                record |= _stage({**job, "stage": "time"}, settings.limit)
    problem = _wrong(record) if "threads" in record else None
    return record | ({"error": problem} if problem else {})


def _version() -> Record:
    return {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "loopnest": fingerprint()}


def _memory(job: Record, limit: float) -> Record:
    """Peaks while compiling and while serving; an engine that cannot run the model has None, loopnest an `error`."""
    compiling = _stage({**job, "stage": "compiling"}, limit)
    if "error" in compiling:
        return compiling
    serving = {engine: _stage({**job, "stage": "serving", "engine": engine}, limit) for engine in ("loopnest", *PEERS)}
    failed = {"error": serving["loopnest"]["error"]} if "error" in serving["loopnest"] else {}
    return {"compiling": compiling, "serving": {engine: found.get("bytes") for engine, found in serving.items()}, **failed}


def _wrong(record: Record) -> str | None:
    """Where results are not those of ONNX Runtime (of OpenVINO, if that cannot run the model)."""
    for threads, engines in record["threads"].items():
        differences = {peer: engines[peer]["difference"] for peer in PEERS if "difference" in engines[peer]}
        for peer, difference in list(differences.items())[:1]:
            if not difference <= TOLERANCE:
                return f"wrong result on {threads} thread(s): {difference:.1e} of the largest value from {peer}"
    return None


def as_installed() -> dict[str, str]:
    """The variables of this process, for one that may keep bytecode: an installed package has it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _stage(job: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """The result of a stage; an `error` for whatever way its process ends without one."""
    folder = Path(job["folder"])
    file, result = folder / "job.json", folder / "result.json"
    result.unlink(missing_ok=True)
    file.write_text(json.dumps({**job, "result": str(result)}))
    environment = {**as_installed(), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (folder / "log.txt").open("w+") as log:
        try:
            command = [sys.executable, "-m", "benchmarks.worker", str(file)]
            code = subprocess.run(
                command, env=environment, cwd=ROOT, stdout=log, stderr=log, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return {"error": f"the stage {job['stage']} took longer than {limit:g} s"}
        if result.exists():
            return json.loads(result.read_text())
        log.seek(0)
        last = (log.read().strip().splitlines() or ["it printed nothing"])[-1]
        return {"error": f"the process of the stage {job['stage']} ended with status {code}: {last[-300:]}"}


@cache
def fingerprint() -> str:
    """Of everything in loopnest that a measurement depends on."""
    parts = ("codegen", "compiler", "ir", "runtime")
    files = sorted(file for part in parts for file in (ROOT / part).rglob("*") if file.suffix in (".py", ".ll"))
    return _digest(b"".join(file.read_bytes() for file in files))


class Results:
    """The records in a folder, one JSON file a model, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        self.folder.mkdir(parents=True, exist_ok=True)

    def missing(self, name: str, settings: Settings, parts: Iterable[str]) -> list[str]:
        """Those of `parts` that there are not yet without an error, the time measured in this way."""
        record = self.get(name) or {}
        used, wanted = record.get("settings", {}), json.loads(json.dumps(asdict(settings)))
        same = {option: used.get(option) for option in wanted} == wanted
        there = {"time": same and "error" not in record, "memory": "error" not in record.get("memory", {"error": ""})}
        return [part for part in parts if not there[part]]

    def get(self, name: str) -> Record | None:
        file = self._file(name)
        return json.loads(file.read_text()) if file.exists() else None

    def put(self, record: Record) -> None:
        """Stores a record, beside what there is of a part that it has not."""
        before = self.get(record["name"]) or {}
        if "settings" in record:
            before = {key: before[key] for key in ("memory",) if key in before}
        elif "settings" not in before:
            before.pop("error", None)
        record = before | record
        file = self._file(record["name"])
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1))
        partial.replace(file)

    def all(self, order: Iterable[str]) -> list[Record]:
        """All records: those named in `order` first and in that order."""
        records = {
            record["name"]: record for file in sorted(self.folder.glob("*.json")) for record in [json.loads(file.read_text())]
        }
        names = [*(name for name in order if name in records), *(name for name in records if name not in set(order))]
        return [records[name] for name in names]

    def _file(self, name: str) -> Path:
        path = Path(name)
        return self.folder / (f"{name}.json" if path.name == name else f"{path.stem}-{_digest(name.encode())}.json")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
