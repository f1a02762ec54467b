"""What the commands print and how they end: results, progress, errors as exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer

from svfap_edge.atomic import json_line, without_nan
from svfap_edge.ending import give_up_stdout
from svfap_edge.errors import DependencyMissing, SourceError, SvfapError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from svfap_edge.sources.frames import Source


def count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def console(*, stderr: bool) -> Console:
    from rich.console import Console

    out = Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = 200  # a pipe has no width that tables should fit
    return out


def table(first: str, *others: str) -> Table:
    """A table without lines: the first column at the left, numbers of the others at the right."""
    from rich.table import Table

    found = Table(box=None, pad_edge=False)
    found.add_column(first)
    for heading in others:
        found.add_column(heading, justify="right")
    return found


def print_json(content: Any) -> None:
    """Print the one line that a command writes with `--json`; dataclasses are objects in it, and
    paths are text."""
    import msgspec

    plain = msgspec.to_builtins(content, enc_hook=str, str_keys=True)
    print(json_line(without_nan(plain), getattr(sys.stdout, "encoding", None)))


def say(text: str) -> None:
    """Write a line to standard error. What cannot be written is lost, and the command goes on."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Write a warning to standard error."""
    say(f"warning: {text}")


@contextmanager
def whole_output() -> Iterator[None]:
    """The outermost context of a command: standard output takes all that is printed in it, or the
    process ends with a message and exit code 2.

    Characters that an output does not have are written as escapes. A reader that has gone ends the
    process without a word.
    """
    while True:  # where an output is closed, the next file that is opened must not become it
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            break
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code: int | None = None
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        code = 0
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        code = 0  # click's own code would be 1
    except OSError as error:
        say(f"{SourceError.__name__}: {_reason(error)}")
        code = SourceError.exit_code
    if code is not None:
        give_up_stdout()
        raise SystemExit(code)


def _reason(error: OSError) -> str:
    """The words of the system, and the file they are about."""
    what = error.strerror or str(error)
    if error.filename is not None:
        return f"'{str(error.filename)[:300]}' cannot be used: {what}."
    return f"Standard output, or a file, cannot be written: {what}."


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turn an `SvfapError`, a file that cannot be used, or Ctrl-C into a message and an exit code.

    With `--json` an error is a JSON object on standard output, otherwise text on standard error.
    """
    try:
        yield
    except SvfapError as error:
        raise _told(error, as_json) from error
    except KeyboardInterrupt as error:
        say("interrupted")
        raise typer.Exit(130) from error
    except OSError as error:
        if error.filename is None:  # of an output; see `whole_output`
            raise
        raise _told(SourceError(_reason(error)), as_json) from error


def _told(error: SvfapError, as_json: bool) -> typer.Exit:
    """Print an error; return what ends the command."""
    kind = type(error).__name__
    if as_json:
        print_json({"error": {"type": kind, "message": str(error), "exit": error.exit_code}})
    else:
        say(f"{kind}: {error}")
    return typer.Exit(error.exit_code)


@contextmanager
def requiring(extra: str, what: str) -> Iterator[None]:
    """Raise a DependencyMissing that begins with `what` and names the package and its extra, if a
    package cannot be imported in this context."""
    try:
        yield
    except ImportError as error:
        raise DependencyMissing(
            f"{what} needs '{error.name}': pip install \"svfap-edge[{extra}]\""
        ) from error


@contextmanager
def on_signals(stop: Callable[[int, Any], None]) -> Iterator[None]:
    """Call `stop` for the signals that end a command: SIGTERM, and Ctrl-C and SIGHUP unless they
    are ignored, as a background job does."""
    ending = (signal.SIGINT, signal.SIGHUP)
    heeded = [signal.SIGTERM, *(n for n in ending if signal.getsignal(n) is not signal.SIG_IGN)]
    previous = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def stopping_cleanly(*sources: Source) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this context as Ctrl-C does: files are closed, and half-written
    bundles removed.

    Live sources are asked to end by the first signal of any kind; only a second one interrupts.
    A background job, which ignores Ctrl-C or SIGHUP, goes on ignoring it.
    """
    asked = False

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        if asked or not any(source.live for source in sources):
            raise KeyboardInterrupt
        asked = True
        for source in sources:
            source.stop()

    with on_signals(stop):
        yield


@contextmanager
def progress(title: str, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on standard error, where that is a terminal; the context gives the function that
    takes the frames done and all frames, if known."""
    err = console(stderr=True)
    if quiet or not err.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("frames"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Write one line to standard error for each step, with the seconds since the start; the context
    gives the function that begins a step."""
    import time

    started = time.perf_counter()

    def step(text: str) -> None:
        if not quiet:
            say(f"[{time.perf_counter() - started:5.1f} s] {text}")

    yield step
    step("Done")
