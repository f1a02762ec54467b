"""One finding of `doctor`, and what its parts share."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from svfap_edge.errors import SvfapError

State = Literal["ok", "missing", "broken", "note"]
"""It works; it is not there; it is there and does not work; it works, with something to know."""

Answer = dict[str, Any] | SvfapError
"""Facts, or why there are none."""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        group: "software", "model", "engines", "processor", "gpu", "video", "space" or "optional".
        name: What was looked at.
        state: See `State`.
        fact: What was found.
        advice: What to do; empty where nothing is.
    """

    group: str
    name: str
    state: State
    fact: str
    advice: str = ""


def present(module: str) -> bool:
    """Whether a module is installed; imports at most the namespace it lies in."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def version_of(distribution: str) -> str:
    """Version of an installed distribution; empty if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def one_line(text: str) -> str:
    """A message on one line."""
    return " ".join(text.split())[:400]
