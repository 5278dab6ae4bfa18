"""What docs/security.md claims, and no other test shows: names in a model stay names, nothing goes over a network, no page is writable
and executable."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper as oh
import pytest

import loopnest
from loopnest.compiler.api import stages
from tests.environments import ROOT
from tests.faults import python
from tests.graphs import make_model, values

HOSTILE = [
    '"""\nimport os; os.abort()\n"""',
    "'); __import__('os').abort() #",
    "{0.__class__} %s %n \\",
    "../../../../tmp/loopnest-planted",
    "a\x00b\r\nc\u2028d\U0001f4a5",
    '"}\ndefine i32 @main() { unreachable }\n;',
    "x" * 5000,
]


def hostile_model(name: str) -> Any:
    """Two matrix products, a function and a pointwise operator, in which everything that has a name has this one."""
    function = oh.make_function(
        "my", f"f{name}", ["a"], ["b"], [oh.make_node("Relu", ["a"], ["b"], name=name)], [oh.make_opsetid("", 17)]
    )
    nodes = [
        oh.make_node("MatMul", [f"x{name}", f"w{name}"], [f"a{name}"], name=name),
        oh.make_node(f"f{name}", [f"a{name}"], [f"b{name}"], domain="my", name=f"g{name}"),
        oh.make_node("MatMul", [f"b{name}", f"w{name}"], [f"y{name}"], name=f"h{name}"),
    ]
    inputs = {f"x{name}": (f"N{name}", 8)}
    model = make_model(nodes, inputs, [f"y{name}"], {f"w{name}": values(8, 8)}, domains={"my": 1}, functions=[function])
    model.graph.name = name
    return model


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_a_model_are_never_code_nor_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPNEST_DUMP", str(tmp_path / "in" / "dump"))
    monkeypatch.setenv("LOOPNEST_CACHE_DIR", str(tmp_path / "in" / "cache"))
    model, x = hostile_model(name), values(3, 8)
    f = loopnest.compile(model)
    expected = np.maximum(x @ values(8, 8), 0) @ values(8, 8)
    for result in (f(x), f.run(None, {f"x{name}": x})[0]):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    f.save(tmp_path / "in" / "m.lnest")
    np.testing.assert_array_equal(loopnest.load(tmp_path / "in" / "m.lnest")(x), f(x))  # type: ignore[arg-type]
    assert str(f) and str(f.profile(x))
    assert [path.name for path in tmp_path.iterdir()] == ["in"], "nothing was written elsewhere"
    kernels = stages(model, shapes={f"x{name}": (3, 8)})["kernels"]
    sources = re.sub(r"^# [0-9a-f]{12}.*$", "", kernels, flags=re.MULTILINE)
    assert name not in sources


NETWORK = """
import sys
def hook(event, arguments):
    if event.startswith(("socket.", "urllib", "http", "ftplib", "smtplib")):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(hook)
import llvmlite.binding, numpy as np, loopnest

def both():
    try:
        return [line for line in open("/proc/self/maps") if "wx" in line.split()[1]]
    except FileNotFoundError:
        return []

before = both()  # ctypes keeps a page of callbacks so
f = loopnest.compile(sys.argv[1], config={"cache_dir": sys.argv[2]}, threads=2)
f(np.ones((3, 200), np.float32))
f.save(sys.argv[3])
loopnest.load(sys.argv[3])(np.ones((3, 200), np.float32))
print(*[line for line in both() if line not in before])
"""


def test_no_network_and_no_page_that_is_writable_and_executable(tmp_path: Path) -> None:
    from tests.test_cache_faults import some_kernels

    (tmp_path / "model.onnx").write_bytes(some_kernels().SerializeToString())
    assert python(NETWORK, tmp_path / "model.onnx", tmp_path / "cache", tmp_path / "m.lnest").stdout == "\n"


def test_no_data_is_run() -> None:
    """Neither pickle nor eval anywhere, and exec only of kernels that loopnest printed itself."""
    for part in ("ir", "runtime", "codegen", "compiler"):
        for path in (ROOT / part).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
            assert not called & {"eval", "exec"} or part == "codegen", path
            imported = {alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
            imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
            assert not imported & {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib"}, path
