"""Every artifact of one or more bundles on one labelled list, as a deployment would run them."""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svfap_edge.benchmark.timing import Timed, time_artifacts
from svfap_edge.bundle import Bundle, digest
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
from svfap_edge.machine import OtherLoad, describe_machine
from svfap_edge.perception.detectors import Detector
from svfap_edge.runtimes import Engine
from svfap_edge.runtimes.choice import choose
from svfap_edge.runtimes.prediction import softmax
from svfap_edge.tasks import Task

from .analysis_types import ArtifactPredictions, Evaluation
from .face_clips import face_clips

BASELINES = ("fp32.onnx", "fp16.onnx", "bf16.openvino")
"""What candidates are compared with where nothing is named: the first of these there is."""


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
    """

    baseline: str | None = None
    artifacts: Sequence[str] | None = None
    engine: str = "auto"
    max_drop: float | None = None
    ignore: Sequence[str] = ()
    speed: bool = True


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
    chosen = _choose(bundles, options)
    if options.max_drop is not None and len(chosen) < 2:
        raise BundleError(
            f"There is nothing to hold to the limit of {options.max_drop:g} points: only "
            f"{chosen[0].artifact} of '{chosen[0].bundle}' is here and runs. A drop is that of "
            "another artifact against a baseline such as fp32.onnx: export or build one, name "
            "another bundle beside it, or leave out --max-drop."
        )
    items, targets = _labelled(data, task, options.ignore)
    digests = {item.path: file_digest(item.path) for item in items if item.path.exists()}
    _refuse_calibration_files(bundles, digests)
    with ExitStack() as stack:
        by_path = {bundle.path: bundle for bundle in bundles}
        engines = [
            stack.enter_context(
                Engine.load(by_path[c.bundle], artifact=c.artifact, engine=c.engine)
            )
            for c in chosen
        ]
        found, scores, damaged = _predict(items, engines, detector, progress)
    latencies, busy = [np.empty(0)] * len(chosen), None
    if options.speed:
        with OtherLoad() as load:
            latencies = time_artifacts(chosen, progress=progress)
        busy = load.sentence()
    bundle_names = _bundle_names(bundles)
    results = [
        ArtifactPredictions(
            name=c.artifact,
            bundle=bundle_names[c.bundle],
            path=str(c.bundle),
            engine=c.engine,
            precision=engine.spec.precision,
            bytes=by_path[c.bundle].artifact(c.artifact).bytes,
            scores=rows,
            latency_ms=latency,
        )
        for c, engine, rows, latency in zip(chosen, engines, scores, latencies, strict=True)
    ]
    names = _file_names(items, data)
    predicted = set(found)
    return Evaluation(
        task=task,
        data=data.name,
        data_sha256=digest(data) if data.is_file() else _folder_digest(names, items, digests),
        files=tuple(names[i] for i in found),
        targets=targets[found],
        missing=tuple(name for i, name in enumerate(names) if i not in predicted),
        unreadable={names[i]: reason for i, reason in damaged.items()},
        baseline=results[0],
        candidates=tuple(results[1:]),
        machine={**describe_machine(), "face detector": detector.name},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        max_drop=options.max_drop,
        lost=_lost(items, found, damaged) if task.kind == "classes" else {},
        busy=busy,
    )


def _lost(
    items: Sequence[Item], found: Sequence[int], damaged: Collection[int]
) -> dict[str, tuple[int, int]]:
    """By label: how many readable files have no face that the detector finds, and how many there
    are. Only labels that lost some."""
    answered = set(found)
    readable = [number for number in range(len(items)) if number not in damaged]
    all_of = Counter(items[number].label for number in readable)
    lost = Counter(items[number].label for number in readable if number not in answered)
    return {label: (count, all_of[label]) for label, count in sorted(lost.items())}


def _folder_digest(names: Sequence[str], items: Sequence[Item], digests: Mapping[Path, str]) -> str:
    """SHA-256 over name, label and content of each file, in the order of the names."""
    lines = sorted(
        f"{name}\0{item.label}\0{digests.get(item.path, '')}\n"
        for name, item in zip(names, items, strict=True)
    )
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


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


def _choose(bundles: Sequence[Bundle], options: EvaluationOptions) -> list[Timed]:
    """The baseline, then everything else that an installed engine runs."""
    everything = []
    for bundle in bundles:
        for name in bundle.manifest.artifacts:
            if options.artifacts is not None and name not in (*options.artifacts, options.baseline):
                continue
            try:
                everything.append(
                    Timed(bundle.path, *choose(bundle, name, options.engine), bundle.signed_by)
                )
            except SvfapError:
                if options.artifacts is not None:
                    raise
    first = [c.artifact for c in everything if c.bundle == bundles[0].path]
    wanted = options.baseline or next((name for name in BASELINES if name in first), None)
    for place, each in enumerate(everything):
        if wanted in (None, each.artifact, f"{each.bundle}/{each.artifact}"):
            return [each, *everything[:place], *everything[place + 1 :]]
    runnable = ", ".join(f"{c.bundle}/{c.artifact}" for c in everything) or "nothing"
    raise BundleError(f"No baseline '{wanted}'. Runnable here: {runnable}.")


def _refuse_calibration_files(bundles: Sequence[Bundle], digests: Mapping[Path, str]) -> None:
    """INT8 looks better than it is on the files it was calibrated on."""
    used = {
        name: bundle.path
        for bundle in bundles
        for name in bundle.manifest.quantization.get("files", [])
    }
    if not used:
        return
    shared = [path for path, found in digests.items() if found in used]
    if shared:
        raise SourceError(
            f"{len(shared)} of {len(digests)} files were used to calibrate "
            f"'{used[digests[shared[0]]]}', first '{shared[0]}'. Evaluate on files that took no "
            "part, or calibrate on others."
        )


def _predict(
    items: Sequence[Item],
    engines: Sequence[Engine],
    detector: Detector,
    progress: Callable[[str], None],
) -> tuple[list[int], list[np.ndarray], dict[int, str]]:
    """Indices of the files with a face, for each engine their scores (n, L), and why files could
    not be read, by their index."""
    manifests = [engine.manifest for engine in engines]
    geometries = {(manifest.clip, manifest.margin): manifest for manifest in manifests}
    found: list[int] = []
    damaged: dict[int, str] = {}
    scores: list[list[np.ndarray]] = [[] for _ in engines]
    for number, item in enumerate(items):
        if number % 50 == 0:
            progress(f"Running {len(engines)} artifacts on file {number + 1} of {len(items)}")
        clips = {}
        try:
            for geometry, manifest in geometries.items():
                clips[geometry] = face_clips(item.path, manifest, detector).clips
        except SourceError as error:
            damaged[number] = str(error)
            continue
        if not all(len(cut) for cut in clips.values()):
            continue
        found.append(number)
        for rows, engine, manifest in zip(scores, engines, manifests, strict=True):
            logits = engine.infer(clips[(manifest.clip, manifest.margin)]).logits
            values = softmax(logits) if manifest.task.kind == "classes" else logits
            rows.append(values.mean(axis=0))
    width = len(manifests[0].task.labels)
    return found, [np.array(rows, float).reshape(-1, width) for rows in scores], damaged


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
