"""Every artifact of a bundle on this machine: cold start, latency, throughput, memory, and the time
of the whole application by stage.

Every measurement runs in a fresh process. In each round all artifacts take their turn, in the
opposite order in every other round; a comparison takes the ratio within each round.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svfap_edge.bundle import Bundle
from svfap_edge.errors import BackendUnavailable, BundleError, SvfapError
from svfap_edge.machine import OtherLoad, describe_machine
from svfap_edge.runtimes.choice import ENGINES, choose, split_engine

from . import pytorch
from .processes import run_apart
from .results import Benchmark, BenchmarkOptions, LeftOut, Row, compare
from .stages import time_stages
from .timing import Timed, cold_start, time_model

MIN_CALLS = 3
"""Smallest number of counted calls in a process, however slow the model."""


def benchmark(
    bundle: Bundle,
    options: BenchmarkOptions,
    progress: Callable[[str], None] = lambda message: None,
) -> Benchmark:
    """Measure everything that the options ask for.

    SvfapError if an artifact, the checkpoint or the source cannot be opened, if nothing can run
    here, or what was named to be compared cannot.
    """
    compared = [_named(bundle, text, options.engine) for text in options.compare]
    wanted, left_out = ([], []) if compared else runnable(bundle, None, options.engine)
    if options.artifacts is not None:
        wanted, left_out = runnable(bundle, options.artifacts, options.engine)
    with _held_to(options.isa):
        published = _checkpoint_rows(options, progress)
        rows = _rows(bundle, compared + [timed for timed in wanted if timed not in compared])
        rows = _start_cold(rows, options, left_out, progress)
        if not rows:
            raise nothing_runs(bundle, left_out)
        every = published + rows
        with OtherLoad() as load:
            for number in range(options.rounds):
                for row in every if number % 2 == 0 else every[::-1]:
                    progress(f"Round {number + 1} of {options.rounds}: {row.name}")
                    _take_turn(row, options)
    pairs = [(rows[0], other) for other in rows[1 : len(compared)]]
    pairs += [(published[0], other) for other in every[1:] if published]
    return Benchmark(
        bundle=bundle.path,
        options=options,
        rows=every,
        left_out=left_out,
        comparisons=[found for first, second in pairs for found in compare(first, second)],
        notes=[*_notes(options), *filter(None, [load.sentence()])],
        machine=describe_machine(),
    )


def runnable(
    bundle: Bundle, artifacts: Sequence[str] | None = None, engine: str = "all"
) -> tuple[list[Timed], list[LeftOut]]:
    """Find what the installed engines should run, and what they cannot; see `BenchmarkOptions`.
    BundleError and BackendUnavailable if there is no artifact, engine or provider of a name."""
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
                found.append(Timed(bundle.path, *choose(bundle, name, each), bundle.signed_by))
            except SvfapError as error:
                left_out.append(LeftOut(name, each, str(error)))
    return found, left_out


def nothing_runs(bundle: Bundle, left_out: Sequence[LeftOut]) -> BackendUnavailable:
    """The error for a bundle of which nothing can run here, with the reason for each artifact."""
    reasons = "\n".join(f"{each.artifact} on {each.engine}: {each.reason}" for each in left_out)
    return BackendUnavailable(f"No artifact of '{bundle.path}' runs here.\n{reasons}")


@contextmanager
def _held_to(isa: str | None) -> Iterator[None]:
    """Let processes started in this context use no instruction set beyond this one. They keep no
    cache, which does not know the instruction set."""
    before = dict(os.environ)
    if isa is not None:
        os.environ.update({"ONEDNN_MAX_CPU_ISA": isa.upper(), "SVFAP_EDGE_CACHE": "off"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _checkpoint_rows(options: BenchmarkOptions, progress: Callable[[str], None]) -> list[Row]:
    """The rows of the checkpoint, the reference first; none without a checkpoint."""
    if options.checkpoint is None:
        return []
    found = [Timed(options.checkpoint, variant, pytorch.NAME) for variant in pytorch.VARIANTS]
    progress(f"Opening {options.checkpoint}")
    run_apart(time_model, f"Timing {found[0]}", timed=found[0], calls=1, batches=())
    size = options.checkpoint.stat().st_size
    return [Row(f"{pytorch.NAME} {timed.artifact}", timed, size) for timed in found]


def _named(bundle: Bundle, text: str, engine: str) -> Timed:
    """What "ARTIFACT" or "ARTIFACT@ENGINE" names."""
    name, _, own = text.partition("@")
    chosen = choose(bundle, name, own or ("auto" if engine == "all" else engine))
    return Timed(bundle.path, *chosen, bundle.signed_by)


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
    """Time the cold starts; the first start of each, not counted, shows which rows run at all."""
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
    seconds, peak_mb = cold_start(row.timed, threads, "off")
    row.uncached_s.append(seconds)
    row.peak_mb = max(row.peak_mb, peak_mb)
    if any(file.is_file() for file in cache.rglob("*")):
        row.cached_s.append(cold_start(row.timed, threads, str(cache))[0])


def _take_turn(row: Row, options: BenchmarkOptions) -> None:
    common: dict[str, Any] = {
        "timed": row.timed,
        "seconds": options.seconds / options.rounds,
        "threads": options.threads,
    }
    batches = sorted({1, *options.batches})
    what = f"Timing {row.timed}"
    row.times.append(run_apart(time_model, what, calls=MIN_CALLS, batches=batches, **common))
    if options.source is not None and row.timed.engine != pytorch.NAME:
        common |= {"detector": options.detector, "face_model": options.face_model}
        what = f"Running {row.timed}"
        row.stages.append(run_apart(time_stages, what, source=options.source, **common))


def _notes(options: BenchmarkOptions) -> list[str]:
    notes = []
    if options.source is None:
        notes.append("No video: the application was not measured (--source VIDEO).")
    elif options.source == "sample":
        notes.append("The frames of 'sample' are drawn, not decoded.")
    if options.isa is not None:
        notes.append(
            f"OpenVINO and bf16 in PyTorch used no instruction set beyond {options.isa.upper()}; "
            "ONNX Runtime and fp32 in PyTorch are not held to it."
        )
    return notes
