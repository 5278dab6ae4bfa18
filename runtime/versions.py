"""Versions of installed packages, without importing them."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec


@cache
def version_of(package: str) -> str:
    """The installed version of ``package``, which is named as its module; "none" where there is none.

    The name of its folder of metadata says it; ``importlib.metadata`` takes fifty times as long, and is asked where that is not clear.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return "none"
    prefix, suffix = f"{package}-", ".dist-info"
    names = os.listdir(os.path.dirname(os.path.dirname(spec.origin)))
    found = [name for name in names if name.startswith(prefix) and name.endswith(suffix)]
    if len(found) == 1:
        return found[0][len(prefix) : -len(suffix)]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
