"""The rules of the house: who may import whom, what an import costs, and that the wheel holds everything."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("ir", "runtime", "codegen", "compiler")
MAY_IMPORT = {
    "ir": {"ir"},
    "runtime": {"runtime", "ir"},
    "codegen": {"codegen", "ir"},
    "compiler": {"compiler", "codegen", "runtime", "ir"},
}


def sources(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it, as dotted paths from the root."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            found |= {".".join((*base, node.module or alias.name)) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_only_what_they_stand_on(part: str) -> None:
    for path in sources(part):
        reached = {name.split(".")[0] for name in imported(path)} & set(PARTS)
        assert reached <= MAY_IMPORT[part], f"{path.relative_to(ROOT)} imports {reached - MAY_IMPORT[part]}"


@pytest.mark.parametrize("part", ["ir", "runtime"])
def test_the_ground_needs_no_compiler_packages(part: str) -> None:
    heavy = {"numba"} if part == "ir" else {"numba", "onnx", "rich", "click"}
    for path in sources(part):
        reached = {name.split(".")[0] for name in imported(path)}
        assert not reached & heavy, f"{path.relative_to(ROOT)} imports {reached & heavy}"


HEAVY = {"numba", "onnx", "rich", "loopnest.ir.loops", "loopnest.compiler.plan", "loopnest.compiler.frontend"}
"""What comes only when something is compiled, or shown on a terminal."""


@pytest.mark.parametrize(
    "module",
    ["loopnest", "loopnest.runtime", "loopnest.runtime.cache", "loopnest.ir", "loopnest.compiler.cli", "loopnest.compiler.api"],
)
def test_imports_stay_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_wheel_holds_every_package_and_data_file() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for part in PARTS for path in sources(part)}
    assert sorted(settings["packages"]) == sorted({"loopnest", *(".".join(("loopnest", *folder.parts)) for folder in folders)})
    data = {path.relative_to(ROOT) for part in PARTS for path in (ROOT / part).rglob("*") if path.is_file()}
    data = {path for path in data if path.suffix != ".py" and "__pycache__" not in path.parts}
    listed = {Path(*package.split(".")[1:]) / name for package, names in settings["package-data"].items() for name in names}
    assert listed == data
