"""Python in a fresh process: what is measured or tried there cannot disturb, or crash, this one.

The parent calls `answer_of`, the child answers within `answering`: with its result, or with the
error that stopped it, as one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from svfap_edge import errors
from svfap_edge.errors import InferenceError, SvfapError

LAST_CHARACTERS = 400
"""Characters of what a failed process printed that its error repeats."""


def answer_of(
    arguments: Sequence[str],
    what: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Any:
    """Run Python in a fresh process that prints its answer, JSON, as its last line.

    Args:
        arguments: Arguments of the interpreter: "-m", a module, and its options.
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
    """Answer the parent from a child process; an SvfapError in the block is its answer, too.

    >>> with answering() as answer:
    ...     answer([1, 2])
    <BLANKLINE>
    [1, 2]

    Raises:
        SystemExit: with the error's exit code, after it was reported.
    """

    def answer(content: Any) -> None:
        print("\n" + json.dumps(content), flush=True)  # what a library printed may lack its end

    try:
        yield answer
    except SvfapError as error:
        answer({"error": _to_json(error)})
        sys.exit(error.exit_code)


def _to_json(error: SvfapError) -> dict[str, Any]:
    """The error as its nearest class in `svfap_edge.errors`, which a parent can build again."""
    kind = next(k for k in type(error).__mro__ if k.__module__ == errors.__name__)
    arguments = error.args if kind is type(error) else (str(error),)
    return {
        "class": kind.__name__,
        "message": str(error),
        "arguments": [str(argument) for argument in arguments],
        "exit_code": error.exit_code,
    }


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
