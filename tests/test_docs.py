"""The documentation says what is so: its kernel is the generated one, its links and commands exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.helper import make_node

import loopnest
from examples.reading_kernels import conv_relu_add
from loopnest.codegen.target import resolve
from loopnest.compiler.api import stages
from loopnest.compiler.cli import main
from loopnest.compiler.ops import context, infer, registry
from loopnest.ir import loops
from tests.graphs import make_model, values

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
KERNEL = re.compile(r"(?<=<!-- kernel -->\n```python\n).*?(?=```\n<!-- end -->)", re.DOTALL)


def shown_kernel() -> str:
    """The kernel that ``docs/architecture.md`` explains."""
    kernels = stages(conv_relu_add(), target="cpu-avx2", config={"cache": False, "conv": "direct"})["kernels"]
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


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def network() -> Any:
    """A network with the names that the documentation uses."""
    nodes = [
        make_node("Conv", ["input", "w"], ["c"], name="/layer1/conv1/Conv"),
        make_node("Conv", ["c", "v"], ["d"], name="/layer1/conv2/Conv"),
        make_node("GlobalAveragePool", ["d"], ["probs"]),
    ]
    return make_model(nodes, {"input": [1, 3, 8, 8]}, ["probs"], {"w": values(16, 3, 3, 3), "v": values(16, 16, 1, 1, seed=1)})


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("resnet50.onnx").write_bytes(network().SerializeToString())
    x, turns = values(1, 3, 8, 8), iter([True, True, False])
    names: dict[str, Any] = {"x": x, "fill": lambda _: next(turns)}
    for block in blocks("README.md", "python"):
        exec(block, names)
    np.testing.assert_array_equal(names["outs"][0], names["y"])
    np.testing.assert_array_equal(names["y"], names["f"](input=x))
    assert "GFLOP/s" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_that_are_shown_are_accepted(page: Path, tmp_path: Path) -> None:
    x = values(1, 3, 8, 8)
    expected = loopnest.compile(network())(x)
    for text in blocks(str(page.relative_to(ROOT)), "toml"):
        path = tmp_path / "config.toml"
        path.write_text(text)
        f = loopnest.compile(network(), config=path)
        np.testing.assert_allclose(f(x), expected, rtol=1e-5)  # type: ignore[arg-type]
        if 'layout = "plain"' in text:
            plain = next(line for line in str(f).splitlines() if line.endswith("/layer1/conv1/Conv"))
            assert "NCHW" not in plain, tomllib.loads(text)


def test_the_operator_that_is_shown_works() -> None:
    (text,) = blocks("docs/operators.md", "python")

    def injective(op: str, **options: Any) -> Any:
        return registry.injective(op, domain="com.example", **options)

    index = "tuple[ir.Expr, ...]"
    exec(text, {"injective": injective, "same_as": infer.same_as, "Op": context.Op, "Index": index, "ir": loops})
    node, x = make_node("ReverseRows", ["x"], ["y"], domain="com.example"), values(5, 3)
    f = loopnest.compile(make_model([node], {"x": ["n", 3]}, ["y"], domains={"com.example": 1}))
    np.testing.assert_array_equal(f(x), x[::-1])  # type: ignore[arg-type]
