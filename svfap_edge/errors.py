"""Every error the SDK raises on purpose.

Each message says what happened, what was expected and what was found, and what to do next.
`exit_code` is what the command line exits with: 1 if the engine failed while running, 2 for bad
input or usage, 3 if an engine is missing, 4 if a quality gate failed, 5 if an artifact is
incompatible with this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real


class SvfapError(Exception):
    """The base of all errors raised on purpose."""

    exit_code = 2


class SourceError(SvfapError):
    """A video, folder or list cannot be read."""


class UnreadableClip(SourceError):
    """A video, frame folder or image of a list cannot be read. The error survives pickling, so that
    a loader's process can hand it to the one that counts.

    Attributes:
        path: Path of the entry.
        reason: Why it cannot be read, in a few words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"'{self.path}' cannot be read: {self.reason}."


class FrameError(SvfapError, ValueError):
    """A frame or clip has the wrong dtype or shape. Nothing was changed."""


class TimestampError(SvfapError, ValueError):
    """Time did not advance. The stream is unchanged."""


class BundleError(SvfapError):
    """A bundle is missing, damaged, altered, or of a format this version does not read."""


class CheckpointError(SvfapError):
    """A checkpoint cannot be opened, or is not one of this model."""


class TaskError(SvfapError):
    """A task is unknown, or its labels do not fit the data."""


class DependencyMissing(SvfapError):
    """An optional package that is needed is not installed."""

    exit_code = 3


class BackendUnavailable(SvfapError):
    """The engine that was asked for, or every engine that could run the artifact, is not installed
    or lacks something on this machine."""

    exit_code = 3


class InferenceError(SvfapError):
    """The engine failed, or returned something that is not a prediction (NaN, wrong shape)."""

    exit_code = 1


class QualityGateError(SvfapError):
    """An artifact differs too much from the model it was made from. Nothing was written."""

    exit_code = 4


class EngineIncompatible(SvfapError):
    """The artifact was built for something this machine does not have."""

    exit_code = 5


class ConfigError(SvfapError, ValueError):
    """A setting or an argument has an unknown name, another type than expected or a value out of
    its range; or a closed engine or stream is used."""


def require(holds: bool, name: str, expected: str, value: object) -> None:
    """Raise ConfigError with the name of an argument unless it `holds` what is expected of it."""
    if not holds:
        raise ConfigError(f"{name} must be {expected}; got {value}.")


def require_number(holds: Callable[[float], bool], name: str, expected: str, value: object) -> None:
    """As `require`, for an argument that has to be a number for which a condition `holds`. Text,
    None, arrays and integers beyond any float are none."""
    try:
        good = isinstance(value, Real) and holds(float(value))
    except OverflowError:
        good = False
    if not good:
        shown = f"{value:g}" if isinstance(value, float) else f"{value!r:.80}"
        raise ConfigError(f"{name} must be {expected}; got {shown}.")


class TrainingError(SvfapError):
    """Training cannot go on. The last resume checkpoint is intact."""

    exit_code = 1
