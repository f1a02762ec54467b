"""The INT8 artifacts of an export: quantized, measured, and repaired where they lose too much."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import openvino as ov

from svfap_edge import bundle as bundles
from svfap_edge.benchmark.timing import Timed, time_artifacts
from svfap_edge.bundle import Bundle
from svfap_edge.errors import QualityGateError
from svfap_edge.evaluation import fidelity
from svfap_edge.evaluation.analysis import analyse
from svfap_edge.evaluation.evaluate import EvaluationOptions, evaluate
from svfap_edge.export.job import Job, accept
from svfap_edge.export.model_files import OPSET, run_onnx
from svfap_edge.runtimes.choice import choose

from . import recipe, sensitivity


def build_int8(job: Job) -> None:
    """Quantize; where the gate or the measured drop fails and it may, leave layers in float."""
    fidelity.check_clips_tell(job.reference)
    try:
        _quantize(job)
        good = _drop_is_fine(job)
    except QualityGateError:
        if not (job.options.rescue or job.options.max_drop is not None):
            raise
        good = False
    if not good:
        _rescue(job)
    assert job.calibration is not None
    job.manifest.quantization.update(
        {
            "scheme": recipe.SCHEME,
            "tool": f"nncf {version('nncf')}",
            "clips": len(job.calibration_clips),
            "labels": _histogram(job.calibration.labels[job.held_back :]),
            "calibration_sha256": hashlib.sha256(
                " ".join(sorted(job.calibration.digests)).encode()
            ).hexdigest(),
            "files": sorted(job.calibration.digests),
            "float_layers": job.float_layers,
            "damage": job.damage,
        }
    )


def _quantize(job: Job) -> None:
    """Build the INT8 artifacts with the float layers decided so far."""
    source = job.folder / "fp32.onnx"
    clips = job.calibration_clips
    if "int8.onnx" in job.int8:
        job.progress(f"Quantizing int8.onnx on {len(clips)} clips")
        recipe.int8_onnx_from_fp32(source, job.folder / "int8.onnx", clips, job.float_layers)
        accept(job, "int8.onnx", ["int8.onnx"], {"opset": OPSET})
    if "int8.openvino" in job.int8:
        job.progress(f"Quantizing int8.openvino on {len(clips)} clips")
        recipe.int8_openvino_from_fp32(source, job.folder / "int8.xml", clips, job.float_layers)
        accept(job, "int8.openvino", ["int8.xml", "int8.bin"], {"openvino": ov.__version__})


def _drop_is_fine(job: Job) -> bool:
    """Whether no INT8 artifact loses more than `max_drop` on the labelled files; True unasked."""
    if job.options.max_drop is None:
        return True
    assert job.options.validate is not None
    names = [name for name in job.manifest.artifacts if name.startswith("int8")]
    job.progress(f"Measuring the drop of {', '.join(names)} on {job.options.validate}")
    options = EvaluationOptions(
        baseline="fp32.onnx", artifacts=names, speed=False, max_drop=job.options.max_drop
    )
    # The digests are not in the manifest yet, so the calibration files are refused here.
    assert job.calibration is not None
    marked = replace(job.manifest, quantization={"files": list(job.calibration.digests)})
    assert job.detector is not None
    found = analyse(
        evaluate([Bundle(job.folder, marked)], job.options.validate, job.detector, options)
    )
    for candidate in found.candidates:
        job.progress(candidate.verdict)
        quality = job.manifest.quality[candidate.artifact.name]
        quality["drop"] = {drop.metric: round(drop.points, 3) for drop in candidate.drops}
    return bool(found.passed)


def _rescue(job: Job) -> None:
    """Rank the layers by their damage; leave in float the fewest that bring INT8 back."""
    source = job.folder / "fp32.onnx"
    with tempfile.TemporaryDirectory(prefix="svfap-edge-") as scratch:
        before = Path(scratch) / "full"
        shutil.copytree(job.folder, before)
        full = Path(scratch) / "int8.onnx"
        job.progress("INT8 loses too much; quantizing once more to find the layers that hurt")
        recipe.int8_onnx_from_fp32(source, full, job.calibration_clips)
        ranked = sensitivity.rank_layers(source, full, job.gate_clips[:4], job.progress)
        job.damage = [asdict(damage) for damage in ranked]
        plain, quantized = onnx.load(str(source)), onnx.load(str(full))

        def passes(layers: list[str]) -> bool:
            """The gate on a few clips first, which is cheap; the metric last."""
            variant = sensitivity.with_float_layers(quantized, plain, layers)
            found = fidelity.compare(job.reference, run_onnx(variant, job.gate_clips))
            if fidelity.failures(found, "int8"):
                return False
            job.float_layers = layers
            job.progress(f"Trying {len(layers)} of {len(ranked)} layers in float")
            try:
                _quantize(job)
            except QualityGateError:
                return False
            return _drop_is_fine(job)

        chosen = sensitivity.fewest_float_layers(ranked, passes)
        if chosen is None:
            raise QualityGateError(
                "INT8 loses too much even with half of the layers in float: it is not worth "
                "having for this model. The layers that hurt most: "
                f"{', '.join(damage.layer for damage in ranked[:5])}."
            )
        if chosen != job.float_layers:  # the search ended on another try
            job.float_layers = chosen
            _quantize(job)
            _drop_is_fine(job)
        _report_cost(job, before, len(ranked))


def _report_cost(job: Job, before: Path, layers: int) -> None:
    """One sentence: what stays in float, and what that costs in speed."""
    name = next(name for name in job.manifest.artifacts if name.startswith("int8"))
    bundles.write_manifest(job.folder, job.manifest)
    engine = choose(Bundle.open(job.folder), name)[1]
    full, mixed = time_artifacts(
        [Timed(before, name, engine), Timed(job.folder, name, engine)], clips=10, rounds=2
    )
    ratio = float(np.median(mixed) / np.median(full))
    kept = job.float_layers
    listed = ", ".join(kept[:4]) + (f" and {len(kept) - 4} more" if len(kept) > 4 else "")
    text = (
        f"{len(kept)} of {layers} layers stay in float ({listed}); a clip takes {ratio:.2f} times "
        f"as long as in full INT8 ({name} on {engine})"
    )
    job.manifest.quantization["float_cost"] = text
    job.progress(text)


def _histogram(labels: Sequence[str]) -> dict[str, int]:
    return {label or "unknown": labels.count(label) for label in sorted(set(labels))}
