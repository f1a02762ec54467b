"""Exported artifacts against PyTorch, and exports that must leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from svfap_edge.bundle import Bundle, Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import (
    BundleError,
    CheckpointError,
    QualityGateError,
    SourceError,
    SvfapError,
    TaskError,
)
from svfap_edge.evaluation import fidelity
from svfap_edge.evaluation.fidelity import check, compare
from svfap_edge.export.calibration import collect_clips, synthetic_clips
from svfap_edge.export.onnx_from_model import graph_of_model, onnx_from_model
from svfap_edge.export.pipeline import ExportOptions, export_bundle
from svfap_edge.export.reference import torch_logits
from svfap_edge.perception.detectors import HaarDetector
from svfap_edge.runtimes import Engine, available_engines, load_backend
from svfap_edge.sources.sample import read_portrait
from svfap_edge.tasks import TASKS
from svfap_edge.training.model import TPSBT, TPSBTConfig, preset
from tests.models import (
    SPAN_S,
    TINY,
    TINY_TASK,
    model_with_weights,
    save_like_authors,
    save_ours,
    tiny_bundle,
)

STEM = TPSBTConfig.from_dict({**TINY.to_dict(), "stem": (8, 12), "depths": (1, 2, 1)})
ONE_STAGE = TPSBTConfig.from_dict({**TINY.to_dict(), "depths": (2,), "bottleneck_tokens": ()})
SIGMOID = TPSBTConfig.from_dict({**TINY.to_dict(), "activation": "sigmoid", "tubelet": 1})


@pytest.mark.parametrize("engine", available_engines("onnx"))
@pytest.mark.parametrize("config", [TINY, STEM, ONE_STAGE, SIGMOID], ids=str)
def test_fp32_equals_pytorch_on_every_engine(
    tmp_path: Path, config: TPSBTConfig, engine: str
) -> None:
    model = model_with_weights(config)
    bundle = export_bundle(
        save_ours(tmp_path / "m.pth", model),
        tmp_path / "b",
        ExportOptions(
            task=replace(TINY_TASK, kind="traits" if config is SIGMOID else "classes"),
            features=True,
        ),
    )
    clips = synthetic_clips(bundle.manifest.clip, 3, seed=5)
    backend = load_backend(bundle, "fp32.onnx", engine)
    outputs = backend.run(clips)
    parity = compare(torch_logits(model, clips), outputs.logits)
    assert parity.max_abs <= 1e-4
    assert parity.agreement == 1
    assert outputs.features is not None
    assert outputs.features.shape == (3, config.width)
    backend.close()


def test_graph_contract(tmp_path: Path) -> None:
    onnx_from_model(model_with_weights(TINY), tmp_path / "m.onnx")
    model = onnx.load(str(tmp_path / "m.onnx"))
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]  # weights inside
    (source,) = model.graph.input
    assert source.name == "clips"
    assert source.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = source.type.tensor_type.shape.dim
    assert dims[0].dim_param == "N"
    assert [d.dim_value for d in dims[1:]] == [8, 32, 32, 3]
    assert [o.name for o in model.graph.output] == ["logits"]
    assert model.opset_import[0].version <= 20


def test_graph_names_follow_the_state_dict() -> None:
    model = model_with_weights(TINY)
    nodes = {node.name for node in graph_of_model(model).graph.node}
    assert {"blocks.0.attn.q", "blocks.4.mlp.fc2", "temporal_downsamples.1", "head"} <= nodes


def test_synthetic_clips_are_reproducible_and_differ() -> None:
    spec = ClipSpec(4, 0.4, 16)
    clips = synthetic_clips(spec, 2)
    assert clips.shape == (2, 4, 16, 16, 3)
    assert np.array_equal(clips, synthetic_clips(spec, 2))
    assert not np.array_equal(clips[0], clips[1])


def manifest_for(spec: ClipSpec) -> Manifest:
    return Manifest("m", TINY_TASK, spec, 0.0, {})


def test_clips_of_real_videos(videos: Path, tmp_path: Path) -> None:
    manifest = manifest_for(ClipSpec(16, 1.28, 64))
    found = collect_clips(videos, manifest, HaarDetector(), 4, tmp_path / "c.npy")
    assert found.clips.shape == (2, 16, 64, 64, 3)
    assert found.skipped == ()
    assert (found.clips[:, 0] != found.clips[:, -1]).any()


def test_clips_of_photographs_are_spread_over_the_labels(faces: Path, tmp_path: Path) -> None:
    manifest = manifest_for(ClipSpec(16, 1.28, 64))
    found = collect_clips(faces / "val", manifest, HaarDetector(), 21, tmp_path / "c.npy")
    assert len(found.clips) == 21
    assert (found.clips == found.clips[:, :1]).all()
    counts = {label: found.labels.count(label) for label in set(found.labels)}
    assert len(counts) >= 6
    assert max(counts.values()) <= 5
    assert len(set(found.digests)) == 21


def test_files_without_a_face_are_skipped_and_named(tmp_path: Path) -> None:
    import cv2

    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "blank.png"), np.full((100, 100, 3), 90, np.uint8))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no image")
    manifest = manifest_for(ClipSpec(4, 0.4, 32))
    with pytest.raises(SourceError, match=r"No face was found in any of the 2 files"):
        collect_clips(tmp_path / "in", manifest, HaarDetector(), 5, tmp_path / "c.npy")
    cv2.imwrite(str(tmp_path / "in" / "face.png"), read_portrait()[..., ::-1])
    found = collect_clips(tmp_path / "in", manifest, HaarDetector(), 5, tmp_path / "c.npy")
    assert len(found.clips) == 1
    assert sorted(Path(p).name for p in found.skipped) == ["blank.png", "broken.jpg"]


def test_manifest_of_an_export(tiny: Bundle) -> None:
    manifest = tiny.manifest
    assert manifest.task == TINY_TASK
    assert manifest.clip == ClipSpec(8, 0.8, 32)
    assert manifest.provenance["parameters"] == sum(p.numel() for p in TPSBT(TINY).parameters())
    assert len(manifest.provenance["checkpoint_sha256"]) == 64
    parity = manifest.quality["fp32.onnx"]["parity"]
    assert set(parity) == set(available_engines("onnx"))
    assert all(entry["max_abs"] <= 1e-4 for entry in parity.values())


def test_authors_base_checkpoint_for_dfew(tmp_path: Path) -> None:
    """The clip geometry of the task: 16 frames, stride 4 at 25 fps."""
    config = replace(preset("base"), depths=(1, 1, 1))  # the real width and size, fewer blocks
    path = save_like_authors(tmp_path / "ck.pth", model_with_weights(config))
    bundle = export_bundle(path, tmp_path / "dfew", ExportOptions(task=TASKS["dfew"]))
    assert bundle.manifest.clip == ClipSpec(16, pytest.approx(2.56), 160)  # type: ignore[arg-type]
    assert bundle.manifest.task.labels[0] == "happy"


def test_a_float_export_needs_no_quantizer() -> None:
    code = (
        "import sys, svfap_edge.export.pipeline\n"
        "assert not {'nncf', 'openvino', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".pth")


def test_a_broken_artifact_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter writes a model whose normalization is wrong; the gate must see it."""
    monkeypatch.setattr("svfap_edge.export.onnx_from_model.IMAGENET_STD", np.array([0.5, 0.5, 0.5]))
    with pytest.raises(QualityGateError, match=r"too far from PyTorch .* Nothing was written"):
        tiny_bundle(tmp_path / "tiny")
    assert leftovers(tmp_path) == []


def test_a_model_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = model_with_weights(TINY)
    with torch.no_grad():
        model.head.weight.fill_(3e38)  # a number, but not what it makes
    with pytest.raises(QualityGateError):
        export_bundle(
            save_ours(tmp_path / "nan.pth", model), tmp_path / "b", ExportOptions(TINY_TASK)
        )
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_interrupt_and_full_disk_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(fidelity, "check", fail)
    with pytest.raises((KeyboardInterrupt, BundleError), match=r"^$|No space left on device"):
        tiny_bundle(tmp_path / "tiny")
    assert leftovers(tmp_path) == []


def test_existing_bundle_is_kept_unless_overwritten(tmp_path: Path) -> None:
    first = tiny_bundle(tmp_path / "tiny")
    before = os.stat(first.path / "manifest.json").st_mtime_ns
    with pytest.raises(BundleError, match="--overwrite"):
        tiny_bundle(tmp_path / "tiny")
    assert os.stat(first.path / "manifest.json").st_mtime_ns == before
    again = tiny_bundle(tmp_path / "tiny", overwrite=True, features=True)
    assert again.manifest.features == 48
    assert leftovers(tmp_path) == ["tiny"]


def test_a_folder_that_is_no_bundle_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(BundleError, match="not a bundle"):
        tiny_bundle(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "precious"


def test_failed_overwrite_keeps_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tiny_bundle(tmp_path / "tiny")
    content = (old.path / "manifest.json").read_bytes()
    monkeypatch.setattr("svfap_edge.export.onnx_from_model.IMAGENET_MEAN", np.zeros(3))
    with pytest.raises(QualityGateError):
        tiny_bundle(tmp_path / "tiny", overwrite=True)
    assert (old.path / "manifest.json").read_bytes() == content
    old.verify("fp32.onnx")


def test_outputs_must_match_the_task(tmp_path: Path) -> None:
    path = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    with pytest.raises(TaskError, match=r"has 4 outputs; task 'dfew' has 7"):
        export_bundle(path, tmp_path / "b", ExportOptions(TASKS["dfew"]))
    assert leftovers(tmp_path) == []


def test_the_labels_of_the_checkpoint_are_compared(tmp_path: Path) -> None:
    path = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    content = torch.load(path, weights_only=True)
    unsure = replace(TINY_TASK, order_certain=False, note="A guess.")
    torch.save({**content, "task": unsure.to_dict()}, path)
    bundle = export_bundle(path, tmp_path / "b", ExportOptions(unsure, span_s=SPAN_S))
    assert bundle.manifest.task.order_certain and "checkpoint" in bundle.manifest.task.note
    swapped = replace(TINY_TASK, labels=TINY_TASK.labels[::-1])
    theirs = ",".join(TINY_TASK.labels)
    with pytest.raises(TaskError, match=f"in another order.*Pass --labels {theirs}"):
        export_bundle(path, tmp_path / "c", ExportOptions(swapped, span_s=SPAN_S))
    assert not (tmp_path / "c").exists()


def test_unknown_artifact(tmp_path: Path) -> None:
    with pytest.raises(SvfapError, match=r"Cannot export int3\.abacus.*fp32\.onnx"):
        tiny_bundle(tmp_path / "b", artifacts=["int3.abacus"])


def test_pretraining_checkpoint_needs_consent(tmp_path: Path) -> None:
    model = model_with_weights(TINY)
    state = {n: v for n, v in model.state_dict().items() if not n.startswith(("fc_norm", "head"))}
    state["mask_token"] = torch.zeros(1, 1, 8)
    torch.save({"model": state, "config": TINY.to_dict()}, tmp_path / "pre.pth")
    with pytest.raises(CheckpointError, match="Fine-tune it first"):
        export_bundle(tmp_path / "pre.pth", tmp_path / "b", ExportOptions(TINY_TASK))
    bundle = export_bundle(
        tmp_path / "pre.pth", tmp_path / "b", ExportOptions(TINY_TASK, fresh_head=True)
    )
    assert bundle.manifest.provenance["checkpoint_kind"] == "pre-trained"


def test_calibration_folder_without_media(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no videos or images"):
        tiny_bundle(tmp_path / "b", calib=tmp_path / "empty")
    assert leftovers(tmp_path) == ["empty"]


def test_compare_numbers() -> None:
    a = np.array([[1.0, 0.0], [0.0, 2.0]])
    same = compare(a, a)
    assert (same.max_abs, same.agreement, same.clips) == (0, 1, 2)
    assert (same.cosine, same.error) == (pytest.approx(1), 0)
    assert same.spread == pytest.approx(np.sqrt((0.25 + 1) / 2))
    other = compare(a, np.array([[1.0, 0.0], [3.0, 2.0]]))
    assert (other.max_abs, other.agreement) == (3, 0.5)
    assert other.error == pytest.approx(np.sqrt(9 / 4) / same.spread)
    with pytest.raises(ValueError, match="Cannot compare"):
        compare(a, a[:1])


def test_check_runs_batches_too(tiny: Bundle) -> None:
    with Engine.load(tiny) as engine:
        clips = synthetic_clips(tiny.manifest.clip, 3)
        reference = torch_logits(model_with_weights(TINY), clips)
        found = check(engine.backend, reference, clips, "fp32")
    assert json.dumps(asdict(found))
    assert found.clips == 3
