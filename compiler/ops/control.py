"""Control flow whose course only data decides: If, Loop and Scan, their bodies compiled."""

from __future__ import annotations

from ...ir.graph_control import CONTROL
from .registry import host

for _op, _run in CONTROL.items():
    host(_op)(_run)
