"""What the commands share: options, output, progress, and errors as exit codes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svfap_edge.errors import SvfapError

if TYPE_CHECKING:
    from rich.console import Console

    from svfap_edge.sources.frames import Source

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def split(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


def count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def console(*, stderr: bool) -> Console:
    from rich.console import Console

    out = Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = 200  # a pipe has no width that tables should fit
    return out


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Errors become a message and an exit code."""
    try:
        yield
    except SvfapError as error:
        kind = type(error).__name__
        if as_json:
            content = {"error": {"type": kind, "message": str(error), "exit": error.exit_code}}
            print(json.dumps(content, ensure_ascii=False))
        else:
            print(f"{kind}: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(130) from error
    except BrokenPipeError as error:  # the reader of our output has gone
        sys.stderr.close()
        raise typer.Exit(0) from error


@contextmanager
def stopping_cleanly(*sources: Source) -> Iterator[None]:
    """SIGTERM ends like Ctrl-C: files are closed, half-written bundles removed. Live sources are
    asked to end by the first signal of either kind; only a second one interrupts. A background
    job, which ignores Ctrl-C, goes on ignoring it."""
    asked = False

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        if asked or not any(source.live for source in sources):
            raise KeyboardInterrupt
        asked = True
        for source in sources:
            source.stop()

    heeded = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        heeded.append(signal.SIGINT)
    previous = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def progress(title: str, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error, where that is a terminal."""
    err = console(stderr=True)
    if quiet or not err.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} frames"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """One line for each step, with the time the previous one took."""
    import time

    started = time.perf_counter()

    def step(text: str) -> None:
        if not quiet:
            print(f"[{time.perf_counter() - started:5.1f} s] {text}", file=sys.stderr)

    yield step
    step("Done")
