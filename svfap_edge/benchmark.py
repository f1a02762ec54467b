"""What every artifact of a bundle does on this machine: cold start, latency, throughput, memory,
and the time of the whole application by stage.

Every measurement runs in a fresh process. In each round all artifacts take their turn, in the
opposite order in every other round, so that a machine that grows slower slows all of them; a
comparison takes the ratio within each round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle
from .errors import BackendUnavailable, BundleError, SvfapError
from .machine import describe_machine
from .runtimes.backend import ENGINES, choose
from .stages import PER_PREDICTION, StageTimes, time_stages
from .timing import ModelTimes, Timed, cold_start, time_model

MIN_CALLS = 3
"""Timed calls in a process at least, however slow the model."""

MIN_FOR_P99 = 100
"""Below so many values a 99th percentile is just the largest, and is not told."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """How to measure.

    Attributes:
        artifacts: Names; None for all that can run here.
        engine: "all" for every engine that runs an artifact, "auto" for the best, or a name.
        compare: Two or more of "ARTIFACT" or "ARTIFACT@ENGINE": the first against each other
            one. Alone, without `artifacts`, nothing else is measured. The same one twice shows
            how far two equal rows differ.
        source: Video of the application, "sample", or None for none.
        detector, face_model: As `Perceiver` takes them.
        seconds: That each measurement of an artifact takes, all rounds together.
        rounds: Processes of each measurement.
        cold: Counted cold starts, with and without cache each; 0 for none.
        threads: CPU threads of the engine.
        batches: Clips in a call; one clip is always measured.
    """

    artifacts: Sequence[str] | None = None
    engine: str = "all"
    compare: Sequence[str] = ()
    source: str | None = "sample"
    detector: str = "auto"
    face_model: Path | None = None
    seconds: float = 5.0
    rounds: int = 3
    cold: int = 3
    threads: int | None = None
    batches: Sequence[int] = (4,)


@dataclass(frozen=True)
class Spread:
    """Percentiles; the 99th is None for fewer than `MIN_FOR_P99` values."""

    p50: float
    p95: float
    p99: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no values."""
        if not len(values):
            return None
        p50, p95, p99 = (float(p) for p in np.percentile(values, [50, 95, 99]))
        return cls(p50, p95, p99 if len(values) >= MIN_FOR_P99 else None, len(values))

    def to_json(self) -> dict[str, Any]:
        return {name: round(v, 4) if v is not None else None for name, v in asdict(self).items()}


@dataclass
class Row:
    """An artifact on an engine, and what was measured of it.

    Attributes:
        name: "fp32.onnx on openvino"; unique in a benchmark.
        timed: What ran.
        bytes: Size of the artifact.
        uncached_s, cached_s: Cold starts; `cached_s` is empty where the engine keeps no cache.
        peak_mb: Of the process that predicts once; 0 without cold starts.
        times: Of the model, one entry a round.
        stages: Of the application, one entry a round; empty without a source.
    """

    name: str
    timed: Timed
    bytes: int
    uncached_s: list[float] = field(default_factory=list)
    cached_s: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    times: list[ModelTimes] = field(default_factory=list)
    stages: list[StageTimes] = field(default_factory=list)

    @property
    def precision(self) -> str:
        """What the engine really computed in."""
        return self.times[0].precision

    def latency(self) -> Spread:
        """Milliseconds of one clip."""
        found = Spread.of([ms for times in self.times for ms in times.ms[1]])
        assert found is not None
        return found

    def throughput(self) -> dict[int, float]:
        """Clips per second by clips in a call."""
        found = {}
        for batch in self.times[0].ms:
            calls = [ms for times in self.times for ms in times.ms[batch]]
            found[batch] = batch * len(calls) * 1e3 / sum(calls)
        return found

    def stage(self, name: str) -> Spread | None:
        """Milliseconds of a stage of the application; None if it never ran."""
        return Spread.of([ms for times in self.stages for ms in times.ms.get(name, ())])

    def stage_names(self) -> list[str]:
        return list(dict.fromkeys(name for times in self.stages for name in times.total_s))

    def application(self) -> dict[str, Any] | None:
        """Frames per second, and the stages."""
        if not sum(times.frames for times in self.stages):
            return None
        wall_s = sum(times.wall_s for times in self.stages)
        frames = sum(times.frames for times in self.stages)
        stages = {}
        for name in self.stage_names():
            spread = self.stage(name)
            total_s = sum(times.total_s[name] for times in self.stages)
            stages[name] = {
                "per": "frame with predictions" if name in PER_PREDICTION else "frame",
                "share": round(total_s / wall_s, 4),
                "ms": spread.to_json() if spread else None,
            }
        return {
            "detector": self.stages[0].detector,
            "frames": frames,
            "predictions": sum(times.predictions for times in self.stages),
            "fps": round(frames / wall_s, 2),
            "peak_mb": round(max(times.peak_mb for times in self.stages), 1),
            "stages": stages,
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "artifact": self.timed.artifact,
            "engine": self.timed.engine,
            "precision": self.precision,
            "bytes": self.bytes,
            "cold_start_s": {
                "without_cache": _of_starts(self.uncached_s),
                "with_cache": _of_starts(self.cached_s),
            },
            "latency_ms": self.latency().to_json(),
            "clips_per_s": {str(b): round(rate, 3) for b, rate in self.throughput().items()},
            "peak_mb": round(self.peak_mb, 1) or None,
            "application": self.application(),
        }


@dataclass(frozen=True)
class Comparison:
    """How two rows relate: the median over rounds of the ratio within each, and its range.

    Attributes:
        first, second: Names of the rows.
        what: "latency", or "clips/s of 4".
        ratio: Of the first to the second.
        low, high: Smallest and largest ratio of a round.
        rounds: That were compared.
    """

    first: str
    second: str
    what: str
    ratio: float
    low: float
    high: float
    rounds: int

    def to_json(self) -> dict[str, Any]:
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class LeftOut:
    """An artifact that cannot run here, and why."""

    artifact: str
    engine: str
    reason: str


@dataclass
class Benchmark:
    """All that was found; `notes` are what was not measured and why."""

    bundle: Path
    options: BenchmarkOptions
    rows: list[Row]
    left_out: list[LeftOut]
    comparisons: list[Comparison]
    notes: list[str]
    machine: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        options = asdict(self.options)
        options["face_model"] = str(options["face_model"]) if options["face_model"] else None
        return {
            "bundle": str(self.bundle),
            "machine": self.machine,
            "options": options,
            "rows": [row.to_json() for row in self.rows],
            "comparisons": [found.to_json() for found in self.comparisons],
            "left_out": [asdict(each) for each in self.left_out],
            "notes": self.notes,
        }


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
        BackendUnavailable: no engine of that name.
    """
    if engine not in ("all", "auto", *ENGINES):
        raise BackendUnavailable(
            f"No engine '{engine}' in this version. Choose all, auto, {', '.join(ENGINES)}."
        )
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


def compare(first: Row, second: Row) -> list[Comparison]:
    """Latency of one clip, and throughput of larger calls."""
    found = []
    for batch in first.times[0].ms:
        ratios = []
        for a, b in zip(first.times, second.times, strict=True):
            ratio = float(np.median(a.ms[batch]) / np.median(b.ms[batch]))
            ratios.append(ratio if batch == 1 else 1 / ratio)
        middle, low, high = float(np.median(ratios)), min(ratios), max(ratios)
        what = "latency" if batch == 1 else f"clips/s of {batch}"
        found.append(Comparison(first.name, second.name, what, middle, low, high, len(ratios)))
    return found


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


def _of_starts(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    values = {"median": float(np.median(seconds)), "min": min(seconds), "max": max(seconds)}
    return {name: round(value, 4) for name, value in values.items()}
