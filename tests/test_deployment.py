"""Build here, copy one file, serve there: as the README and ``examples/deploy`` say, where nothing but NumPy and llvmlite is installed."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

import loopnest
from tests.environments import ROOT, environment, run
from tests.graphs import make_model, tensor, values

README = (ROOT / "README.md").read_text()
DEPLOY = ROOT / "examples" / "deploy"
ABSENT = ("numba", "onnx", "ml_dtypes", "platformdirs", "filelock", "click", "rich", "pip")


def promised() -> list[str]:
    """What the README says is enough to install."""
    (listed,) = re.findall(r"^pip install ([\w ]+) && pip install --no-deps loopnest", README, re.MULTILINE)
    return listed.split()


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a machine that only serves."""
    return environment(tmp_path_factory.mktemp("there"), promised())


def block(place: str) -> str:
    (text,) = re.findall(rf"<!-- {place} -->\n```python\n(.*?)```", README, re.DOTALL)
    return text


def network() -> Any:
    nodes = [
        make_node("Conv", ["input", "w"], ["c"], pads=[1, 1, 1, 1]),
        make_node("Relu", ["c"], ["r"]),
        make_node("GlobalAveragePool", ["r"], ["p"]),
        make_node("Flatten", ["p"], ["probs"]),
    ]
    return make_model(nodes, {"input": ("N", 3, 16, 16)}, ["probs"], {"w": values(24, 3, 3, 3)})


def test_there_is_nothing_else(there: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from importlib.util import find_spec
found = [name for name in {ABSENT} if find_spec(name)]
assert not found, found
paths = [path for path in sys.path if "site-packages" in path]
assert len(paths) == 1, paths
import os
print(*sorted(name for name in os.listdir(paths[0]) if not name.startswith("_")))
"""
    installed = run(there, "-c", code, cwd=tmp_path).split()
    assert {name.split("-")[0].split(".")[0] for name in installed} == {"loopnest", *promised()}
    assert promised() == ["numpy", "llvmlite"]


def test_the_example_of_the_readme(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    Path("resnet50.onnx").write_bytes(network().SerializeToString())
    names: dict[str, Any] = {"loopnest": loopnest, "x": values(2, 3, 16, 16)}
    exec(block("here"), names)
    shutil.copy("resnet50.lnest", elsewhere)
    np.save(elsewhere / "x.npy", names["x"])
    code = f"""
import os, sys
import numpy as np
x = np.load("x.npy")
written = []

def hook(event, arguments):
    if event in ("os.mkdir", "os.rename", "os.remove") or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append((event, arguments))

sys.dont_write_bytecode = True
sys.addaudithook(hook)
{block("there")}
assert not written, written
np.save("y.npy", y)
assert written
print(*sorted({{name.split(".")[0] for name in sys.modules if "site-packages" in (getattr(sys.modules[name], "__file__", "") or "")}}))
"""
    imported = run(there, "-c", code, cwd=elsewhere).split()
    assert {*imported} - {"llvmlite"} == {"loopnest", "numpy"}
    np.testing.assert_array_equal(np.load(elsewhere / "y.npy"), names["f"](names["x"]))


def test_a_model_with_dtypes_that_numpy_lacks(there: Path, tmp_path: Path) -> None:
    """Inside of a model they need no package; ml_dtypes is for those who pass arrays of them."""
    nodes = [
        make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        make_node("Add", ["b", "b"], ["s"]),
        make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        make_node("QuantizeLinear", ["f", "scale", "zero"], ["q"]),
        make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    constants = {"scale": np.float32(0.25), "zero": np.array(0, ml_dtypes.int4)}
    f = loopnest.compile(make_model(nodes, {"x": [3, 5]}, ["y"], constants, opset=21))
    f.save(tmp_path / "m.lnest")
    np.save(tmp_path / "x.npy", x := values(3, 5))
    code = "import numpy as np, loopnest; np.save('y.npy', loopnest.load('m.lnest')(np.load('x.npy')))"
    run(there, "-c", code, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), f(x))  # type: ignore[arg-type]


def test_arrays_of_dtypes_that_numpy_lacks_are_named(there: Path, tmp_path: Path) -> None:
    x = tensor("x", [3], TensorProto.BFLOAT16)
    f = loopnest.compile(make_model([make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], {"x": x}, ["y"]))
    f.save(tmp_path / "m.lnest")
    code = """
import loopnest
try:
    print(loopnest.load('m.lnest')([1, 2, 3]))
except (ImportError, loopnest.LoopnestError) as error:
    print(type(error).__name__, error)
"""
    assert "ml_dtypes" in run(there, "-c", code, cwd=tmp_path)


def test_what_lacks_there_is_named(there: Path, tmp_path: Path) -> None:
    """Compiling there is an error that says what to install, not a traceback from inside."""
    code = """
import loopnest
try:
    loopnest.compile(b"")
except ImportError as error:
    print(error)
"""
    assert "No module named" in run(there, "-c", code, cwd=tmp_path)


@contextmanager
def served(python: Path, model: Path, folder: Path) -> Iterator[str]:
    """The address at which ``serve.py`` serves ``model``; the server has that one file, and itself."""
    command = [str(python), "-I", str(folder / "serve.py"), str(model), "--port", "0", "--threads", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert process.stdout is not None and process.stderr is not None
        loaded, address = process.stdout.readline(), process.stdout.readline().strip()
        assert loaded.startswith("loaded in "), process.stderr.read()
        yield address
    finally:
        process.kill()
        process.communicate()


def post(address: str, body: bytes) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data=body), timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def built(folder: Path, *options: str | Path) -> Path:
    output = folder / "model.lnest"
    command = [sys.executable, DEPLOY / "build.py", output, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "bytes" in done.stdout
    return output


@pytest.mark.parametrize("tuned", [False, True])
def test_the_server(there: Path, tmp_path: Path, tuned: bool) -> None:
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    config = shutil.copy(DEPLOY / "tuned.toml", tmp_path / "tuned.toml") if tuned else None
    options = ["--config", tmp_path / "tuned.toml", "--tune", "3"] if tuned else []
    artifact = built(tmp_path, "--model", tmp_path / "model.onnx", *options)
    if config is not None:  # it is what was written by hand, and what tuning wrote
        assert {"[op.Conv]", "# What loopnest tune found"} <= {line[:26] for line in config.read_text().splitlines()}
    folder = tmp_path / "there"
    folder.mkdir()
    for path in (artifact, DEPLOY / "serve.py"):
        shutil.copy(path, folder)
    x = values(2, 3, 16, 16)
    expected = np.asarray(loopnest.compile(model, config=config)(x))
    with served(there, folder / "model.lnest", folder) as address:
        for _ in range(2):
            status, reply = post(address, npy(x))
            assert status == 200, reply
            np.testing.assert_allclose(np.load(io.BytesIO(reply)), expected, rtol=1e-6)
        status, reply = post(address, npy(x[:1]))
        assert (status, b"has no plan for" in reply or b"expected" in reply) == (400, True), reply
        assert post(address, b"nonsense")[0] == 400
        assert post(address, npy(np.array([{}], object)))[0] == 400
        status, _ = post(address, npy(x))
        assert status == 200, "bad requests do no harm"


def test_a_model_of_open_dims_is_for_the_command(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(network().SerializeToString())
    command = [sys.executable, str(DEPLOY / "build.py"), str(tmp_path / "m"), "--model", str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "loopnest precompile takes the shapes" in done.stderr


def quoted(page: str, pattern: str) -> list[str]:
    return re.findall(pattern, (ROOT / "docs" / page).read_text())


def test_the_messages_that_are_explained_exist() -> None:
    """docs/deployment.md quotes them; each is a string in the sources, up to where names and numbers are put in."""
    sources = "".join(path.read_text() for part in ("ir", "runtime") for path in (ROOT / part).rglob("*.py"))
    rows = [
        line.split(" | ")[0]
        for line in (ROOT / "docs" / "deployment.md").read_text().splitlines()
        if re.match(r"\| `[a-z]", line)
    ]
    messages = [message for row in rows for message in re.findall("`(.*?)`", row) if " " in message]
    assert len(messages) > 12
    missing = [message for message in messages if message not in sources]
    assert not missing


def test_the_tests_that_security_cites_exist() -> None:
    cited = set(quoted("security.md", r"`(test_\w+)`"))
    defined = set(re.findall(r"^def (test_\w+)", "".join(p.read_text() for p in (ROOT / "tests").glob("*.py")), re.MULTILINE))
    assert len(cited) > 12
    assert cited <= defined
