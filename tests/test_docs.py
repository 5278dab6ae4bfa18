"""The documentation says what is so: its kernel is the generated one, its links and commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.reading_kernels import conv_relu_add
from loopnest.codegen.target import resolve
from loopnest.compiler.api import stages
from loopnest.compiler.cli import main

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
KERNEL = re.compile(r"(?<=<!-- kernel -->\n```python\n).*?(?=```\n<!-- end -->)", re.DOTALL)


def shown_kernel() -> str:
    """The kernel that ``docs/architecture.md`` explains."""
    kernels = stages(conv_relu_add(), target="cpu-avx2", config={"cache": False})["kernels"]
    (text,) = [
        text for text in re.split(r"^# [0-9a-f]{12}\n", kernels, flags=re.MULTILINE) if text.startswith('"""Conv+Add+Relu')
    ]
    return text.strip() + "\n"


@pytest.mark.skipif(not resolve("cpu-avx2").runs_here, reason="needs AVX2")
def test_the_kernel_in_the_documentation_is_the_generated_one(request: pytest.FixtureRequest) -> None:
    """``pytest tests/test_docs.py --update-golden`` writes it there."""
    page = ROOT / "docs" / "architecture.md"
    text = page.read_text()
    if request.config.getoption("--update-golden"):
        page.write_text(KERNEL.sub(lambda _: shown_kernel(), text))
    assert KERNEL.findall(page.read_text()) == [shown_kernel()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    parts = "ir|runtime|codegen|compiler|tests|examples|docs"
    for name in re.findall(rf"`((?:{parts})/[\w/]+\.\w+)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_readme_lists_every_command() -> None:
    commands = re.findall(r"^\| `loopnest (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands == list(main.commands_by_name)  # type: ignore[attr-defined]
