"""Around an INT8 export: a full disk, foreign files, evaluation on the calibration list."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from typer.testing import CliRunner, Result

from svfap_edge.bundle import Bundle, describe_file
from svfap_edge.cli.app import app
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.export.pipeline import ExportOptions, export_bundle
from svfap_edge.runtimes import Engine
from tests.conftest import ROOT
from tests.models import SPAN_S, TINY, TINY_TASK, model_with_weights, save_ours

LABELS = ",".join(TINY_TASK.labels)
BOTH = ("fp32.onnx", "int8.onnx", "int8.openvino")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled list of forty pictures; any picture passes as a face crop here."""
    folder = tmp_path_factory.mktemp("listed")
    lines = []
    for index, clip in enumerate(synthetic_clips(ClipSpec(1, 0.1, TINY.size), 40, seed=3)):
        cv2.imwrite(str(folder / f"{index}.png"), clip[0])
        lines.append(f"{index}.png {TINY_TASK.labels[index % 4]}")
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ours(tmp_path_factory.mktemp("checkpoint") / "m.pth", model_with_weights(TINY))


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, listed: Path) -> Bundle:
    options = ExportOptions(TINY_TASK, artifacts=BOTH, span_s=SPAN_S, calib=listed, detector="none")
    return export_bundle(checkpoint, checkpoint.parent / "bundle", options)


FULL_DISK = """
import resource, sys
from contextlib import contextmanager
from svfap_edge.cli import app, export

@contextmanager
def steps(quiet):
    def step(text):
        if text.startswith({moment!r}):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    yield step

export.steps = steps
app.app({call!r})
"""
"""The command line, on a disk that takes no more than 20 kB a file from one step on."""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files by RLIMIT_FSIZE")
@pytest.mark.parametrize(
    "moment",
    ["Cutting", "Quantizing int8.onnx", "Quantizing int8.openvino"],
)
def test_a_full_disk_leaves_the_earlier_bundle(
    tmp_path: Path, bundle: Bundle, checkpoint: Path, listed: Path, moment: str
) -> None:
    shutil.copytree(bundle.path, tmp_path / "b")
    before = {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    call = ["export", checkpoint, "--task", "moods", "--labels", LABELS, "-o", tmp_path / "b"]
    call += ["--artifacts", ",".join(BOTH), "--calib", listed, "--detector", "none", "--overwrite"]
    script = FULL_DISK.format(moment=moment, call=[str(part) for part in call])
    environment = {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    (tmp_path / "tmp").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert f"BundleError: The bundle '{tmp_path / 'b'}' cannot be written: " in result.stderr
    assert "File too large" in result.stderr or "is the disk full?" in result.stderr
    assert "Nothing was changed there" in result.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "tmp"]
    assert not [p for p in (tmp_path / "tmp").iterdir() if p.name.startswith("svfap")]


def load_all(folder: Path, name: str) -> None:
    for engine in ("openvino", "onnxruntime") if name.endswith(".onnx") else ("openvino",):
        Engine.load(folder, artifact=name, engine=engine).close()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, listed: Path) -> dict[str, Bundle]:
    """Bundles of other models: one of the same shapes, one of three labels, one of 16 frames."""
    folder = tmp_path_factory.mktemp("others")
    changes: dict[str, dict[str, Any]] = {"same": {}, "labels": {"outputs": 3}}
    made = {}
    for name, change in {**changes, "frames": {"frames": 16}}.items():
        model = model_with_weights(replace(TINY, **change))
        model.head.bias.data += 0.01
        task = replace(TINY_TASK, labels=TINY_TASK.labels[: model.config.outputs])
        options = ExportOptions(
            task, artifacts=BOTH, span_s=SPAN_S, calib=listed, calib_samples=20, detector="none"
        )
        made[name] = export_bundle(save_ours(folder / "m.pth", model), folder / name, options)
    return made


def with_files_of(other: Bundle, bundle: Bundle, name: str, folder: Path) -> Path:
    """A copy of a bundle, the files of one artifact taken from another."""
    shutil.copytree(bundle.path, folder)
    for entry in other.artifact(name).files:
        shutil.copy(other.path / entry.file, folder / entry.file)
    return folder


@pytest.mark.parametrize("name", BOTH)
def test_an_artifact_of_another_bundle_is_refused(
    tmp_path: Path, bundle: Bundle, others: dict[str, Bundle], name: str
) -> None:
    """Same names and shapes, other bytes."""
    load_all(bundle.path, name)
    mine = with_files_of(others["same"], bundle, name, tmp_path / "mine")
    with pytest.raises(BundleError, match=r"was altered|The copy is incomplete"):
        load_all(mine, name)
    result = CliRunner().invoke(app, ["inspect", str(mine)])
    assert result.exit_code == 2
    assert "BundleError" in result.output


def manifest_edited_to_fit(folder: Path, name: str) -> None:
    """Write the true digests and sizes of an artifact's files into the manifest."""
    content = json.loads((folder / "manifest.json").read_text())
    entry: dict[str, Any] = next(a for a in content["artifacts"] if a["name"] == name)
    entry["files"] = [vars(describe_file(folder / f["file"])) for f in entry["files"]]
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("difference", "words"),
    [("labels", r"returns outputs of width \[3\]"), ("frames", r"reads \(.*16, 32")],
)
def test_a_manifest_edited_to_fit_a_foreign_artifact_is_refused(
    tmp_path: Path,
    bundle: Bundle,
    others: dict[str, Bundle],
    name: str,
    difference: str,
    words: str,
) -> None:
    mine = with_files_of(others[difference], bundle, name, tmp_path / "mine")
    manifest_edited_to_fit(mine, name)
    with pytest.raises(BundleError, match=words):
        load_all(mine, name)


def judge(bundle: Bundle, data: Path) -> Result:
    call = ["evaluate", str(bundle.path), "--data", str(data), "--detector", "none", "--no-speed"]
    return CliRunner().invoke(app, call)


def test_the_calibration_list_is_refused_as_evaluation_list(
    tmp_path: Path, bundle: Bundle, listed: Path
) -> None:
    backwards = listed.parent / "backwards.txt"
    backwards.write_text("\n".join(reversed(listed.read_text().splitlines())))
    copies = tmp_path / "copies"
    shutil.copytree(listed.parent, copies)
    for data in (listed, backwards, copies / "list.txt"):
        result = judge(bundle, data)
        assert result.exit_code == 2, result.output
        assert "SourceError: 40 of 40 files were used to calibrate" in result.output
        assert "Evaluate on files that took no part" in result.output


def test_one_calibration_file_among_others_is_refused(
    tmp_path: Path, bundle: Bundle, listed: Path
) -> None:
    for index, clip in enumerate(synthetic_clips(ClipSpec(1, 0.1, TINY.size), 8, seed=77)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), clip[0])
    lines = [f"{index}.png {index % 4}" for index in range(8)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert judge(bundle, tmp_path / "list.txt").exit_code == 0
    shutil.copy(listed.parent / "7.png", tmp_path / "renamed.png")
    (tmp_path / "list.txt").write_text("\n".join([*lines, "renamed.png 1"]))
    result = judge(bundle, tmp_path / "list.txt")
    assert result.exit_code == 2
    assert "1 of 9 files were used to calibrate" in result.output
    assert "renamed.png" in result.output
