"""From fp32.onnx to every other artifact: the part of an export that needs no PyTorch.

`export` does it with what it made of a checkpoint, `build` with a bundle that is there, on the
machine that will run it.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx

from svfap_edge import bundle as bundles
from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.checks import CHECKS, Checks, read_checks, write_checks
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError, QualityGateError
from svfap_edge.evaluation.fidelity import logits_of
from svfap_edge.runtimes import available_engines, load_backend
from svfap_edge.signature import SIGNATURE

from .float_from_half import float_from_half
from .job import Job, Progress, accept, built_by, prepare
from .model_files import OPSET, run_onnx, write_openvino
from .options import BuildOptions, check_options

Answer = Callable[[np.ndarray], np.ndarray]
"""A model: clips (N, T, H, W, 3) uint8 to logits (N, L) float32."""

DRAWN_CLIPS = 4
"""Number of check clips in a bundle; they take some 0.3 to 0.6 MB."""


def build_bundle(
    source: Bundle,
    output: Path | None,
    options: BuildOptions,
    progress: Progress = lambda message: None,
) -> Bundle:
    """Add artifacts to a bundle.

    They are built from its `fp32.onnx`, or else from its `fp16.onnx`, INT8 plans from its
    `int8.onnx`, and compared with that file on ONNX Runtime before the bundle changes.

    Args:
        source: The bundle; its artifacts stay.
        output: Folder of a new bundle; None replaces the one that is there, in one step.
        options: Which artifacts, and how.
        progress: Called with a sentence before each step.

    Raises:
        BundleError: it lacks the model that an artifact is built from, is signed and was to be
            replaced, is damaged, or the new one cannot be written.
        SvfapError: an artifact cannot be built here; see `options.check_options`.
        QualityGateError: an artifact is too far from its source. It was left out; those that
            passed were written.
    """
    there = source.manifest.artifacts
    check_options(options, there)
    truth = _truth(source, options.artifacts)
    if output is None:
        bundles.check_unsigned(source)
    source.verify_all()
    stored = read_checks(source)
    overwrite = output is None or options.overwrite
    with (
        saying_nothing_was_written(),
        bundles.writing(output or source.path, replace=overwrite) as folder,
        tempfile.TemporaryDirectory(prefix="svfap-edge-") as scratch,
    ):
        _copy(source.path, folder)
        copied = Bundle(folder, copy.deepcopy(source.manifest))
        copied.verify_all()  # a writer beside us may have changed the files meanwhile
        if truth == "fp16.onnx":
            progress("Writing fp32.onnx, with the numbers of fp16.onnx")
            truth = _widen(copied)
        able = available_engines("onnx")
        engine = "onnxruntime" if "onnxruntime" in able else able[0]

        def answer(clips: np.ndarray) -> np.ndarray:
            with closing(load_backend(copied, truth, engine)) as backend:
                return logits_of(backend, clips)

        job = prepare(
            options, folder, copied.manifest, progress, Path(scratch), answer,
            f"{truth} on {engine}", stored, kept=list(there),
        )  # fmt: skip
        build_artifacts(job)
        store_checks(job, answer if truth == "fp32.onnx" else None, stored)
        finish(job)
    check_passed(job, output or source.path)
    return Bundle.open(output or source.path)


def _copy(source: Path, folder: Path) -> None:
    """Copy the files of a bundle, but for its signature, which does not survive, and for links."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_symlink() or path == source / SIGNATURE:
            continue
        if path.is_dir():
            target.mkdir()
        elif path.is_file():
            shutil.copyfile(path, target)


def _widen(bundle: Bundle) -> str:
    """Add `fp32.onnx`, made of `fp16.onnx`, to a bundle that is being built; return its name."""
    name = "fp32.onnx"
    float_from_half(bundle.path_of("fp16.onnx"), bundle.path / name)
    bundle.manifest.artifacts[name] = Artifact(
        name,
        (bundles.describe_file(bundle.path / name),),
        built_by=bundle.manifest.artifacts["fp16.onnx"].built_by,
        needs={"opset": OPSET},
    )
    return name


def _truth(source: Bundle, wanted: Collection[str]) -> str:
    """The artifact that others are built from. BundleError if it is not there.

    That of half precision gives a float32 model again, so it serves where there is no other.
    """
    there = source.manifest.artifacts
    if "fp32.onnx" in wanted:
        raise BundleError(
            "fp32.onnx is what others are built from; it comes from a checkpoint, or from a bundle "
            "that holds its weights: svfap-edge export CHECKPOINT_OR_BUNDLE -o DIR"
        )
    if "fp16.onnx" in there and "fp32.onnx" not in there:
        if "fp16.onnx" in wanted:
            raise BundleError("fp16.onnx is there, and what the others are built from.")
        return "fp16.onnx"
    if "fp32.onnx" in there:
        return "fp32.onnx"
    lacking = [name for name in wanted if name != "int8.tensorrt"]
    if lacking or "int8.onnx" not in there:
        raise BundleError(
            f"Bundle '{source.path}' has no fp32.onnx, from which {', '.join(lacking or wanted)} "
            f"would be built. It has: {', '.join(there)}. Export it again with fp32.onnx among "
            "the artifacts."
        )
    return "int8.onnx"


def build_artifacts(job: Job) -> None:
    """Build the artifacts that are wanted, and those they are made from on the way; pass each
    through the gate. What does not pass is left out; see `check_passed`."""
    wanted = job.options.artifacts
    if "bf16.openvino" in wanted:
        with _left_out_if_refused(job):
            _bf16(job)
    if job.int8:
        from svfap_edge.export.int8.artifacts import build_int8

        with _left_out_if_refused(job):
            build_int8(job)
    with _left_out_if_refused(job):
        there = "fp16.onnx" in job.manifest.artifacts
        if "fp16.onnx" in wanted or ("fp16.tensorrt" in wanted and not there):
            _half(job, "fp32.onnx", "fp16.onnx")
        if "fp16.tensorrt" in wanted:
            _plan(job, "fp16.onnx", "fp16.tensorrt")
    if "int8.tensorrt" in wanted and "int8.onnx" in job.manifest.artifacts:
        with _left_out_if_refused(job):
            # The float rest of INT8 in half, or TensorRT would compute it in float32.
            _half(job, "int8.onnx", "int8-fp16.onnx", held_to="int8")
            _plan(job, "int8-fp16.onnx", "int8.tensorrt")
    if job.refused and not set(wanted) & (set(job.manifest.artifacts) - set(job.kept)):
        raise QualityGateError(" ".join(job.refused))


@contextmanager
def saying_nothing_was_written() -> Iterator[None]:
    """The context in which a bundle is written: whatever the gate refuses for good says so."""
    try:
        yield
    except QualityGateError as error:
        raise QualityGateError(f"{error} Nothing was written.") from error


@contextmanager
def _left_out_if_refused(job: Job) -> Iterator[None]:
    """Leave out the artifacts that this context makes where one is beyond the gate; what passed
    before stays. An artifact that was to be replaced is never lost: then the error goes on."""
    before = dict(job.manifest.artifacts)
    try:
        yield
    except QualityGateError as error:
        after = job.manifest.artifacts
        if any(after.get(name) != artifact for name, artifact in before.items()):
            raise
        job.refused.append(str(error))
        for name in after.keys() - before.keys():
            _remove(job, name)


def _remove(job: Job, name: str) -> None:
    for file in job.manifest.artifacts.pop(name).files:
        (job.folder / file.file).unlink()
    job.manifest.quality.pop(name, None)


def check_passed(job: Job, where: Path) -> None:
    """Raise QualityGateError for the artifacts that were left out of a bundle, which was written
    without them."""
    if job.refused:
        raise QualityGateError(
            f"{' '.join(job.refused)} '{where}' was written without that; it holds "
            f"{', '.join(job.manifest.artifacts)}."
        )


def finish(job: Job) -> None:
    """Remove the artifacts that were only made on the way, and write the manifest."""
    stay = {*job.options.artifacts, *job.kept}
    for name in [name for name in job.manifest.artifacts if name not in stay]:
        _remove(job, name)
    bundles.write_manifest(job.folder, job.manifest)


def store_checks(job: Job, answer: Answer | None, stored: Checks | None = None) -> None:
    """Put check clips into the bundle, or add to those `stored` there what is new."""
    clips = drawn_clips(job.manifest.clip) if stored is None else stored.clips
    logits = {} if stored is None else dict(stored.logits)
    if answer is not None and "fp32" not in logits:
        logits["fp32"] = answer(clips)
    if "int8.onnx" in job.manifest.artifacts and ("int8.onnx" in job.int8 or "int8" not in logits):
        logits["int8"] = run_onnx(onnx.load(str(job.folder / "int8.onnx")), clips, fused=False)
    if logits:
        write_checks(job.folder / CHECKS, Checks(clips, logits))
        job.manifest = replace(job.manifest, checks=bundles.describe_file(job.folder / CHECKS))


def drawn_clips(clip: ClipSpec, count: int = DRAWN_CLIPS) -> np.ndarray:
    """Clips (count, T, size, size, 3) uint8 of drawn people, each with another expression."""
    from svfap_edge.training.clips.epochs import generator
    from svfap_edge.training.datasets.drawing import LABELS, Person
    from svfap_edge.training.datasets.drawn_faces import face_clip

    found = []
    for number in range(count):
        person = Person.draw(generator("check person", number))
        label = LABELS[number * len(LABELS) // count]
        rng = generator("check clip", number)
        found.append(face_clip(person, label, rng, clip.frames, clip.size, noise=0.0))
    return np.stack(found)


def _half(job: Job, source: str, name: str, held_to: str | None = None) -> None:
    from .half_from_onnx import half_from_onnx

    job.progress(f"Writing {name}")
    half_from_onnx(job.folder / source, job.folder / name)
    accept(job, name, [name], {"opset": OPSET}, held_to)


def _plan(job: Job, source: str, name: str) -> None:
    """Build a TensorRT engine of an ONNX artifact that passed the gate."""
    from svfap_edge.export.trt.builder import find_builder, plan_settings
    from svfap_edge.export.trt.plan_from_onnx import needs, plan_from_onnx

    capabilities = job.options.compute_capabilities
    builder = find_builder("auto", capabilities)
    settings = plan_settings(job.options.trt_options, capabilities)
    job.progress(f"Building {name} with {builder.name} {builder.version}")
    file = f"{name.partition('.')[0]}.plan"
    info = plan_from_onnx(job.folder / source, job.folder / file, settings, builder)
    job.manifest.artifacts[name] = Artifact(
        name,
        (bundles.describe_file(job.folder / file),),
        built_by={**built_by(job, name), builder.name: builder.version},
        needs=needs(info),
    )
    job.manifest.quality[name] = {
        "checked_as": job.manifest.quality.get(source, {}),
        "layers": info.layers,
        "build": asdict(info),
    }


def _bf16(job: Job) -> None:
    import openvino as ov

    job.progress("Writing bf16.openvino")
    model = ov.Core().read_model(str(job.folder / "fp32.onnx"))
    # Weights are stored in half precision; OpenVINO computes in bf16 where the CPU has it.
    write_openvino(model, job.folder / "bf16.xml", half=True)
    accept(job, "bf16.openvino", ["bf16.xml", "bf16.bin"], {"openvino": ov.__version__})
