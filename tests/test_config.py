"""Configuration: validation, TOML, overrides, cache-key declarations and the generated reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopnest.compiler import config as configs
from loopnest.compiler.config import Config, NodeOptions, Tile, load_config
from loopnest.ir.errors import ConfigError


def test_defaults_and_identity() -> None:
    assert load_config() == Config() == load_config({})
    config = Config(threads=2)
    assert load_config(config) is config
    assert hash(Config(op={"Conv": {"fuse": False}})) == hash(Config(op={"Conv": {"fuse": False}}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.threads = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"opt_lvel": 1}, "unknown option opt_lvel; did you mean opt_level?"),
        ({"opt_level": 4}, "opt_level = 4: expected an integer from 0 to 3"),
        ({"opt_level": True}, "opt_level = True: expected an integer from 0 to 3"),
        ({"threads": 0}, "threads = 0: expected an integer from 1 to 1024, or unset"),
        ({"fuse": 1}, "fuse = 1: expected one of True, False"),
        ({"vector_bits": 257}, "vector_bits = 257: expected one of unset, 128, 256, 512"),
        ({"layout": "NCHW"}, "layout = 'NCHW': expected one of 'auto', 'plain'"),
        ({"cache_dir": 7}, "cache_dir = 7: expected a path"),
        ({"tile": 8}, "tile = 8: expected a table with some of the integers m, n, k"),
        ({"tile": {"m": 0}}, "tile.m = 0: expected an integer from 1 to 4096, or unset"),
        ({"tile": {"mm": 6}}, "unknown option mm; did you mean m? (in tile)"),
        ({"op": {"Conv": {"tile": {"m": "6"}}}}, "op.Conv.tile.m = '6': expected an integer from 1 to 4096, or unset"),
        ({"op": {"Conv": {"thread": 2}}}, "unknown option thread"),
        ({"op": {"Conv": 3}}, "op.Conv = 3: expected a table of options"),
        ({"node": []}, "node = []: expected a table of tables, as in [node.NAME]"),
        ({"node": {"a": {"opt_level": 1}}}, "unknown option opt_level"),
        ({"tuned": 3}, "tuned = 3: expected tables as loopnest tune writes them"),
        ({"tile": {"k": 0}}, "tile.k = 0: expected an integer from 1 to 4096, or unset"),
        ({1: 2}, "keys are strings, not 1"),
    ],
)
def test_errors_name_the_key_and_what_it_takes(given_: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(given_)
    assert message in str(caught.value)


def test_the_constructor_validates_too() -> None:
    with pytest.raises(ConfigError, match="unknown option thread; did you mean threads"):
        Config(thread=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="layout = 'x'"):
        Config(layout="x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not float"):
        load_config(1.5)  # type: ignore[arg-type]


def test_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "tiles.toml"
    path.write_text('threads = 2\n[op.Conv]\ntile = {m = 6, n = 16}\n[node."/a/Conv"]\nlayout = "plain"\ntile = {n = 32}\n')
    config = load_config(path)
    assert config.threads == 2
    assert config.for_node("Conv", "/b/Conv").tile == Tile(6, 16)
    assert config.for_node("Conv", "/a/Conv") == NodeOptions(tile=Tile(6, 32), layout="plain")
    assert config.for_node("Gemm", "/b/Gemm") == NodeOptions()
    assert load_config(str(path)) == config


def test_file_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("threads = 0\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: threads = 0"):
        load_config(path)
    path.write_text("threads = \n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot read the config file"):
        load_config(tmp_path / "absent.toml")


def test_overrides_must_name_what_the_model_has() -> None:
    config = Config(node={"/conv1": {"fuse": False}}, op={"Conv": {"fuse": False}})
    config.check_names({"Conv"}, ["/conv1", "/conv2"])
    with pytest.raises(ConfigError, match='unknown node node."/conv1"; did you mean node."/conv12"'):
        config.check_names({"Conv"}, ["/conv12"])
    with pytest.raises(ConfigError, match='unknown op op."Conv"'):
        config.check_names({"Gemm"}, ["/conv1"])


def test_every_option_declares_what_it_changes() -> None:
    for record in (Config, Tile):
        for spec in dataclasses.fields(record):
            if spec.name not in ("op", "node", "tuned"):
                assert spec.metadata["effect"] in ("kernel", "plan", "none")
                assert spec.metadata["doc"]


def test_low_levels_neither_fuse_nor_block() -> None:
    config = Config(opt_level=2, op={"Conv": {"fuse": True}})
    assert config.for_node("Gemm", "g") == NodeOptions(fuse=False, layout="plain")
    assert config.for_node("Conv", "c") == NodeOptions(fuse=True, layout="plain")


def test_verification_is_switched_on_by_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("LOOPNEST_VERIFY", value)
        assert Config().verifies is expected
    monkeypatch.delenv("LOOPNEST_VERIFY")
    assert not Config().verifies
    assert Config(verify=True).verifies


def test_dump_directory_prefers_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPNEST_DUMP", raising=False)
    assert Config().dump_directory is None
    monkeypatch.setenv("LOOPNEST_DUMP", "/tmp/env")
    assert Config().dump_directory == Path("/tmp/env")
    assert Config(dump="here").dump_directory == Path("here")


def test_the_reference_is_current() -> None:
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    assert page.read_text() == configs._REFERENCE + configs.options_table() + "\n"


TILES = st.builds(Tile, *(st.none() | st.integers(1, 4096) for _ in range(2)))


@given(TILES, TILES, TILES)
def test_merging_tiles_is_associative_and_the_last_one_wins(a: Tile, b: Tile, c: Tile) -> None:
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    merged = a.merged(b)
    assert merged.m == (b.m if b.m is not None else a.m)
    assert a.merged(Tile()) == a == Tile().merged(a)
