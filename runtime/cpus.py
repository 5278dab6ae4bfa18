"""How many CPUs this process may use (affinity mask and cgroup quota, not the size of the machine), and which they are."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """At least 1. A fraction of a CPU in the quota is rounded down: a worker that is throttled holds up all others.

    Reads ``cpu.max`` (cgroup v2) or ``cpu.cfs_quota_us`` (v1) of this process's group and of all groups around it, under ``root``.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([count, *(int(quota) for quota in _quotas(root))]))


@cache
def processor_name() -> str:
    """The model of this machine's processor, as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


_TELLING = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")


def processor_identity(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """What Linux says of the first x86-64 processor, and its own release: while that is the same, so is what the processor has. None
    where not all of it is said."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        return None
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if platform.machine() != "x86_64" or not all(said.get(name) for name in _TELLING):
        return None
    return "\n".join((platform.release(), *(said[name] for name in _TELLING)))


def _quotas(root: Path) -> Iterator[float]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            read, mounts = _quota_v2, ("sys/fs/cgroup", "sys/fs/cgroup/unified")
        elif "cpu" in controllers.split(","):
            read, mounts = _quota_v1, ("sys/fs/cgroup/cpu", f"sys/fs/cgroup/{controllers}")
        else:
            continue
        for mount in mounts:
            group = root / mount / path.lstrip("/")
            for directory in (group, *group.parents):
                if directory == root / "sys/fs":
                    break
                yield from read(directory)


def _quota_v2(directory: Path) -> Iterator[float]:
    quota, _, period = _read(directory / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        yield int(quota) / int(period)


def _quota_v1(directory: Path) -> Iterator[float]:
    quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period):
        yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
