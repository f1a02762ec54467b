"""Every artifact of one or more bundles on one labelled list, as a deployment would run them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svfap_edge.benchmark.timing import Timed, time_artifacts
from svfap_edge.bundle import Bundle, Manifest, digest
from svfap_edge.errors import BundleError, SourceError, SvfapError
from svfap_edge.lists import (
    Item,
    class_targets,
    file_digest,
    find_items,
    leave_out,
    require_order,
    value_targets,
)
from svfap_edge.machine import describe_machine
from svfap_edge.perception.detectors import Detector
from svfap_edge.runtimes import Engine
from svfap_edge.runtimes.choice import choose
from svfap_edge.runtimes.prediction import softmax
from svfap_edge.tasks import Task

from .face_clips import face_clips
from .predictions import ArtifactPredictions, Evaluation

BASELINES = ("fp32.onnx", "bf16.openvino")
"""What candidates are compared with where nothing is named: the first of these there is."""


@dataclass(frozen=True)
class Candidate:
    """An artifact to evaluate, and the engine that will run it."""

    bundle: Bundle
    artifact: str
    engine: str

    @property
    def timed(self) -> Timed:
        return Timed(self.bundle.path, self.artifact, self.engine)


@dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate.

    Attributes:
        baseline: Artifact that the others are compared with, "NAME" of the first bundle or
            "FOLDER/NAME"; None for its fp32.onnx.
        artifacts: Names of the artifacts to evaluate; None for all that an installed engine runs.
        engine: Engine for all artifacts; "auto" picks the best installed one for each.
        max_drop: Points that a primary metric may lose at most; None for no limit.
        ignore: Labels whose files are left out, each a name or an index.
        speed: Whether to time the artifacts.
        clips, rounds: Clips in a round and rounds of the timing; see `benchmark.timing`.
    """

    baseline: str | None = None
    artifacts: Sequence[str] | None = None
    engine: str = "auto"
    max_drop: float | None = None
    ignore: Sequence[str] = ()
    speed: bool = True
    clips: int = 20
    rounds: int = 3


def evaluate(
    bundles: Sequence[Bundle],
    data: Path,
    detector: Detector,
    options: EvaluationOptions,
    progress: Callable[[str], None] = lambda message: None,
) -> Evaluation:
    """Run all artifacts on all files.

    The prediction for a file is the mean over its clips: of the probabilities for classes, of the
    values otherwise. All artifacts get the same clips.

    Raises:
        SourceError: The data are unreadable or empty, a label is outside the task, or files were
            used to calibrate one of the bundles.
        BundleError: The bundles do not share a task, or there is nothing to compare.
    """
    task = bundles[0].manifest.task
    for bundle in bundles[1:]:
        if bundle.manifest.task.labels != task.labels or bundle.manifest.task.kind != task.kind:
            raise BundleError(
                f"'{bundle.path}' is for task '{bundle.manifest.task.name}' "
                f"({', '.join(bundle.manifest.task.labels)}), '{bundles[0].path}' for "
                f"'{task.name}' ({', '.join(task.labels)}). Compare bundles of one task."
            )
    baseline, candidates = _choose(bundles, options)
    items, targets = _labelled(data, task, options.ignore)
    _refuse_calibration_files(bundles, items)
    chosen = [baseline, *candidates]
    with ExitStack() as stack:
        engines = [
            stack.enter_context(Engine.load(c.bundle, artifact=c.artifact, engine=c.engine))
            for c in chosen
        ]
        found, scores = _predict(items, chosen, engines, detector, progress)
        precisions = [engine.spec.precision for engine in engines]
    latencies = [np.empty(0)] * len(chosen)
    if options.speed:
        timed = [candidate.timed for candidate in chosen]
        latencies = time_artifacts(
            timed, clips=options.clips, rounds=options.rounds, progress=progress
        )
    bundle_names = _bundle_names(bundles)
    results = [
        ArtifactPredictions(
            name=c.artifact,
            bundle=bundle_names[c.bundle.path],
            path=str(c.bundle.path),
            engine=c.engine,
            precision=precision,
            bytes=c.bundle.artifact(c.artifact).bytes,
            scores=rows,
            latency_ms=latency,
        )
        for c, precision, rows, latency in zip(chosen, precisions, scores, latencies, strict=True)
    ]
    names = _file_names(items, data)
    predicted = set(found)
    return Evaluation(
        task=task,
        data=data.name,
        data_sha256=digest(data) if data.is_file() else "",
        files=tuple(names[i] for i in found),
        targets=targets[found],
        missing=tuple(name for i, name in enumerate(names) if i not in predicted),
        baseline=results[0],
        candidates=tuple(results[1:]),
        machine={**describe_machine(), "face detector": detector.name},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        max_drop=options.max_drop,
    )


def _labelled(data: Path, task: Task, ignore: Sequence[str]) -> tuple[list[Item], np.ndarray]:
    """Items without those to be ignored, and their targets."""
    items, unknown = leave_out(find_items(data), ignore, task)
    if unknown:
        raise SourceError(
            f"Neither task '{task.name}' ({', '.join(task.labels)}) nor '{data}' has a label "
            f"'{unknown[0]}' to ignore."
        )
    if not items:
        raise SourceError(f"'{data}' has no files left to evaluate.")
    if task.kind != "classes":
        return items, value_targets(items, task)
    require_order(data, items, task)
    return items, class_targets(items, task)


def _choose(
    bundles: Sequence[Bundle], options: EvaluationOptions
) -> tuple[Candidate, list[Candidate]]:
    """The baseline, and everything else an installed engine runs."""
    everything = []
    for bundle in bundles:
        for name in bundle.manifest.artifacts:
            wanted_names = options.artifacts
            if wanted_names is not None and name not in (*wanted_names, options.baseline):
                continue
            try:
                everything.append(Candidate(bundle, *choose(bundle, name, options.engine)))
            except SvfapError:
                if options.artifacts is not None:
                    raise
    first = [c.artifact for c in everything if c.bundle is bundles[0]]
    wanted = options.baseline or next((name for name in BASELINES if name in first), None)
    for candidate in everything:
        if wanted is None or wanted in (
            candidate.artifact, f"{candidate.bundle.path}/{candidate.artifact}"
        ):  # fmt: skip
            others = [other for other in everything if other is not candidate]
            return candidate, others
    runnable = ", ".join(f"{c.bundle.path}/{c.artifact}" for c in everything) or "nothing"
    raise BundleError(f"No baseline '{wanted}'. Runnable here: {runnable}.")


def _refuse_calibration_files(bundles: Sequence[Bundle], items: Sequence[Item]) -> None:
    """INT8 looks better than it is on the files it was calibrated on."""
    used: dict[str, str] = {
        name: str(bundle.path)
        for bundle in bundles
        for name in bundle.manifest.quantization.get("files", [])
    }
    if not used:
        return
    shared = [item for item in items if item.path.exists() and file_digest(item.path) in used]
    if shared:
        raise SourceError(
            f"{len(shared)} of {len(items)} files were used to calibrate "
            f"'{used[file_digest(shared[0].path)]}', first '{shared[0].path}'. Evaluate on files "
            "that took no part, or calibrate on others."
        )


def _predict(
    items: Sequence[Item],
    chosen: Sequence[Candidate],
    engines: Sequence[Engine],
    detector: Detector,
    progress: Callable[[str], None],
) -> tuple[list[int], list[np.ndarray]]:
    """Indices of the files with a face, and per artifact their scores (n, L)."""
    geometries: dict[tuple[object, float], Manifest] = {}
    for candidate in chosen:
        manifest = candidate.bundle.manifest
        geometries.setdefault((manifest.clip, manifest.margin), manifest)
    found: list[int] = []
    scores: list[list[np.ndarray]] = [[] for _ in engines]
    for number, item in enumerate(items):
        if number % 50 == 0:
            progress(f"Running {len(engines)} artifacts on file {number + 1} of {len(items)}")
        clips = {}
        try:
            for geometry, manifest in geometries.items():
                clips[geometry] = face_clips(item.path, manifest, detector).clips
        except SourceError:
            continue
        if not all(len(cut) for cut in clips.values()):
            continue
        found.append(number)
        for rows, engine in zip(scores, engines, strict=True):
            manifest = engine.manifest
            logits = engine.infer(clips[(manifest.clip, manifest.margin)]).logits
            rows.append(
                softmax(logits).mean(0) if manifest.task.kind == "classes" else logits.mean(0)
            )
    width = len(engines[0].manifest.task.labels)
    return found, [np.array(rows, float).reshape(-1, width) for rows in scores]


def _bundle_names(bundles: Sequence[Bundle]) -> dict[Path, str]:
    """Names that differ, by folder: those in the manifests, or else the shortest ends of the paths
    that tell the bundles apart."""
    folders = {bundle.path: bundle.path.resolve() for bundle in bundles}
    names = {bundle.path: bundle.manifest.name for bundle in bundles}
    depth = 0
    while len(set(names.values())) < len(set(folders.values())):
        depth += 1
        names = {path: "/".join(folder.parts[-depth:]) for path, folder in folders.items()}
    return names


def _file_names(items: Sequence[Item], data: Path) -> list[str]:
    """Paths relative to the data, where they are inside it."""
    root = data if data.is_dir() else data.parent
    return [
        str(item.path.relative_to(root)) if item.path.is_relative_to(root) else str(item.path)
        for item in items
    ]
