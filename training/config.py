"""Settings of the training commands: dataclasses, filled from TOML and `key=value` overrides.

Every setting has a dotted name, section first: `optim.rate=3e-4`. A name that does not exist is
refused with the nearest one that does, a value of the wrong type with the type expected.
"""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Meta

from svfap_edge.errors import ConfigError
from svfap_edge.schema import describe, fitted, options_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

# Kinds of numbers; `load_config` checks their ranges.
Count = Annotated[int, Meta(ge=1, description="a whole number of at least 1")]
NotNegative = Annotated[float, Meta(ge=0, description="a number that is not negative")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number in 0..1")]
BelowOne = Annotated[float, Meta(ge=0, lt=1, description="a number in 0..1, below 1")]
PositiveShare = Annotated[float, Meta(gt=0, le=1, description="a number above 0, at most 1")]
Positive = Annotated[float, Meta(gt=0, description="a number above 0")]
NotNegativeWhole = Annotated[int, Meta(ge=0, description="a whole number that is not negative")]

MAX_WHOLE = 1 << 63  # whole numbers of TOML are smaller; Python's own reader takes any
MAX_DEPTH = 8  # of a dotted name; the deepest setting has two parts


def load_config(kind: type[T], path: Path | None, overrides: Sequence[str] = ()) -> T:
    """Defaults of `kind`, then the TOML file, then the overrides.

    Args:
        kind: A frozen dataclass of sections, each a frozen dataclass of values; all have defaults.
        overrides: "section.name=value", the value as in TOML; a bare word is text, and so is
            anything where the setting is text, such as a folder named 7 or 2025-01-05.

    Raises:
        ConfigError: There is no such file, it is not TOML, or a setting has an unknown name, a
            value of another type or one out of its range.
    """
    found, hints = to_table(kind()), settings(kind)
    if path is not None:
        _merge(found, _read_toml(path))
    for text in overrides:
        name, separator, value = text.partition("=")
        parts = name.strip().split(".")
        if not separator or not name.strip() or len(parts) > MAX_DEPTH:
            raise ConfigError(f"'{text:.80}' is no setting. Write section.name=value.")
        table = _parse(value.strip(), hints.get(name.strip()))
        for part in reversed(parts):
            table = {part: table}
        _merge(found, table)
    for name, hint in hints.items():
        section, _, key = name.partition(".")
        value = found[section][key]
        if value == "none" and type(None) in options_of(hint):
            found[section][key] = None
        elif not all(map(_is_usable, value if isinstance(value, list) else [value])):
            raise ConfigError(f"'{name}' must be {describe(hint)}; got {value!r:.200}.")
    return fitted(found, kind, ConfigError)


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
        present = {name: value for name, value in values.items() if value is not None}
        lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in present.items()]
        lines.append("")
    return "\n".join(lines)


def settings(kind: type) -> dict[str, Any]:
    """Types of all settings of a configuration class by their dotted names."""
    return {
        f"{section}.{name}": hint
        for section, fields in get_type_hints(kind).items()
        for name, hint in get_type_hints(fields, include_extras=True).items()
    }


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"No configuration at '{path}'.") from error
    except (ValueError, OSError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise ConfigError(f"'{path}' is not readable as TOML: {error}") from error


def _parse(text: str, hint: Any) -> Any:
    """A value as TOML has it; text where TOML does not know it or the setting is text, and words
    with commas between them where the setting is a list."""
    hints = options_of(hint)
    lists = [option for option in hints if get_origin(option) is tuple and text[:1] != "["]
    for written in (f"[{text}]", text) if lists and "," in text else (text,):
        try:
            value = tomllib.loads(f"value = {written}")["value"]
        except (ValueError, RecursionError):
            continue
        words = str in (*hints, *(get_args(option)[0] for option in lists))
        entries = value if lists and isinstance(value, list) else [value]
        if words and not all(isinstance(entry, str) for entry in entries):
            break  # folders and labels are named by numbers, too
        return [value] if lists and isinstance(value, str) else value
    if not lists or text == "none":
        return text
    return [part.strip() for part in text.split(",")]


def _merge(into: dict[str, Any], table: Mapping[str, Any], *path: str) -> None:
    """Overwrite settings, section by section. Every setting has to be in `into` already."""
    for name, value in table.items():
        dotted = ".".join((*path, name))
        if name not in into:
            known = [n for n in into if isinstance(into[n], dict) == isinstance(value, dict)]
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            nearest = f" Did you mean '{'.'.join((*path, *close))}'?" if close else ""
            raise ConfigError(f"No setting '{dotted}'.{nearest} All of them: --show.")
        if not isinstance(into[name], dict):
            into[name] = value
        elif isinstance(value, dict):
            _merge(into[name], value, *path, name)
        else:
            raise ConfigError(f"'{dotted}' is a section, expected a table; got {value!r:.200}.")


def _is_usable(value: Any) -> bool:
    """False for numbers that no setting can have, and that TOML or Python's reader of it takes."""
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < MAX_WHOLE
