"""Plain data, as JSON and TOML have it, made into typed objects by msgspec.

What does not fit is refused with its place, what is expected there, and what was found. It stands
alone because manifests and training configurations share it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")

MAX_TEXT = 1000
_STEP = re.compile(r"\.([^.\[`]+)|\[(\d+)\]|\[\.\.\.\]")

Text = Annotated[
    str, msgspec.Meta(max_length=MAX_TEXT, description=f"text of at most {MAX_TEXT} characters")
]
Whole = Annotated[
    int,
    msgspec.Meta(ge=-(1 << 63) + 1, le=(1 << 63) - 1, description="a whole number of 64 bits"),
]
Number = Annotated[Whole | float, msgspec.Meta(description="a number")]


def fitted(content: Any, kind: type[T], error: Callable[[str], Exception]) -> T:
    """`content` as an instance of `kind`, a class that msgspec knows.

    Raises:
        Exception: What `error` makes of a sentence that says what does not fit.
    """
    try:
        return msgspec.convert(content, kind)
    except ValueError as misfit:  # a ValidationError; of odd names also a UnicodeEncodeError
        raise error(_explanation(content, kind, str(misfit))) from misfit


def options_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a type that is no union alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def describe(hint: Any) -> str:
    """What a value of this type is, in words: "a whole number in 1..8", "one of a, b"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        meta = arguments[1]
        bounds = f" in {meta.ge:.10g}..{meta.le:.10g}" if None not in (meta.ge, meta.le) else ""
        return meta.description or describe(arguments[0]) + bounds
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (tuple, list):
        return f"a list, each entry {describe(arguments[0])}"
    if len(options_of(hint)) > 1:
        return " or ".join(describe(option) for option in arguments if option is not type(None))
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return words.get(hint, "an object")


def _explanation(content: Any, kind: Any, message: str) -> str:
    """A sentence from a message of msgspec, which names a place but no key of a dictionary."""
    problem, found, path = message.rpartition(" - at `")
    if not found:  # it is about the whole
        problem, path = message, ""
    place, value, hint = "", content, kind
    for step in _STEP.finditer(path):
        name, index = step.groups()
        hint = next(option for option in options_of(hint) if option is not type(None))
        hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if index is not None:
            hint, value, place = get_args(hint)[0], value[int(index)], f"{place}[{index}]"
            continue
        if name is None:
            hint = get_args(hint)[1]
            name = next(key for key, entry in value.items() if not _fits(entry, hint))
        else:
            hint = get_type_hints(hint, include_extras=True)[name]
        value, place = value[name], f"{place}.{name:.80}".removeprefix(".")
    if problem.startswith("Object missing required field"):
        return f"'{place}{'.' if place else ''}{problem.split('`')[1]}' is missing."
    if problem.startswith(("Expected `", "Invalid enum value", "Number out of range")):
        subject = f"'{place}'" if place else "it"
        return f"{subject} must be {describe(hint)}; got {value!r:.80}."
    return f"{place}: {problem}" if place else problem


def _fits(value: Any, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except ValueError:
        return False
    return True
