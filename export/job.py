"""One export while it is made: the clips it is judged on, the artifacts accepted so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge import bundle as bundles
from svfap_edge.bundle import Artifact, Bundle, Manifest
from svfap_edge.checks import Checks
from svfap_edge.errors import SvfapError
from svfap_edge.evaluation import fidelity
from svfap_edge.machine import version_of
from svfap_edge.perception.detectors import Detector, open_detector
from svfap_edge.runtimes import available_engines, load_backend

from .calibration import Calibration, collect_clips, synthetic_clips
from .options import BuildOptions, to_quantize
from .precision import precisions_of_onnx, precisions_of_openvino

CHECK_CLIPS = 4
"""Number of clips on which an export without INT8 is checked."""

FEW_CLIPS = 100
"""Fewer calibration clips than this bring a warning."""

Progress = Callable[[str], None]


@dataclass
class Job:
    """What the steps of one export or build share: its clips, what the model answers to them, and
    what was decided so far.

    Attributes:
        truth: Whose answers the reference is.
        int8: The artifacts to be quantized.
        kind: What the clips are: real, drawn or synthetic.
        kept: The artifacts that the bundle has already and keeps.
        refused: What the gate said of artifacts that were left out.
    """

    options: BuildOptions
    folder: Path
    manifest: Manifest
    progress: Progress
    gate_clips: np.ndarray
    reference: np.ndarray
    truth: str
    detector: Detector | None
    calibration: Calibration | None
    held_back: int
    int8: Sequence[str]
    kind: str
    kept: Sequence[str]
    refused: list[str] = field(default_factory=list)
    float_layers: list[str] = field(default_factory=list)
    damage: list[dict[str, Any]] = field(default_factory=list)

    @property
    def calibration_clips(self) -> np.ndarray:
        assert self.calibration is not None
        return self.calibration.clips[self.held_back :]


def prepare(
    options: BuildOptions,
    folder: Path,
    manifest: Manifest,
    progress: Progress,
    scratch: Path,
    answer: Callable[[np.ndarray], np.ndarray],
    truth: str,
    stored: Checks | None = None,
    kept: Sequence[str] = (),
) -> Job:
    """Collect the clips, and what the model answers for those that the gate looks at: `answer`
    takes clips (N, T, H, W, 3) and returns logits (N, L); `truth` says whose they are. Without
    `calib` these are the clips `stored` in the bundle, if there are any."""
    detector, calibration, held_back = None, None, 0
    int8 = to_quantize(options.artifacts, manifest.artifacts)
    kind = "real" if options.calib is not None else "synthetic" if stored is None else "drawn"
    if options.calib is None and stored is not None:
        gate_clips = stored.clips
    elif options.calib is None:
        gate_clips = synthetic_clips(manifest.clip, CHECK_CLIPS)
    else:
        count = options.calib_samples if int8 else CHECK_CLIPS
        progress(f"Cutting {count} clips of faces from {options.calib}")
        detector = open_detector(options.detector, options.face_model)
        calibration = collect_clips(options.calib, manifest, detector, count, scratch / "clips.npy")
        found = len(calibration.clips)
        skipped = len(calibration.skipped)
        progress(f"{found} clips; {skipped} files without a face or unreadable")
        if int8 and found < min(FEW_CLIPS, options.calib_samples):
            progress(f"warning: only {found} calibration clips; {FEW_CLIPS} or more would do")
        if int8 and found < 8:
            raise SvfapError(
                f"Only {found} calibration clips were found in '{options.calib}'; INT8 needs at "
                f"least 8, better {FEW_CLIPS} or more."
            )
        held_back = max(4, min(32, found // 5)) if int8 else found
        gate_clips = calibration.clips[:held_back]
    progress(f"Running {truth} on {len(gate_clips)} held-back clips for reference")
    return Job(
        options, folder, manifest, progress, gate_clips, answer(gate_clips), truth,
        detector, calibration, held_back, int8, kind, kept,
    )  # fmt: skip


def accept(
    job: Job, name: str, files: list[str], needs: dict[str, Any], held_to: str | None = None
) -> None:
    """List an artifact in the manifest, then pass it through the gate on every engine.

    `held_to` is the precision whose limits it must keep; that of its name by default.
    """
    artifact = Artifact(
        name,
        tuple(bundles.describe_file(job.folder / file) for file in files),
        built_by=built_by(job, name),
        needs=needs,
    )
    job.manifest.artifacts[name] = artifact
    bundles.write_manifest(job.folder, job.manifest)
    checks = {}
    for engine in available_engines(artifact.format):
        job.progress(f"Comparing {name} on {engine} with {job.truth}")
        with closing(load_backend(Bundle.open(job.folder), name, engine)) as backend:
            limits = held_to or artifact.precision
            found = fidelity.check(backend, job.reference, job.gate_clips, limits, job.truth)
            checks[engine] = {**asdict(found), "computed_in": backend.spec.precision}
    count = precisions_of_onnx if artifact.format == "onnx" else precisions_of_openvino
    job.manifest.quality[name] = {
        "parity": checks,
        "clips": job.kind,
        "layers": count(job.folder / files[0]),
    }


def built_by(job: Job, name: str) -> dict[str, str]:
    """Versions of the tools that make an artifact. Where int8.onnx was there, what is made of it
    has the NNCF that made that."""
    tools = ["svfap-edge", "onnx", *(["openvino"] if name.endswith(".openvino") else [])]
    found = {tool: version_of(tool) for tool in tools}
    if name in job.int8 or (name.startswith("int8") and "int8.onnx" in job.int8):
        found["nncf"] = version_of("nncf")
    elif name.startswith("int8"):
        found["nncf"] = job.manifest.artifacts["int8.onnx"].built_by.get("nncf", "")
    return {tool: number for tool, number in found.items() if number}
