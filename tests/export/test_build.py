"""More artifacts from what a bundle has, without PyTorch; and the check clips in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from svfap_edge import bundle as bundles
from svfap_edge.bundle import DEFAULT_BUNDLE, Bundle
from svfap_edge.checks import CHECKS, Checks, read_checks, write_checks
from svfap_edge.errors import (
    BundleError,
    CheckpointError,
    DependencyMissing,
    QualityGateError,
    SvfapError,
)
from svfap_edge.evaluation.fidelity import LIMITS
from svfap_edge.evaluation.selftest import self_test
from svfap_edge.export.build import build_bundle, drawn_clips
from svfap_edge.export.float_from_half import float_from_half
from svfap_edge.export.model_files import run_onnx
from svfap_edge.export.options import BuildOptions, to_quantize
from svfap_edge.export.pipeline import ExportOptions, export_bundle
from svfap_edge.export.trt.builder import find_builder
from svfap_edge.runtimes import Engine, available_engines
from svfap_edge.training.checkpoint import load_checkpoint
from tests.cli.test_commands import call, refused
from tests.models import (
    SPAN_S,
    TINY,
    TINY_TASK,
    model_with_weights,
    save_ours,
    tiny_bundle,
)

FLOATS = ("fp16.onnx", "bf16.openvino")
WITHOUT = """
import sys
for name in ("torch", "nncf", "torchvision", "lightning"):
    sys.modules[name] = None
from svfap_edge.cli.app import main
sys.argv = ["svfap-edge", *sys.argv[1:]]
main()
"""


@pytest.fixture
def bundle(tiny: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle, which holds fp32.onnx alone."""
    shutil.copytree(tiny.path, tmp_path / "b")
    return Bundle.open(tmp_path / "b")


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_artifacts_are_added_without_pytorch_or_nncf(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    (bundle.path / "README.txt").write_text("ours")
    before = listing(bundle.path)
    command = [sys.executable, "-c", WITHOUT, "build", str(bundle.path)]
    command += ["--artifacts", ",".join(FLOATS)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    built = Bundle.open(bundle.path)
    assert set(built.manifest.artifacts) == {"fp32.onnx", *FLOATS}
    for name in built.manifest.artifacts:
        built.verify(name)
    after = listing(bundle.path)
    assert {n: c for n, c in before.items() if n not in ("manifest.json", CHECKS)} == {
        n: after[n] for n in before if n not in ("manifest.json", CHECKS)
    }
    assert built.manifest.provenance == bundle.manifest.provenance
    for name in FLOATS:
        assert built.manifest.quality[name]["clips"] == "drawn"
    with Engine.load(built, artifact="fp16.onnx") as engine:
        assert np.isfinite(engine.infer(drawn_clips(engine.spec.clip)).logits).all()


def test_half_precision_alone_is_built_from_too(tmp_path: Path) -> None:
    """Its numbers in float32 again; what was only made on the way has gone."""
    pytest.importorskip("openvino")
    half = tiny_bundle(tmp_path / "half", artifacts=("fp16.onnx",))
    whole = tiny_bundle(tmp_path / "whole", artifacts=("fp32.onnx",))
    built = build_bundle(half, tmp_path / "b", BuildOptions(artifacts=["bf16.openvino"]))
    assert set(built.manifest.artifacts) == {"fp16.onnx", "bf16.openvino"}
    assert not (built.path / "fp32.onnx").exists()
    float_from_half(half.path_of("fp16.onnx"), tmp_path / "a.onnx")
    model, original = (onnx.load(p) for p in (tmp_path / "a.onnx", whole.path_of("fp32.onnx")))
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in model.graph.initializer}
    kinds = [sorted(node.op_type for node in m.graph.node) for m in (model, original)]
    assert kinds[0] == kinds[1]
    clips = drawn_clips(half.manifest.clip)
    reference = run_onnx(original, clips)
    assert np.abs(run_onnx(model, clips) - reference).max() <= 2e-3 * np.abs(reference).max()
    assert self_test(built).passed


def test_weights_are_kept_on_request_and_stay(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b", artifacts=("fp16.onnx",), keep_weights=True)
    assert bundle.manifest.weights is not None
    file = bundle.weights()
    assert file is not None
    assert file.stat().st_mode & 0o444 == 0o444  # safetensors' own files are their owner's alone
    built = build_bundle(bundle, tmp_path / "c", BuildOptions(artifacts=["bf16.openvino"]))
    assert built.manifest.weights == bundle.manifest.weights
    loaded = load_checkpoint(built.path)
    assert loaded.info["task"] == bundle.manifest.task
    assert loaded.model.config == TINY
    exported = export_bundle(built.path, tmp_path / "d", ExportOptions(span_s=SPAN_S))
    assert exported.manifest.task == bundle.manifest.task
    clips = drawn_clips(bundle.manifest.clip)
    ours, theirs = (
        run_onnx(onnx.load(b.path_of(name)), clips)
        for b, name in ((built, "fp16.onnx"), (exported, "fp32.onnx"))
    )
    np.testing.assert_allclose(ours, theirs, atol=5e-3 * np.abs(ours).max())
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    for use in (lambda: load_checkpoint(bundle.path), lambda: build_bundle(
        bundle, tmp_path / "e", BuildOptions(artifacts=["bf16.openvino"])
    )):  # fmt: skip
        with pytest.raises(BundleError, match=r"weights.safetensors' was altered"):
            use()
    refused(2, "inspect", str(bundle.path))


def test_a_bundle_without_weights_is_no_checkpoint(tiny: Bundle, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no weights.*--keep-weights"):
        export_bundle(tiny.path, tmp_path / "b", ExportOptions())


def test_a_new_bundle_leaves_the_old_one(bundle: Bundle, tmp_path: Path) -> None:
    before = listing(bundle.path)
    options = BuildOptions(artifacts=["fp16.onnx"])
    built = build_bundle(bundle, tmp_path / "new", options)
    assert set(built.manifest.artifacts) == {"fp32.onnx", "fp16.onnx"}
    assert listing(bundle.path) == before
    with pytest.raises(BundleError, match="exists"):
        build_bundle(bundle, tmp_path / "new", options)


def test_plans_are_built_ahead_of_time(bundle: Bundle) -> None:
    try:
        find_builder("auto", ("8.9",))
    except SvfapError as error:
        pytest.skip(str(error))
    options = BuildOptions(artifacts=["fp16.tensorrt"], compute_capabilities=("8.9",))
    built = build_bundle(bundle, None, options)
    assert set(built.manifest.artifacts) == {"fp32.onnx", "fp16.tensorrt"}  # fp16.onnx has gone
    assert built.manifest.quality["fp16.tensorrt"]["checked_as"]["clips"] == "drawn"
    assert not (built.path / "fp16.onnx").exists()


def test_the_int8_plan_of_the_model_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of int8.onnx, on a machine without NNCF; no link is followed into the new bundle."""
    try:
        find_builder("auto", ("8.9",))
    except SvfapError as error:
        pytest.skip(str(error))
    monkeypatch.setattr("svfap_edge.export.options.find_spec", lambda name: None)
    package = tmp_path / "package"
    shutil.copytree(DEFAULT_BUNDLE, package)
    (package / "link").symlink_to("/etc/hostname")
    (package / "manifest.sig").write_bytes(b"x" * 64)
    options = BuildOptions(artifacts=["int8.tensorrt"], compute_capabilities=("8.9",))
    built = build_bundle(Bundle.open(package), tmp_path / "new", options)
    made = built.manifest.artifacts
    assert made["int8.tensorrt"].built_by["nncf"] == made["int8.onnx"].built_by["nncf"]
    assert set(listing(built.path)) == {
        *(set(listing(DEFAULT_BUNDLE)) - {"__pycache__"}), "int8.plan"
    }  # fmt: skip


def test_an_int8_plan_needs_no_calibration_where_int8_is_there() -> None:
    assert to_quantize(["int8.tensorrt"]) == ["int8.onnx"]
    assert to_quantize(["int8.tensorrt"], ["int8.onnx"]) == []
    assert to_quantize(["int8.onnx", "int8.tensorrt"], ["int8.onnx"]) == ["int8.onnx"]


def test_what_cannot_be_built_is_said(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(bundle.path)
    for artifacts, words in (
        ("fp32.onnx", "comes from a checkpoint"), ("int3.abacus", "Cannot export"),
        ("int8.onnx", "--calib"), ("int8.tensorrt", "--calib"), ("", "nothing"),
    ):  # fmt: skip
        assert words in refused(2, "build", bundle.path, "--artifacts", artifacts), artifacts
    assert "is there" in refused(2, "build", DEFAULT_BUNDLE, "--artifacts", "fp16.onnx")
    manifest = json.loads((DEFAULT_BUNDLE / "manifest.json").read_text())
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["name"] == "int8.onnx"]
    shutil.copytree(DEFAULT_BUNDLE, tmp_path / "int8")
    (tmp_path / "int8" / "manifest.json").write_text(json.dumps(manifest))
    words = refused(2, "build", tmp_path / "int8", "--artifacts", "fp16.onnx")
    assert "has no fp32.onnx" in words
    (bundle.path / "manifest.sig").write_bytes(b"x" * 64)
    assert "is signed" in refused(2, "build", bundle.path, "--artifacts", "fp16.onnx")
    os.remove(bundle.path / "manifest.sig")
    assert listing(bundle.path) == before


def test_a_damaged_source_is_refused(bundle: Bundle) -> None:
    file = bundle.path / "fp32.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match="incomplete"):
        build_bundle(bundle, None, BuildOptions(artifacts=["fp16.onnx"]))


def test_what_passed_is_kept_where_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that hardly differ between clips: rounding to half is then all there is."""
    pytest.importorskip("openvino")
    model = model_with_weights(TINY)
    with torch.no_grad():
        model.head.weight.mul_(1e-3)
        model.head.bias.add_(torch.arange(4.0))
    checkpoint = save_ours(tmp_path / "flat.pth", model)
    monkeypatch.setitem(LIMITS["fp16"], "error", 1e-4)
    options = ExportOptions(TINY_TASK, artifacts=("fp32.onnx", "fp16.onnx"), span_s=SPAN_S)
    with pytest.raises(QualityGateError) as caught:
        export_bundle(checkpoint, tmp_path / "b", options)
    message = str(caught.value)
    assert "'fp16.onnx' on" in message
    assert "answers hardly differ between these clips" in message
    assert message.endswith("was written without that; it holds fp32.onnx.")
    bundle = Bundle.open(tmp_path / "b")
    assert set(bundle.manifest.artifacts) == {"fp32.onnx"}
    assert not (bundle.path / "fp16.onnx").exists()
    assert self_test(bundle).passed
    for name, value in (("error", 1e9), ("cosine", -1), ("agreement", 0)):
        monkeypatch.setitem(LIMITS["bf16"], name, value)
    with pytest.raises(QualityGateError, match=r"it holds fp32\.onnx, bf16\.openvino\.$"):
        build_bundle(bundle, None, BuildOptions(artifacts=["bf16.openvino", "fp16.onnx"]))
    assert set(Bundle.open(bundle.path).manifest.artifacts) == {"fp32.onnx", "bf16.openvino"}


def test_a_gate_that_fails_leaves_the_bundle(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(bundle.path)
    monkeypatch.setitem(LIMITS["fp16"], "error", 1e-9)
    with pytest.raises(QualityGateError, match=r"too far from fp32\.onnx on"):
        build_bundle(bundle, None, BuildOptions(artifacts=["fp16.onnx"]))
    assert listing(bundle.path) == before
    assert [p.name for p in bundle.path.parent.iterdir()] == ["b"]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_a_kill_leaves_the_bundle_as_it_was(bundle: Bundle) -> None:
    before = listing(bundle.path)
    command = [sys.executable, "-m", "svfap_edge", "build", str(bundle.path)]
    command += ["--artifacts", "fp16.onnx,bf16.openvino"]
    for word in (b"Running", b"Writing fp16", b"Comparing fp16"):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert process.stderr is not None
        while word not in (line := process.stderr.readline()) and line:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert listing(bundle.path) == before


def test_int8_is_held_to_the_float_model(tmp_path: Path, exact_int8: None) -> None:
    pytest.importorskip("nncf")
    clips = tmp_path / "clips"
    clips.mkdir()
    import cv2

    for number, clip in enumerate(drawn_clips(tiny_bundle(tmp_path / "t").manifest.clip, 24)):
        cv2.imwrite(str(clips / f"{number}.png"), clip[0][..., ::-1])
    source = Bundle.open(tmp_path / "t")
    options = BuildOptions(artifacts=["int8.onnx"], calib=clips, detector="none")
    built = build_bundle(source, None, options)
    stored = read_checks(built)
    assert stored is not None and set(stored.logits) == {"fp32", "int8"}
    assert self_test(built).passed


def test_check_clips_come_back(tmp_path: Path, bundle: Bundle) -> None:
    checks = read_checks(bundle)
    assert checks is not None
    assert checks.clips.shape == (4, *bundle.manifest.clip.shape)
    assert np.array_equal(checks.clips, drawn_clips(bundle.manifest.clip))
    assert (bundle.path / CHECKS).stat().st_size < 400_000
    again = Checks(checks.clips, {"int8": checks.logits["fp32"] + 1})
    write_checks(tmp_path / "c.npz", again)
    assert again.reference("fp16") is None
    assert again.reference("int8") is not None
    assert checks.reference("int8") is checks.reference("fp16") is not None


@pytest.mark.parametrize("kind", ["cut", "shape", "object", "bomb", "name", "nan", "none"])
def test_check_clips_that_are_none(bundle: Bundle, kind: str) -> None:
    path = bundle.path / CHECKS
    clips = np.zeros((2, *bundle.manifest.clip.shape), np.uint8)
    logits = np.zeros((2, 4), np.float32)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "shape":
        np.savez_compressed(path, clips=clips[:, :1], fp32=logits)
    elif kind == "object":
        np.savez_compressed(path, clips=clips, fp32=np.array([object()]))
    elif kind == "bomb":
        np.savez_compressed(path, clips=np.zeros((70, *clips.shape[1:]), np.uint8), fp32=logits)
    elif kind == "name":
        np.savez_compressed(path, clips=clips, fp32=logits, other=logits)
    elif kind == "nan":
        np.savez_compressed(path, clips=clips, fp32=logits * np.nan)
    else:
        np.savez_compressed(path, clips=clips)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    entry = bundles.describe_file(path)
    manifest["checks"] = {"file": CHECKS, "sha256": entry.sha256, "bytes": entry.bytes}
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="check clips are not readable"):
        read_checks(Bundle.open(bundle.path))


def test_the_self_test_passes_and_fails(bundle: Bundle, tmp_path: Path) -> None:
    found = call("selftest", bundle.path, "--json")
    assert found.exit_code == 0, found.output
    content = json.loads(found.stdout)
    assert content["passed"] and len(content["outcomes"]) == len(available_engines("onnx"))
    assert "fine" in call("selftest", bundle.path).stdout
    # Another model by the same name, with a digest that is right.
    checks = read_checks(bundle)
    assert checks is not None
    write_checks(bundle.path / CHECKS, Checks(checks.clips, {"fp32": -checks.logits["fp32"]}))
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    entry = bundles.describe_file(bundle.path / CHECKS)
    manifest["checks"] |= {"sha256": entry.sha256, "bytes": entry.bytes}
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    found = call("selftest", bundle.path)
    assert found.exit_code == QualityGateError.exit_code and "max abs" in found.stdout
    file = bundle.path / "fp32.onnx"
    file.write_bytes(file.read_bytes()[::-1])
    found = call("selftest", bundle.path)
    assert found.exit_code == QualityGateError.exit_code and "altered" in found.stdout


def test_a_bundle_of_before_has_no_check_clips(bundle: Bundle) -> None:
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    del manifest["checks"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    assert read_checks(Bundle.open(bundle.path)) is None
    assert "has no check clips" in refused(2, "selftest", bundle.path)
    build_bundle(Bundle.open(bundle.path), None, BuildOptions(artifacts=["fp16.onnx"]))
    assert call("selftest", bundle.path).exit_code == 0


def test_both_need_packages_that_they_name(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svfap_edge.export.options.find_spec", lambda name: None)
    with pytest.raises((DependencyMissing, SvfapError), match="NNCF"):
        build_bundle(bundle, None, BuildOptions(artifacts=["int8.onnx"], calib=bundle.path))


def test_the_model_in_the_package_is_built_into_the_cache(
    tmp_path: Path, tiny: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package" / "lite-faces"
    shutil.copytree(tiny.path, package)
    monkeypatch.setattr(bundles, "DEFAULT_BUNDLE", package)
    monkeypatch.setenv("SVFAP_EDGE_CACHE", str(tmp_path / "cache"))
    before = listing(package)
    assert bundles.find_bundle() == bundles.find_bundle("lite-faces") == package
    for name in ("fp16.onnx", "bf16.openvino"):
        found = call("build", "--artifacts", name)
        assert found.exit_code == 0, found.output
    built = Bundle.open()
    assert built.path == tmp_path / "cache" / "models" / "lite-faces"
    assert set(built.manifest.artifacts) == {"fp32.onnx", "fp16.onnx", "bf16.openvino"}
    assert listing(package) == before
    with Engine.load("lite-faces", artifact="fp16.onnx"):
        pass
    (tmp_path / "lite-faces").mkdir()
    monkeypatch.chdir(tmp_path)
    assert bundles.find_bundle("lite-faces") == Path("lite-faces")
    # A new version of the package has another model.
    shutil.rmtree(package)
    shutil.copytree(DEFAULT_BUNDLE, package)
    assert Bundle.open().path == package
    monkeypatch.setenv("SVFAP_EDGE_CACHE", "off")
    assert "give -o DIR" in refused(2, "build", "--artifacts", "fp16.onnx")
