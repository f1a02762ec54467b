"""Addresses without their passwords, for messages, names and results."""

from __future__ import annotations

import re

HIDDEN = "***"
"""Stands where something was hidden."""

_QUOTED = r'"(?:\\.|[^"\\])*"?|' + r"'(?:\\.|[^'\\])*'?"
_ELEMENT = re.compile(rf"(?:{_QUOTED}|(?!\s!\s).)+|\s!\s", re.DOTALL)
_USER = re.compile(r"([a-z][a-z0-9+.-]+:/+).*@", re.IGNORECASE | re.DOTALL)
_NAKED_USER = re.compile(r"^(?![a-z][a-z0-9+.-]+:/)(?://)?[^/\s]*:.*@", re.IGNORECASE | re.DOTALL)
_QUERY = re.compile(r"[?#].+", re.DOTALL)
_QUERY_IN_PIPELINE = re.compile(r"""(?<=\S)[?#](?:(?<=")|[^\s"'])+""")
_KEY = (
    r"((?:pass(?:w(?:or)?d|phrase)?|pas|pwd|psw|pw|user-pw|token|secret|key|auth\w*|credentials?)"
    r"\s*[=:]\s*(?:\(\s*[\w-]+\s*\)\s*)?(?:(?:basic|bearer|digest)\s+)?)"
)
_IN_PIPELINE = re.compile(rf"{_KEY}(?:{_QUOTED}|(?:(?!&[\w.-]+=)(?:\\.|\S))+)", re.IGNORECASE)
_IN_URL = re.compile(rf"{_KEY}(?:(?!&[\w.-]+=).)+", re.IGNORECASE | re.DOTALL)


def without_passwords(text: str) -> str:
    """An address or GStreamer pipeline in which `***` stands for what may be secret.

    Three things are hidden: all from `://` to the last `@` of the URL or pipeline element, since a
    password may hold any character and be written without percent-encoding; every value of a
    query, since nobody knows all names that secrets go by, and what follows a `#`; and, elsewhere,
    the values of `password=`, `pwd=`, `user-pw=`, `token=` and the like. Where it is not clear how
    far a secret reaches, more is hidden rather than less.
    """
    starts_as_url = re.match(r"([a-z][a-z0-9+.-]+:)?/", text, re.IGNORECASE)
    if starts_as_url or not re.search(r"\s!\s", text):
        shown = _without_user(text)
        if re.match(r"([a-z][a-z0-9+.-]+:/|//)", shown, re.IGNORECASE):
            shown = _QUERY.sub(_without_values, shown)
        return _IN_URL.sub(rf"\1{HIDDEN}", shown)
    parts = (_without_user(part) for part in _ELEMENT.findall(text))
    parts = (_QUERY_IN_PIPELINE.sub(_without_values, part) for part in parts)
    return "".join(_IN_PIPELINE.sub(rf"\1{HIDDEN}", part) for part in parts)


def _without_values(query: re.Match[str]) -> str:
    """The names of a query, each with its value hidden."""
    names = re.findall(r"[?&;]([^=&;#?]{1,80})=", query[0].partition("#")[0])
    return "?" + ("&".join(f"{name}={HIDDEN}" for name in names) or HIDDEN)


def _without_user(text: str) -> str:
    return _NAKED_USER.sub(f"{HIDDEN}@", _USER.sub(rf"\1{HIDDEN}@", text))
