"""Every example runs as a user would run it, and prints what its description promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PROMISES = {
    "quickstart.py": ["output (1, 1000", "GFLOP/s"],
    "dynamic_shapes.py": ["('batch', 'sequence', 64)", "(3, 128, 64) -> (3, 128, 32)", "refused:", "fixed: (1, 32, 32)"],
    "tile_sizes.py": ["default", "tile_sizes.toml", "refused: unknown option tyle; did you mean tile?"],
    "tuning.py": ["2 candidates, expected gain", "tuned: differs", "by hand: differs", 'refused: node."second".tile.m = 99'],
    "own_operator.py": ["MatMul+ScaledTanh+Relu"],
    "reading_kernels.py": ["== graph ==", "== kernels ==", "== program =="],
}


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(PROMISES)
    deployed = (EXAMPLES.parent / "tests" / "test_deployment.py").read_text()  # what runs where nothing else is installed
    assert all(path.name in deployed for path in (EXAMPLES / "deploy").glob("*.*"))


@pytest.mark.parametrize("name", PROMISES)
def test_example(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, cwd=tmp_path, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    for promise in PROMISES[name]:
        assert promise in done.stdout
