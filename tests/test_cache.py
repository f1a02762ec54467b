"""The cache of compiled models: whose it is, what it is made of, what survives in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svfap_edge import cache
from svfap_edge.bundle import Bundle, describe_file, write_manifest
from svfap_edge.cache import compiled_entries, keep_compiled, kept_compiled
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError
from svfap_edge.runtimes import Engine, available_engines, openvino_cache
from tests.conftest import ROOT
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

CLIP = ClipSpec(4, 0.4, 8)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SVFAP_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_of_onnx(tmp_path / "bundle", brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)


def logits(bundle: Bundle, engine: str, artifact: str | None = None) -> np.ndarray:
    with Engine.load(bundle.path, engine=engine, artifact=artifact) as loaded:
        return loaded.infer(np.full((1, *CLIP.shape), 100, np.uint8)).logits


@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_other_weights_at_the_same_time_are_another_model(
    root: Path, bundle: Bundle, engine: str, form: str
) -> None:
    """Two exports of one architecture have the same `.xml`; images have the same times."""
    if engine not in available_engines(form):
        pytest.skip(f"{engine} does not run {form} here")
    if form == "openvino":
        _to_openvino(bundle)
    artifact = f"fp32.{form}"
    files = [bundle.path / entry.file for entry in bundle.artifact(artifact).files]
    before = logits(bundle, engine, artifact)
    first = {path: path.read_bytes() for path in files}
    for path, content in first.items():
        for old, new in ((255, 510), (1 / 255, 1 / 510)):  # OpenVINO multiplies where ONNX divides
            content = content.replace(np.float32(old).tobytes(), np.float32(new).tobytes())
        path.write_bytes(content)
    _describe_again(bundle, artifact, files)
    other = logits(bundle, engine, artifact)
    assert other[0, 0] == pytest.approx(before[0, 0] / 2, abs=1e-4)
    for path in files:
        path.write_bytes(first[path])
    _describe_again(bundle, artifact, files)
    assert np.array_equal(logits(bundle, engine, artifact), before)
    assert np.array_equal(logits(bundle, engine, artifact), before)  # from the cache


def _to_openvino(bundle: Bundle) -> None:
    import openvino as ov

    from svfap_edge.bundle import Artifact

    model = ov.convert_model(str(bundle.path_of("fp32.onnx")))
    ov.save_model(model, bundle.path / "fp32.xml", compress_to_fp16=False)
    files = tuple(describe_file(bundle.path / f"fp32.{end}") for end in ("xml", "bin"))
    bundle.manifest.artifacts["fp32.openvino"] = Artifact("fp32.openvino", files)
    write_manifest(bundle.path, bundle.manifest)


def _describe_again(bundle: Bundle, artifact: str, files: list[Path]) -> None:
    from dataclasses import replace

    for path in files:
        os.utime(path, (1, 1))
    entry = replace(bundle.artifact(artifact), files=tuple(map(describe_file, files)))
    bundle.manifest.artifacts[artifact] = entry
    write_manifest(bundle.path, bundle.manifest)


def test_only_our_own_entries_are_removed(
    root: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    thesis = root / "compiled" / "my-thesis"
    alike = root / "compiled" / f"svfap-edge-{'0' * 40}"  # our name, without our marker
    for folder in (thesis, alike):
        folder.mkdir(parents=True)
        (folder / "text").write_bytes(bytes(100))
    monkeypatch.setattr(cache, "COMPILED_LIMIT_BYTES", 50)
    for device in range(3):
        made = cache.compiled_model_cache(
            bundle.artifact("fp32.onnx"), "an-engine-1", {"d": device}
        )
        assert made is not None
        keep_compiled(made / "blob", bytes(40))
        assert [entry.path for entry in compiled_entries()][-1] == made
    assert len(compiled_entries()) <= 2
    cache.clear_compiled()
    assert compiled_entries() == []
    assert (thesis / "text").is_file() and (alike / "text").is_file()


def test_every_difference_makes_another_entry(root: Path, bundle: Bundle) -> None:
    from dataclasses import replace

    artifact = bundle.artifact("fp32.onnx")
    (entry,) = artifact.files
    second = replace(artifact, files=(entry, replace(entry, file="fp32.bin", sha256="1" * 64)))
    third = replace(artifact, files=(entry, replace(entry, file="fp32.bin", sha256="2" * 64)))
    made = {
        cache.compiled_model_cache(kind, builder, {"threads": threads})
        for kind in (artifact, second, third)
        for builder in ("one-1", "one-2")
        for threads in (None, 1)
    }
    assert None not in made and len(made) == 12


def test_what_was_compiled_of_an_ir_leaves_its_weights_in_the_bin(
    root: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "openvino" not in available_engines():
        pytest.skip("OpenVINO is not installed")
    if not openvino_cache.FILES_IN_MEMORY:
        pytest.skip("this system has no files in memory")
    _to_openvino(bundle)
    folder = Path("/proc/self/fd")
    answers = [logits(bundle, "openvino", "fp32.openvino") for _ in range(2)]
    before = len(list(folder.iterdir()))
    answers.append(logits(bundle, "openvino", "fp32.openvino"))
    assert len(list(folder.iterdir())) == before  # none is left open
    (apart,) = root.rglob("compiled.blob")
    monkeypatch.setattr(openvino_cache, "FILES_IN_MEMORY", False)
    answers += [logits(bundle, "openvino", "fp32.openvino") for _ in range(2)]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    (inside,) = set(root.rglob("compiled.blob")) - {apart}
    weights = (bundle.path / "fp32.bin").stat().st_size
    assert inside.stat().st_size - apart.stat().st_size > weights / 2


def test_altered_weights_are_refused_although_compiled_before(root: Path, bundle: Bundle) -> None:
    if "openvino" not in available_engines():
        pytest.skip("OpenVINO is not installed")
    _to_openvino(bundle)
    logits(bundle, "openvino", "fp32.openvino")
    weights = bundle.path / "fp32.bin"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(BundleError, match="was altered"):
        logits(bundle, "openvino", "fp32.openvino")


def test_what_is_damaged_is_compiled_anew(root: Path, bundle: Bundle) -> None:
    if "openvino" not in available_engines():
        pytest.skip("OpenVINO is not installed")
    before = logits(bundle, "openvino")
    (blob,) = root.rglob("compiled.blob")
    whole = blob.read_bytes()
    for content in (b"", whole[:3], whole[:-7], whole[:90] + b"x" + whole[91:]):
        blob.write_bytes(content)
        assert kept_compiled(blob) is None
        assert np.array_equal(logits(bundle, "openvino"), before)
        assert blob.read_bytes()[4:] and kept_compiled(blob) is not None


def test_a_loaded_engine_outlives_its_cache(root: Path, bundle: Bundle) -> None:
    if "openvino" not in available_engines():
        pytest.skip("OpenVINO is not installed")
    before = logits(bundle, "openvino")
    clips = np.full((1, *CLIP.shape), 100, np.uint8)
    with Engine.load(bundle.path, engine="openvino") as engine:
        for blob in root.rglob("compiled.blob"):
            os.truncate(blob, 0)
        for path in bundle.path.iterdir():
            os.truncate(path, 0)
        shutil.rmtree(root)
        assert np.array_equal(engine.infer(clips).logits, before)


def test_many_first_runs_at_once(root: Path, bundle: Bundle) -> None:
    """16 processes that compile the same model into one empty cache."""
    code = (
        "import numpy as np, sys\nfrom svfap_edge import Engine\n"
        "with Engine.load(sys.argv[1]) as e:\n"
        "    print(e.infer(np.zeros((1, *e.spec.clip.shape), np.uint8)).logits.sum())"
    )
    command = [sys.executable, "-c", code, str(bundle.path)]
    runs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(16)]
    answers = {run.communicate(timeout=120)[0] for run in runs}
    assert [run.returncode for run in runs] == [0] * 16
    assert len(answers) == 1
    assert not list(root.rglob("*.part"))
