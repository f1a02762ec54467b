"""Python in a fresh process: what is measured or tried there cannot disturb, or crash, this one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from svfap_edge import errors
from svfap_edge.errors import InferenceError, SvfapError


def answer_of(
    arguments: Sequence[str],
    what: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Any:
    """Run Python in a fresh process that prints its answer, JSON, as its last line.

    Args:
        arguments: Of the interpreter: "-m", a module, and its options.
        what: Begins the message of an error: "Timing fp32.onnx on openvino".
        environment: Added to this process's.

    Raises:
        SvfapError: the error that the process raised, where it was one of ours.
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
    if result.returncode:
        raise _failure(result.returncode, result.stderr.strip(), what)
    try:
        return json.loads(result.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        said = (result.stdout + result.stderr).strip()[-400:]
        raise InferenceError(f"{what} gave no answer: {said}") from error


def _failure(code: int, said: str, what: str) -> SvfapError:
    """The error a process ended with, from its traceback."""
    for ours in list(re.finditer(r"^svfap_edge\.errors\.(\w+): ", said, re.MULTILINE))[-1:]:
        kind = getattr(errors, ours[1], None)
        if kind in SvfapError.__subclasses__():
            error: SvfapError = kind(said[ours.end() :])
            return error
    if code < 0:
        return InferenceError(f"{what} crashed (signal {-code}). {said[-400:]}".rstrip())
    return InferenceError(f"{what} failed: {said.splitlines()[-1][-400:] if said else code}")
