"""The free parts of a manifest: what of them the SDK reads back must have the right form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANY = "*"
"""Key of a shape that stands for every key."""

MAX_TEXT = 1000
NUMBER, WHOLE, TEXT = "a number", "a whole number", f"text of at most {MAX_TEXT} characters"

TEXTS: dict[str, Any] = {ANY: TEXT}
NEEDS: dict[str, Any] = {
    "flavour": TEXT,
    "tensorrt": TEXT,
    "os": TEXT,
    "machine": TEXT,
    "compute_capability": [TEXT],
}
PROVENANCE: dict[str, Any] = {"parameters": NUMBER}
QUANTIZATION: dict[str, Any] = {"files": [TEXT]}
QUALITY: dict[str, Any] = {
    ANY: {
        "layers": {ANY: WHOLE},
        "parity": {ANY: {"max_abs!": NUMBER, "clips!": WHOLE}},
        "measured": {ANY: NUMBER},
    }
}


def misfit(value: Any, shape: Any, place: str) -> str | None:
    """What of `value` does not have the shape, by its place; None if all has.

    A shape is NUMBER, WHOLE, TEXT, a list with the shape of every entry, or a dict with the shapes
    of some keys; a key that ends in "!" has to be there. Other keys may hold anything.
    """
    if isinstance(shape, dict):
        return _misfit_object(value, shape, place)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"'{place}' must be a list; it is {value!r:.80}."
        found = (misfit(entry, shape[0], f"{place}[{i}]") for i, entry in enumerate(value))
        return next(filter(None, found), None)
    return None if _is_plain(value, shape) else f"'{place}' must be {shape}; it is {value!r:.80}."


def _misfit_object(value: Any, shape: dict[str, Any], place: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"'{place}' must be an object; it is {value!r:.80}."
    for key in (key[:-1] for key in shape if key.endswith("!")):
        if key not in value:
            return f"'{place}.{key}' is missing."
    for key, entry in value.items():
        inner = next((shape[k] for k in (key, f"{key}!", ANY) if k in shape), None)
        problem = misfit(entry, inner, f"{place}.{key:.80}") if inner is not None else None
        if problem:
            return problem
    return None


def _is_plain(value: Any, shape: str) -> bool:
    if shape == TEXT:
        return isinstance(value, str) and len(value) <= MAX_TEXT
    if isinstance(value, bool) or not isinstance(value, int if shape == WHOLE else (int, float)):
        return False
    return isinstance(value, float) or abs(value) < 1 << 63
