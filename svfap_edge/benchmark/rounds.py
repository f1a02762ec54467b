"""What every artifact of a bundle does on this machine: cold start, latency, throughput, memory,
and the time of the whole application by stage.

Every measurement runs in a fresh process. In each round all artifacts take their turn, in the
opposite order in every other round, so that a machine that grows slower slows all of them; a
comparison takes the ratio within each round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from svfap_edge.bundle import Bundle
from svfap_edge.errors import BackendUnavailable, BundleError, SvfapError
from svfap_edge.machine import describe_machine
from svfap_edge.runtimes.choice import ENGINES, choose, split_engine

from .results import Benchmark, BenchmarkOptions, LeftOut, Row, compare
from .stages import time_stages
from .timing import Timed, cold_start, time_model

__all__ = ["Benchmark", "BenchmarkOptions", "benchmark", "runnable"]

MIN_CALLS = 3
"""Timed calls in a process at least, however slow the model."""


def benchmark(
    bundle: Bundle,
    options: BenchmarkOptions,
    progress: Callable[[str], None] = lambda message: None,
) -> Benchmark:
    """Measure everything that the options ask for.

    Raises:
        BundleError: no such artifact.
        BackendUnavailable: nothing can run here.
        SvfapError: the source cannot be read, or what was named to be compared cannot run.
    """
    compared = [_named(bundle, text, options.engine) for text in options.compare]
    wanted, left_out = ([], []) if compared else runnable(bundle, None, options.engine)
    if options.artifacts is not None:
        wanted, left_out = runnable(bundle, options.artifacts, options.engine)
    rows = _rows(bundle, compared + [timed for timed in wanted if timed not in compared])
    rows = _start_cold(rows, options, left_out, progress)
    if not rows:
        reasons = "\n".join(f"{o.artifact} on {o.engine}: {o.reason}" for o in left_out)
        raise BackendUnavailable(f"No artifact of '{bundle.path}' runs here.\n{reasons}")
    for number in range(options.rounds):
        for row in rows if number % 2 == 0 else rows[::-1]:
            progress(f"Round {number + 1} of {options.rounds}: {row.name}")
            _take_turn(row, options)
    return Benchmark(
        bundle=bundle.path,
        options=options,
        rows=rows,
        left_out=left_out,
        comparisons=[
            found for other in rows[1 : len(compared)] for found in compare(rows[0], other)
        ],
        notes=_notes(options),
        machine=describe_machine(),
    )


def runnable(
    bundle: Bundle, artifacts: Sequence[str] | None = None, engine: str = "all"
) -> tuple[list[Timed], list[LeftOut]]:
    """What the installed engines should run, and what they cannot.

    Raises:
        BundleError: no such artifact.
        BackendUnavailable: no engine or provider of that name.
    """
    if engine not in ("all", "auto"):
        if engine.partition(":")[0] not in ENGINES:
            raise BackendUnavailable(
                f"No engine '{engine}' in this version. Choose all, auto, {', '.join(ENGINES)}."
            )
        split_engine(engine)
    found: list[Timed] = []
    left_out: list[LeftOut] = []
    for name in artifacts or bundle.manifest.artifacts:
        form = bundle.artifact(name).format
        able = [each for each, entry in ENGINES.items() if form in entry.formats]
        for each in (able or ["auto"]) if engine == "all" else [engine]:
            try:
                found.append(Timed(bundle.path, *choose(bundle, name, each)))
            except SvfapError as error:
                left_out.append(LeftOut(name, each, str(error)))
    return found, left_out


def _named(bundle: Bundle, text: str, engine: str) -> Timed:
    """ARTIFACT or ARTIFACT@ENGINE."""
    name, _, own = text.partition("@")
    return Timed(bundle.path, *choose(bundle, name, own or ("auto" if engine == "all" else engine)))


def _rows(bundle: Bundle, chosen: Sequence[Timed]) -> list[Row]:
    rows: list[Row] = []
    for timed in chosen:
        again = sum(row.timed == timed for row in rows)
        name = f"{timed} ({again + 1})" if again else str(timed)
        rows.append(Row(name, timed, bundle.artifact(timed.artifact).bytes))
    return rows


def _start_cold(
    rows: Sequence[Row],
    options: BenchmarkOptions,
    left_out: list[LeftOut],
    progress: Callable[[str], None],
) -> list[Row]:
    """Time the cold starts; the first start of all, not counted, tells which rows run at all.

    Raises:
        SvfapError: the bundle is damaged, no row runs, or one to be compared does not.
    """
    able = []
    failure: SvfapError | None = None
    with tempfile.TemporaryDirectory(prefix="svfap-edge-cold-") as scratch:
        caches = {}
        for number, row in enumerate(rows):
            progress(f"Starting {row.name}")
            cache = caches[row.name] = Path(scratch) / str(number)
            try:
                cold_start(row.timed, options.threads, str(cache))
                able.append(row)
            except SvfapError as error:
                if options.compare or isinstance(error, BundleError):
                    raise
                failure = failure or error
                left_out.append(LeftOut(row.timed.artifact, row.timed.engine, str(error)))
        if failure and not able:
            raise failure
        for number in range(options.cold):
            for row in able if number % 2 == 0 else able[::-1]:
                progress(f"Cold start {number + 1} of {options.cold}: {row.name}")
                _count_starts(row, caches[row.name], options.threads)
    return able


def _count_starts(row: Row, cache: Path, threads: int | None) -> None:
    found = cold_start(row.timed, threads, "off")
    row.uncached_s.append(found.seconds)
    row.peak_mb = max(row.peak_mb, found.peak_mb)
    if any(file.is_file() for file in cache.rglob("*")):
        row.cached_s.append(cold_start(row.timed, threads, str(cache)).seconds)


def _take_turn(row: Row, options: BenchmarkOptions) -> None:
    share = options.seconds / options.rounds
    batches = sorted({1, *options.batches})
    row.times.append(
        time_model(
            row.timed, calls=MIN_CALLS, seconds=share, batches=batches, threads=options.threads
        )
    )
    if options.source is not None:
        row.stages.append(
            time_stages(
                row.timed,
                options.source,
                share,
                detector=options.detector,
                face_model=options.face_model,
                threads=options.threads,
            )
        )


def _notes(options: BenchmarkOptions) -> list[str]:
    if options.source is None:
        return ["No video: the application was not measured (--source VIDEO)."]
    if options.source == "sample":
        return ["The frames of 'sample' are drawn, not decoded."]
    return []
