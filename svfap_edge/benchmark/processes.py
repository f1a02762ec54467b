"""Python in a fresh process: what is measured or tried there cannot disturb, or crash, this one.

The parent calls `run_apart`, or `answer_of` for a program of its own. The child answers within
`answering`: with its result, or with the error that stopped it, as one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, get_type_hints

import msgspec

from svfap_edge import errors
from svfap_edge.errors import InferenceError, SvfapError

T = TypeVar("T")

LAST_CHARACTERS = 400
"""Characters of what a failed process printed that its error repeats."""


def run_apart(
    function: Callable[..., T],
    what: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    **arguments: Any,
) -> T:
    """Call a function of a module in a fresh process.

    Args:
        function: Its annotations say what its arguments and its result are made of.
        what, environment, timeout_s: As in `answer_of`, where the errors are described.
        arguments: Arguments of the function: plain values, paths and dataclasses.
    """
    call = _json_of([function.__module__, function.__name__, arguments])
    answer = answer_of(["-m", __name__, call], what, environment, timeout_s)
    result: T = _value_of(answer, get_type_hints(function)["return"])
    return result


def answer_of(
    arguments: Sequence[str],
    what: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Any:
    """Run Python in a fresh process that prints its answer, JSON, as its last line.

    Args:
        arguments: Arguments of the interpreter.
        what: Begins the message of an error: "Timing fp32.onnx on openvino".
        environment: Variables added to those of this process.
        timeout_s: Seconds after which the process is ended; None to wait for ever.

    Raises:
        SvfapError: the error that the process reported, of the same class.
        InferenceError: it failed otherwise, crashed, or did not end within `timeout_s`.
    """
    try:
        result = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **(environment or {})},
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise InferenceError(f"{what} did not end within {timeout_s:g} s.") from error
    answer: Any = None
    with suppress(ValueError, IndexError):
        answer = json.loads(result.stdout.splitlines()[-1])
    if result.returncode:
        raise _failure(result.returncode, answer, result.stderr.strip(), what)
    if answer is None:
        said = (result.stdout + result.stderr).strip()[-LAST_CHARACTERS:]
        raise InferenceError(f"{what} gave no answer: {said}")
    return answer


@contextmanager
def answering() -> Iterator[Callable[[Any], None]]:
    """Give a child process the function that answers its parent. An SvfapError in the block is its
    answer, too, and ends the process with the error's exit code."""

    def answer(content: Any) -> None:
        print("\n" + _json_of(content), flush=True)  # what a library printed may lack its end

    try:
        yield answer
    except SvfapError as error:
        answer({"error": _to_json(error)})
        sys.exit(error.exit_code)


def _to_json(error: SvfapError) -> dict[str, Any]:
    """The error as its nearest class in `svfap_edge.errors`, which a parent can build again."""
    kind = next(k for k in type(error).__mro__ if k.__module__ == errors.__name__)
    arguments = error.args if kind is type(error) else (str(error),)
    return {"class": kind.__name__, "arguments": [str(argument) for argument in arguments]}


def _failure(code: int, answer: Any, said: str, what: str) -> SvfapError:
    """The error of a process that ended with this code, having said this on standard error."""
    if isinstance(answer, dict) and "error" in answer:
        kind = getattr(errors, answer["error"]["class"])
        error: SvfapError = kind(*answer["error"]["arguments"])
        return error
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return InferenceError(f"{what} crashed ({name}). {said[-LAST_CHARACTERS:]}".rstrip())
    last = said.splitlines()[-1][-LAST_CHARACTERS:] if said else f"exit code {code}"
    return InferenceError(f"{what} failed: {last}")


def _json_of(content: Any) -> str:
    return msgspec.json.encode(content, enc_hook=str).decode()  # str is for paths


def _value_of(content: Any, kind: Any) -> Any:
    """What was made plain for JSON, as this type again."""
    return msgspec.convert(content, kind, str_keys=True, dec_hook=lambda path, text: path(text))


if __name__ == "__main__":
    with answering() as answer:
        module, name, arguments = json.loads(sys.argv[1])
        function = getattr(importlib.import_module(module), name)
        hints = get_type_hints(function)
        answer(function(**{key: _value_of(v, hints[key]) for key, v in arguments.items()}))
