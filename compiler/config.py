"""Configuration: every option of the compiler, typed, validated and documented in one place.

An option is a dataclass field whose metadata carries its validator, what it changes (see ``Effect``) and its documentation; the
reference in ``docs/configuration.md`` is printed from them (``python -m loopnest.compiler.config``).

>>> config = load_config({"op": {"Conv": {"tile": {"m": 6}}}, "node": {"/conv1": {"layout": "plain"}}})
>>> config.for_node("Conv", "/conv1").tile.m, config.for_node("Conv", "/conv1").layout
(6, 'plain')
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from ..ir.errors import ConfigError
from ..runtime.cache import DEFAULT_MAX_BYTES

Effect = Literal["kernel", "plan", "none"]
"""What an option changes: ``kernel`` the machine code (and the plan), ``plan`` only which kernels run on what, ``none`` neither."""

Layout = Literal["auto", "plain", "NCHW4c", "NCHW8c", "NCHW16c", "NCHW32c", "NCHW64c"]
Order = Literal["auto", "columns", "rows", "groups"]
Algorithm = Literal["auto", "direct", "winograd2", "winograd3", "winograd4", "winograd6"]
Filters = Literal["auto", "plan", "kernel"]


@dataclass(frozen=True)
class Rule:
    """A validator: ``parse`` gives the value to store or raises ``ValueError``; ``allowed`` says what it takes."""

    allowed: str
    parse: Callable[[Any], Any]


def one_of(*choices: object) -> Rule:
    def parse(value: Any) -> Any:
        if any(value == choice and type(value) is type(choice) for choice in choices):
            return value
        raise ValueError(value)

    return Rule("one of " + ", ".join("unset" if choice is None else repr(choice) for choice in choices), parse)


def integer(low: int, high: int, *, optional: bool = False) -> Rule:
    def parse(value: Any) -> Any:
        if value is None and optional:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise ValueError(value)

    return Rule(f"an integer from {low} to {high}" + (", or unset" if optional else ""), parse)


def _parse_path(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str | os.PathLike) and (text := os.fspath(value)) and isinstance(text, str):
        return text
    raise ValueError(value)


def _parse_tile(value: Any) -> Tile:
    if isinstance(value, Tile):
        return value
    if isinstance(value, Mapping):
        return _build(Tile, cast(Mapping[str, Any], value), "tile")
    raise ValueError(value)


def _option(default: Any, rule: Rule, effect: Effect, doc: str) -> Any:
    return field(default=default, metadata={"rule": rule, "effect": effect, "doc": doc})


def _options(record: type) -> Iterator[tuple[dataclasses.Field[Any], Rule]]:
    return ((spec, spec.metadata["rule"]) for spec in fields(record) if "rule" in spec.metadata)


class _Validated:
    """Base of the option records: unknown keywords and bad values are ``ConfigError`` however the record is made."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        known = [f.name for f in fields(cast(Any, cls))]
        for name in options:
            if name not in known:
                raise ConfigError(_unknown(name, "option", known))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for spec, rule in _options(type(self)):
            value = getattr(self, spec.name)
            try:
                object.__setattr__(self, spec.name, rule.parse(value))
            except ConfigError:
                raise
            except ValueError:
                raise ConfigError(f"{spec.name} = {value!r}: expected {rule.allowed}") from None


@dataclass(frozen=True)
class Tile(_Validated):
    """The tile of a sum of products: ``m`` rows x ``n`` columns in registers, ``k`` products in one go. None leaves it to the target."""

    m: int | None = _option(
        None,
        integer(1, 4096, optional=True),
        "kernel",
        "rows of the register tile (output pixels of a convolution, rows of the batch of a recurrence); for attention, queries of a "
        "task",
    )
    n: int | None = _option(
        None, integer(1, 4096, optional=True), "kernel", "columns of the register tile (output channels, hidden units)"
    )
    k: int | None = _option(
        None,
        integer(1, 4096, optional=True),
        "kernel",
        "products (input channels, for Winograd's algorithm; keys of a block, for attention) that are summed in one go; rounding "
        "errors grow with them",
    )

    def merged(self, over: Tile) -> Tile:
        """This tile with every extent that ``over`` sets replaced."""
        return Tile(
            *(
                new if new is not None else old
                for new, old in zip(dataclasses.astuple(over), dataclasses.astuple(self), strict=True)
            )
        )


TILE = Rule("a table with some of the integers m, n, k", _parse_tile)
ALGORITHM = one_of(*get_args(Algorithm))
FILTERS = one_of(*get_args(Filters))
LAYOUT = one_of(*get_args(Layout))
ORDER = one_of(*get_args(Order))
VECTOR = one_of(None, 128, 256, 512)
FLAG = one_of(True, False)


@dataclass(frozen=True)
class NodeOptions(_Validated):
    """How one node is scheduled. ``Config.for_node`` merges node over op type over global."""

    tile: Tile = _option(
        Tile(), TILE, "kernel", "register tile of matrix products and convolutions; what is unset comes from the target"
    )
    layout: Layout = _option(
        "auto",
        LAYOUT,
        "plan",
        "of activations: `auto` is NCHWc, with one vector of channels innermost, where all readers can have it; `NCHW16c` and the like "
        "are blocks of as many channels, of one, two or four vectors, where what would be in blocks has whole ones",
    )
    conv: Algorithm = _option(
        "auto",
        ALGORITHM,
        "plan",
        "algorithm of convolutions: Winograd's F(m, r) along each axis with r > 1 taps, where it applies, is faster and less exact than "
        "`direct`; `auto` takes what should cost least, among those whose errors stay below ten times those of `direct`",
    )
    filters: Filters = _option(
        "auto",
        FILTERS,
        "kernel",
        "where filters are transformed for Winograd's algorithm: when the `plan` is made, which takes up to four times the memory, or in "
        "the `kernel`, which takes up to 1.3 times as long; `auto` is the latter for some of a model whose constants would grow much",
    )
    order: Order = _option(
        "auto",
        ORDER,
        "kernel",
        "loops around the tiles of a sum of products: blocks of columns outside (weights are read once), chunks of rows, or "
        "groups of blocks side by side, part by part of a long sum",
    )
    tasks: int | None = _option(
        None, integer(1, 4096, optional=True), "kernel", "kernels with fewer tasks than this are cut further, where they can be"
    )
    unroll: int | None = _option(
        None,
        integer(1, 64, optional=True),
        "kernel",
        "steps of a reduced axis that reductions without a register tile take at once",
    )
    prefetch: int | None = _option(
        None,
        integer(0, 4096, optional=True),
        "kernel",
        "cycles by which sums of products ask for what they read next; 0: they do not",
    )
    fuse: bool = _option(True, FLAG, "plan", "fuse elementwise producers and consumers into the node's kernel")

    def given(self, name: str) -> Any:
        """An option by its dotted name (``tile.m``); None where it is left to the schedule."""
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        return None if value == "auto" else value

    def without(self, name: str) -> NodeOptions:
        """These options with the one called ``name`` (dotted) left to the schedule."""
        first, _, rest = name.partition(".")
        default = (
            dataclasses.replace(self.tile, **{rest: None}) if rest else next(s.default for s in fields(self) if s.name == first)
        )
        return dataclasses.replace(self, **{first: default})


@dataclass(frozen=True)
class Config(NodeOptions):
    """All options. Immutable, hashable, and validated on construction: ``ConfigError`` names the key and what it takes.

    ``op`` and ``node`` override the options of ``NodeOptions`` by operator type and by ONNX node name. ``tuned`` has what ``loopnest tune``
    found, by processor and kernel (see ``tuning.entries``); what is set otherwise comes first.
    """

    opt_level: int = _option(
        3,
        integer(0, 3),
        "plan",
        "0: what operators need to have a kernel; 1: and clean-up; 2: and folding and recognized patterns; 3: and fusion and layouts",
    )
    vector_bits: int | None = _option(None, VECTOR, "kernel", "vector width; unset: the widest of the target")
    threads: int | None = _option(
        None, integer(1, 1024, optional=True), "none", "worker threads; unset: the CPUs this process may use"
    )
    cache: bool = _option(True, FLAG, "none", "keep compiled kernels, packed weights and plans on disk")
    cache_dir: str | None = _option(
        None,
        Rule("a path", _parse_path),
        "none",
        "where they are kept; unset: `LOOPNEST_CACHE_DIR`, else the user's cache directory",
    )
    cache_bytes: int = _option(
        DEFAULT_MAX_BYTES,
        integer(1 << 20, 1 << 50),
        "none",
        "about as much is kept there; what was used longest ago goes first",
    )
    dump: str | None = _option(
        None,
        Rule("a path", _parse_path),
        "none",
        "directory that every stage is written to, of plans that are made anew; unset: `LOOPNEST_DUMP`",
    )
    verify: bool = _option(
        False,
        FLAG,
        "none",
        "check the graph after every pass, and every loop nest, of plans that are made anew (slow); also when `LOOPNEST_VERIFY` is 1",
    )
    op: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    node: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for scope in ("op", "node"):
            object.__setattr__(self, scope, _parse_overrides(scope, getattr(self, scope)))
        if not isinstance(self.tuned, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"tuned = {self.tuned!r}: expected tables as loopnest tune writes them")

    def for_node(self, op: str, name: str, tuned: NodeOptions | None = None) -> NodeOptions:
        """The options in force for one node: ``[node."name"]`` over ``[op.Type]`` over the global ones over ``tuned`` ones; tiles merge by
        extent.

        Below ``opt_level`` 3, ``fuse`` is off and ``layout`` is plain unless an operator type or a node says otherwise.
        """
        merged = {spec.name: getattr(self, spec.name) for spec, _ in _options(NodeOptions)}
        for spec, _ in _options(NodeOptions):
            if tuned is None:
                break
            if spec.name == "tile":
                merged["tile"] = tuned.tile.merged(self.tile)
            elif merged[spec.name] == spec.default:
                merged[spec.name] = getattr(tuned, spec.name)
        if self.opt_level < 3:
            merged.update(fuse=False, layout="plain")
        for override in (self.op.get(op, {}), self.node.get(name, {})):
            for key, value in override.items():
                merged[key] = merged[key].merged(value) if isinstance(value, Tile) else value
        return NodeOptions(**merged)

    def scope_of(self, op: str, name: str, option: str) -> str:
        """The table that sets an option of a node, which beats all others: ``node."name"``, ``op.Type``, or nothing for none."""
        for scope, override in ((f'node."{name}"', self.node.get(name, {})), (f"op.{op}", self.op.get(op, {}))):
            first, _, extent = option.partition(".")
            if first in override and (not extent or getattr(override[first], extent) is not None):
                return scope
        return ""

    def check_names(self, ops: Collection[str], nodes: Collection[str]) -> None:
        """``ConfigError`` for an override of an operator type not in ``ops`` or of a node not in ``nodes``."""
        for scope, overrides, known in (("op", self.op, ops), ("node", self.node, nodes)):
            for name in overrides:
                if name not in known:
                    raise ConfigError(_unknown(f'{scope}."{name}"', scope, [f'{scope}."{n}"' for n in known if n]))

    @property
    def decisive(self) -> str:
        """All that changes a plan or a kernel, overrides and what was tuned included: equal for two configs that compile any model to the
        same. Raises ``TypeError`` where the tables of ``tuned`` are none."""
        decide = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.metadata.get("effect") != "none"}
        return json.dumps(decide, default=dataclasses.asdict, sort_keys=True)

    @property
    def dump_directory(self) -> Path | None:
        """Where stages are dumped: the option, else ``LOOPNEST_DUMP``, else nowhere."""
        chosen = self.dump or os.environ.get("LOOPNEST_DUMP")
        return Path(chosen) if chosen else None

    @property
    def verifies(self) -> bool:
        """Whether stages are verified: the option, or ``LOOPNEST_VERIFY``."""
        return self.verify or os.environ.get("LOOPNEST_VERIFY", "0") not in ("", "0")


def load_config(config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None) -> Config:
    """A ``Config`` from what a user passes: one, None (the defaults), a dict, or the path of a TOML file.

    ``ConfigError`` names the key, what it takes, and for a file its path.
    """
    if config is None:
        return Config()
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return _build(Config, config)
    if not isinstance(config, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"config must be a loopnest.Config, a dict or the path of a TOML file, not {type(config).__name__}")
    import tomllib

    path = Path(config)
    try:
        with path.open("rb") as file:
            return _build(Config, tomllib.load(file))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror or error}") from None


def _build(record: type[Any], values: Mapping[str, Any], prefix: str = "") -> Any:
    """``record(**values)`` with ``prefix`` in front of the key that an error names."""
    for key in values:
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"{prefix or 'config'}: keys are strings, not {key!r}")
    try:
        return record(**values)
    except ConfigError as error:
        raise ConfigError(
            f"{prefix}.{error}" if prefix and not str(error).startswith("unknown") else _scoped(error, prefix)
        ) from None


def _scoped(error: ConfigError, prefix: str) -> str:
    return f"{error} (in {prefix})" if prefix else str(error)


def _parse_overrides(scope: str, table: Any) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{scope} = {table!r}: expected a table of tables, as in [{scope}.NAME]")
    parsed: dict[str, Mapping[str, Any]] = {}
    for name, options in cast(Mapping[str, Any], table).items():
        where = f"{scope}.{name}"
        if isinstance(options, NodeOptions):
            options = {
                s.name: getattr(options, s.name) for s, _ in _options(NodeOptions) if getattr(options, s.name) != s.default
            }
        if not isinstance(options, Mapping):
            raise ConfigError(f"{where} = {options!r}: expected a table of options")
        record = _build(NodeOptions, cast(Mapping[str, Any], options), where)
        parsed[name] = {key: getattr(record, key) for key in cast(Mapping[str, Any], options)}
    return parsed


def _unknown(name: str, what: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known[:20])}"
    return f"unknown {what} {name}{hint}"


def options_table() -> str:
    """The reference of all options in Markdown."""
    lines = ["| Option | Values | Default | Changes | By op/node | Meaning |", "| --- | --- | --- | --- | --- | --- |"]
    by_node = {spec.name for spec, _ in _options(NodeOptions)}
    changes = {"kernel": "kernels and plan", "plan": "plan", "none": "nothing"}
    rows = [("", spec, rule) for spec, rule in _options(Config)]
    at = 1 + next(index for index, (_, spec, _) in enumerate(rows) if spec.name == "tile")
    rows[at:at] = [("tile.", spec, rule) for spec, rule in _options(Tile)]
    for prefix, spec, rule in rows:
        default = "unset" if spec.default in (None, Tile()) else f"`{spec.default!r}`"
        where = "yes" if prefix or spec.name in by_node else "no"
        cells = (f"`{prefix}{spec.name}`", rule.allowed, default, changes[spec.metadata["effect"]], where, spec.metadata["doc"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_REFERENCE = """\
# Configuration

`loopnest.compile(model, config=...)` takes a `loopnest.Config`, a dict, or the path of a TOML file. This page is printed by
`python -m loopnest.compiler.config`; a test keeps it in step with the code.

```toml
threads = 4

[op.Conv]                        # every Conv
tile = { m = 6, n = 16 }

[node."/layer1/conv1/Conv"]      # one node, by its ONNX name
layout = "plain"
```

An option of a node beats the one of its operator type, which beats the global one; the extents of a tile merge one by one.
An unknown key, operator type or node name is an error that names the nearest known one. A node that a pass has folded into another
one (a BatchNormalization into its Conv), or that is part of the kernel of another one (the Relu after a Conv), has no kernel that its
options could change: a `ConfigWarning` names the node and the reason, when the plan is made and when it comes from the cache.

Options of a node or operator type are checked against the schedules of its kernels when they are planned: what a schedule cannot do is
refused, with what is legal. Options for all kernels act where they can. Tables `[tuned...]` are what `loopnest tune` found; everything
else that a file sets comes before them (see [tuning.md](tuning.md)).

"Changes" says what an option acts on: kernels (another tile is another kernel, found in the cache by its source and its target), only
the plan (which kernels run on what), or nothing that is computed. Plans on disk are found by the options that
change kernels or the plan, beside the model and the target, and by no other.

"""

if __name__ == "__main__":
    print(_REFERENCE + options_table())
