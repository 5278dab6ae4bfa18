"""How many CPUs this process may use (affinity mask and cgroup quota, not the size of the machine), and which they are."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from functools import cache


def available_cpus(root: str | os.PathLike[str] = "/") -> int:
    """At least 1. A fraction of a CPU in the quota is rounded down: a worker that is throttled holds up all others.

    Reads ``cpu.max`` (cgroup v2) or ``cpu.cfs_quota_us`` (v1) of this process's group and of all groups around it, under ``root``.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([count, *(int(quota) for quota in _quotas(os.fspath(root)))]))


@cache
def processor_name() -> str:
    """The model of this machine's processor, as the system tells."""
    lines = _read("/proc/cpuinfo").splitlines()
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


_TELLING = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")


def processor_identity(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> str | None:
    """What Linux says of the first x86-64 processor, and its own release: while that is the same, so is what the processor has. None
    where not all of it is said."""
    lines = _read(cpuinfo).partition("\n\n")[0].splitlines()
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if platform.machine() != "x86_64" or not all(said.get(name) for name in _TELLING):
        return None
    return "\n".join((platform.release(), *(said[name] for name in _TELLING)))


def _quotas(root: str) -> Iterator[float]:
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            read, mounts = _quota_v2, ("sys/fs/cgroup", "sys/fs/cgroup/unified")
        elif "cpu" in controllers.split(","):
            read, mounts = _quota_v1, ("sys/fs/cgroup/cpu", f"sys/fs/cgroup/{controllers}")
        else:
            continue
        for mount in mounts:
            names = [name for name in path.split("/") if name]
            for depth in range(len(names) + 1):
                yield from read(os.path.join(root, mount, *names[:depth]))


def _quota_v2(directory: str) -> Iterator[float]:
    quota, _, period = _read(os.path.join(directory, "cpu.max")).partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        yield int(quota) / int(period)


def _quota_v1(directory: str) -> Iterator[float]:
    quota, period = (_read(os.path.join(directory, f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    if quota.isdigit() and period.isdigit() and int(period):
        yield int(quota) / int(period)


def _read(path: str | os.PathLike[str]) -> str:
    """A small file, nothing where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
