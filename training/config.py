"""Settings of the training commands: dataclasses, filled from TOML and `key=value` overrides.

Every setting has a dotted name, section first: `optim.rate=3e-4`. A name that does not exist is
refused with the nearest one that does, a value of the wrong type with the type expected.
"""

from __future__ import annotations

import difflib
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from svfap_edge.errors import ConfigError

T = TypeVar("T")

MAX_WHOLE = 1 << 63
"""Whole numbers of TOML are smaller; Python's own reader takes any."""

MAX_DEPTH = 8
"""Parts of a dotted name at most; the deepest setting has two."""


def load_config(
    kind: type[T],
    path: Path | None,
    overrides: Sequence[str] = (),
    tables: Sequence[Mapping[str, Any]] = (),
) -> T:
    """Defaults of `kind`, then `tables` in order, then the TOML file, then the overrides.

    Args:
        kind: A frozen dataclass of sections, each a frozen dataclass of values; all have defaults.
        overrides: "section.name=value", the value as in TOML; a bare word is text, and so is
            anything where the setting is text, such as a folder named 7 or 2025-01-05.
        tables: Nested tables such as a preset's.

    Raises:
        ConfigError: no such file, not TOML, an unknown name, a value of another type or out of
            its range (the section's own check).
    """
    merged: dict[str, Any] = {}
    for table in tables:
        _merge(merged, table)
    if path is not None:
        _merge(merged, _read_toml(path))
    for text in overrides:
        name, separator, value = text.partition("=")
        path_to = name.strip().split(".")
        if not separator or not name.strip() or len(path_to) > MAX_DEPTH:
            raise ConfigError(f"'{text:.80}' is no setting. Write section.name=value.")
        _merge(merged, _nested(path_to, _parse(value.strip())))
    built: T = _changed(kind(), merged, ())
    return built


def to_table(config: Any) -> dict[str, Any]:
    """A configuration as plain nested dicts, for a checkpoint or a report."""
    return {
        section: {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        for section, values in asdict(config).items()
    }


def write_toml(config: Any) -> str:
    """A configuration as TOML that `load_config` reads; settings that are None are left out."""
    lines = []
    for section, values in to_table(config).items():
        lines.append(f"[{section}]")
        lines += [f"{k} = {_literal(v)}" for k, v in values.items() if v is not None]
        lines.append("")
    return "\n".join(lines)


def names(kind: type, prefix: tuple[str, ...] = ()) -> list[str]:
    """Dotted names of all settings of a configuration class."""
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        if is_dataclass(hint):
            found += names(typing.cast(type, hint), (*prefix, name))
        else:
            found.append(".".join((*prefix, name)))
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return _toml_loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"No configuration at '{path}'.") from error
    except (ValueError, OSError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise ConfigError(f"'{path}' is not readable as TOML: {error}") from error


def _toml_loads(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


@dataclass(frozen=True)
class _Written:
    """A value as TOML has it, and as it was written, for a setting that is text."""

    text: str
    value: Any


def _parse(text: str) -> Any:
    """A value as TOML has it; what TOML does not know is text."""
    try:
        value = _toml_loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, (str, Mapping)) else _Written(text, value)


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if len(path) > 1 else value}


def _merge(into: dict[str, Any], table: Mapping[str, Any]) -> None:
    for name, value in table.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value


def _changed(start: Any, table: Any, path: tuple[str, ...]) -> Any:
    """The dataclass `start` with the values of a table, section by section; what the table leaves
    out stays, since a section's defaults can be other than those of its class."""
    if isinstance(table, _Written):
        table = table.value
    if not isinstance(table, Mapping):
        raise ConfigError(f"'{'.'.join(path)}' is a section, expected a table; got {table!r:.200}.")
    hints = typing.get_type_hints(type(start))
    for name, value in table.items():
        if name not in hints:
            raise ConfigError(_unknown(type(start), (*path, name), value))
    values = {
        name: _changed(getattr(start, name), value, (*path, name))
        if is_dataclass(hints[name])
        else _convert(hints[name], value, ".".join((*path, name)))
        for name, value in table.items()
    }
    try:
        return replace(start, **values)
    except ValueError as error:
        raise ConfigError(f"{'.'.join(path) or 'The configuration'}: {error}") from error


def _unknown(kind: type, path: tuple[str, ...], value: Any) -> str:
    here = typing.get_type_hints(kind)
    known = [
        name for name, hint in here.items() if is_dataclass(hint) == isinstance(value, Mapping)
    ]
    close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.0)
    nearest = f" Did you mean '{'.'.join((*path[:-1], close[0]))}'?" if close else ""
    return f"No setting '{'.'.join(path)}'.{nearest} All of them: --show."


def _convert(hint: Any, value: Any, name: str) -> Any:
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    text = None
    if isinstance(value, _Written):
        text, value = value.text, value.value
    if value is None or (value == "none" and type(None) in options):
        if type(None) in options:
            return None
        raise ConfigError(f"'{name}' needs a value.")
    for option in options:
        found = _as(option, value)
        if found is not None:
            return found
    if text is not None and str in options:
        return text
    raise ConfigError(f"'{name}' must be {_describe(hint)}; got {value!r:.200}.")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _as(hint: Any, value: Any) -> Any:
    """`value` as `hint` asks, or None. Whole numbers pass for decimals, nothing else is bent."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) >= MAX_WHOLE:
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value if value in arguments else None
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return None
        found = tuple(_as(arguments[0], item) for item in value)
        return None if any(item is None for item in found) else found
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and hint is not bool:
        return None
    return value if isinstance(hint, type) and isinstance(value, hint) else None


def _describe(hint: Any) -> str:
    if _is_union(hint):
        return " or ".join(_describe(h) for h in typing.get_args(hint) if h is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"a list of {_describe(typing.get_args(hint)[0])}s"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)
