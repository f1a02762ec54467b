"""What a benchmark was asked for, and what it found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge.errors import ConfigError
from svfap_edge.sources.passwords import without_passwords

from .stages import PER_PREDICTION, STAGES, StageTimes
from .timing import ModelTimes, Timed

MIN_FOR_P99 = 100
"""With fewer values a 99th percentile is just the largest value, and is not given."""

ISAS = (
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI",
    "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16",
)  # fmt: skip
"""Values of ONEDNN_MAX_CPU_ISA; others are ignored without a word by oneDNN."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure, and how.

    Attributes:
        artifacts: Names of artifacts; None for all that can run here.
        engine: "all" for every engine that runs an artifact, "auto" for the best, or a name.
        compare: Two or more of "ARTIFACT" or "ARTIFACT@ENGINE": the first is compared with each
            other one. Without `artifacts`, nothing else is measured. The same one twice shows
            how far two equal rows differ.
        checkpoint: PyTorch checkpoint that is measured too; every row is compared with its
            reference, see `svfap_edge.benchmark.pytorch`.
        source: Video of the application, "sample", or None for none.
        detector, face_model: As `Perceiver` takes them.
        seconds: Time that each measurement of an artifact takes, all rounds together.
        rounds: Processes of each measurement.
        cold: Counted cold starts without cache, and as many with it.
        threads: CPU threads of the engine; None for its own choice.
        batches: Numbers of clips in a call; one clip is always measured.
        isa: Instruction set that oneDNN (in OpenVINO and PyTorch) may use at most, out of `ISAS`.
    """

    artifacts: Sequence[str] | None = None
    engine: str = "all"
    compare: Sequence[str] = ()
    checkpoint: Path | None = None
    source: str | None = "sample"
    detector: str = "auto"
    face_model: Path | None = None
    seconds: float = 5.0
    rounds: int = 3
    cold: int = 3
    threads: int | None = None
    batches: Sequence[int] = (4,)
    isa: str | None = None

    def __post_init__(self) -> None:
        if self.isa is not None and self.isa.upper() not in ISAS:
            raise ConfigError(f"No instruction set '{self.isa}'. Choose one of {', '.join(ISAS)}.")

    @property
    def source_name(self) -> str | None:
        """Address of the source without passwords; None for none."""
        if self.source is None or os.path.exists(self.source):
            return self.source
        return without_passwords(self.source)


@dataclass(frozen=True)
class Spread:
    """Percentiles and number of measured values; p99 is None for fewer than `MIN_FOR_P99`."""

    p50: float
    p95: float
    p99: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The percentiles of these values; None if there are none."""
        if not len(values):
            return None
        p50, p95, p99 = (float(p) for p in np.percentile(values, [50, 95, 99]))
        return cls(p50, p95, p99 if len(values) >= MIN_FOR_P99 else None, len(values))


@dataclass
class Row:
    """An artifact on an engine, or a checkpoint in PyTorch, and what was measured of it.

    Attributes:
        name: "fp32.onnx on openvino"; unique in a benchmark.
        timed: The artifact and engine that ran.
        bytes: Size of the artifact or checkpoint.
        uncached_s: Seconds of each cold start without cache.
        cached_s: Seconds of each cold start with cache; empty where the engine keeps none.
        peak_mb: Most memory, in MB, of a process that predicts once; 0 without cold starts.
        times: Latencies of the model, one entry for each round.
        stages: Times of the application, one entry for each round; empty without a source.
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
        """Clips per second, by the number of clips in a call."""
        found = {}
        for batch in self.times[0].ms:
            calls = [ms for times in self.times for ms in times.ms[batch]]
            found[batch] = batch * len(calls) * 1e3 / sum(calls)
        return found

    def application(self) -> dict[str, Any] | None:
        """Frames per second and stages of the application; None if it was not measured."""
        predictions = [number for times in self.stages for number in times.predictions]
        if not predictions:
            return None
        columns = {name: [v for times in self.stages for v in times.ms[name]] for name in STAGES}
        wall_ms = sum(map(sum, columns.values()))
        stages = {}
        for name, ms in columns.items():
            rare = name in PER_PREDICTION
            counted = [v for v, found in zip(ms, predictions, strict=True) if found or not rare]
            stages[name] = {
                "per": "frame with predictions" if rare else "frame",
                "share": sum(ms) / wall_ms,
                "ms": Spread.of(counted),
            }
        return {
            "detector": self.stages[0].detector,
            "frames": len(predictions),
            "predictions": sum(predictions),
            "fps": 1e3 * len(predictions) / wall_ms,
            "peak_mb": max(times.peak_mb for times in self.stages),
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
            "latency_ms": self.latency(),
            "clips_per_s": self.throughput(),
            "peak_mb": self.peak_mb or None,
            "application": self.application(),
        }


@dataclass(frozen=True)
class Comparison:
    """How two rows relate: the ratio of the first to the second.

    Attributes:
        first, second: Names of the rows.
        what: "latency", or "clips/s of 4".
        ratio: Median over the rounds of the ratio within each.
        low, high: Smallest and largest ratio of a round.
    """

    first: str
    second: str
    what: str
    ratio: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class LeftOut:
    """An artifact, the engine that cannot run it here, and the message that says why."""

    artifact: str
    engine: str
    reason: str


@dataclass
class Benchmark:
    """All that was found; the notes are about what was not measured, or not as usual."""

    bundle: Path
    options: BenchmarkOptions
    rows: list[Row]
    left_out: list[LeftOut]
    comparisons: list[Comparison]
    notes: list[str]
    machine: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        options = {**asdict(self.options), "source": self.options.source_name}
        return {**asdict(replace(self, rows=[])), "options": options, "rows": rows}


def compare(first: Row, second: Row) -> list[Comparison]:
    """Compare the latency of one clip, and the throughput of larger calls."""
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


def _of_starts(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {"median": float(np.median(seconds)), "min": min(seconds), "max": max(seconds)}
