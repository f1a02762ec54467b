"""Bundles: damaged, altered, newer, hostile."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svfap_edge.bundle import DEFAULT_BUNDLE, Bundle, check_target, parse_manifest, writing
from svfap_edge.errors import BundleError
from svfap_edge.runtimes import Engine


@pytest.fixture
def broken(tiny: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(tiny.path, tmp_path / "b")
    return tmp_path / "b"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def test_roundtrip(tiny: Bundle) -> None:
    content = json.loads(json.dumps(tiny.manifest.to_json()))
    assert parse_manifest(content) == tiny.manifest


def test_the_default_bundle_is_intact_and_small() -> None:
    bundle = Bundle.open()
    assert bundle.path == DEFAULT_BUNDLE
    for name, artifact in bundle.manifest.artifacts.items():
        bundle.verify(name)
        assert artifact.bytes < 20e6
    assert (DEFAULT_BUNDLE / "MODEL_CARD.md").is_file()


def test_truncated_file(broken: Path) -> None:
    data = (broken / "fp32.onnx").read_bytes()
    (broken / "fp32.onnx").write_bytes(data[:-100])
    with pytest.raises(BundleError, match=r"has \d+ bytes, the manifest says \d+.*incomplete"):
        Engine.load(broken)


def test_one_flipped_bit(broken: Path) -> None:
    data = bytearray((broken / "fp32.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (broken / "fp32.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="was altered"):
        Engine.load(broken)


def test_missing_file(broken: Path) -> None:
    (broken / "fp32.onnx").unlink()
    with pytest.raises(BundleError, match=r"'fp32\.onnx' .* is missing"):
        Engine.load(broken)


def test_link_out_of_the_folder(broken: Path, tmp_path: Path) -> None:
    (broken / "fp32.onnx").rename(tmp_path / "outside.onnx")
    (broken / "fp32.onnx").symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(BundleError, match="leaves the folder"):
        Engine.load(broken)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.onnx",
        "/etc/passwd",
        "a/../../b",
        "C:\\x",
        "..\\x",
        "",
        ".",
        "manifest.json",
        "a\0",
    ],
)
def test_paths_that_leave_the_folder(broken: Path, name: str) -> None:
    edit(broken, lambda m: m["artifacts"][0]["files"][0].update(file=name))
    with pytest.raises(BundleError, match="not a plain path inside the bundle"):
        Bundle.open(broken)


def test_check_clips_outside_the_folder(broken: Path) -> None:
    checks = {"file": "../a.npz", "sha256": "0" * 64, "bytes": 1}
    edit(broken, lambda m: m.update(checks=checks))
    with pytest.raises(BundleError, match=r"'\.\./a\.npz' is not a plain path"):
        Bundle.open(broken)


def test_newer_format(broken: Path) -> None:
    edit(broken, lambda m: m.update(format=2))
    with pytest.raises(BundleError, match=r"format 2; this version reads format 1\. Upgrade"):
        Bundle.open(broken)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda m: m.pop("clip"), "'clip' is missing"),
        (lambda m: m["clip"].update(frames=0), "clip.frames"),
        (lambda m: m["clip"].update(frames=16.5), "clip.frames"),
        (lambda m: m["clip"].update(frames=True), "clip.frames"),
        (lambda m: m["clip"].update(span_s=-1), "clip.span_s"),
        (lambda m: m["clip"].update(span_s=float("nan")), "clip.span_s"),
        (lambda m: m["clip"].update(size=10**9), "clip.size"),
        (lambda m: m["crop"].update(margin="wide"), "crop.margin"),
        (lambda m: m["task"].update(labels=[]), "labels"),
        (lambda m: m["task"].update(labels=["a", "a", "b", "c"]), "labels must differ"),
        (lambda m: m["task"].update(labels=[1, 2]), "task.labels"),
        (lambda m: m["task"].update(kind="poem"), "kind"),
        (lambda m: m.update(artifacts=[]), "no artifacts"),
        (lambda m: m.update(artifacts={}), "artifacts"),
        (lambda m: m["artifacts"].append(copy.deepcopy(m["artifacts"][0])), "twice"),
        (lambda m: m["artifacts"][0].update(name="fp32"), "precision"),
        (lambda m: m["artifacts"][0].update(files=[]), "no files"),
        (lambda m: m["artifacts"][0]["files"][0].update(bytes=0), "bytes"),
        (lambda m: m["artifacts"][0]["files"][0].pop("sha256"), "sha256"),
        (lambda m: m.update(features=-1), "features"),
        (lambda m: m.update(quality=3), "quality"),
    ],
)
def test_every_field_is_checked(
    broken: Path, change: Callable[[dict[str, Any]], Any], word: str
) -> None:
    edit(broken, change)
    with pytest.raises(BundleError, match=word):
        Bundle.open(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["quality"].update({"int8.onnx": {"parity": {"cpu": {"max_abs": 1}}}}),
            "'quality.int8.onnx.parity.cpu.clips' is missing",
        ),
        (
            lambda m: m["quality"].update({"a": {"layers": {"int8": 2}}, "b": {"measured": []}}),
            "'quality.b.measured' must be an object; got []",
        ),
        (
            lambda m: m["artifacts"][0]["needs"].update(compute_capability=["8.7", 8.7]),
            "'artifacts[0].needs.compute_capability[1]' must be text of at most 1000 characters; "
            "got 8.7",
        ),
        (
            lambda m: m["artifacts"][0]["built_by"].update(tool=1),
            "'artifacts[0].built_by.tool' must be text",
        ),
        (
            lambda m: m["clip"].update(frames=0),
            "'clip.frames' must be a whole number in 1..1024; got 0",
        ),
        (
            lambda m: m["task"].update(kind="poem"),
            "'task.kind' must be one of classes, values, traits; got 'poem'",
        ),
        (
            lambda m: m["task"].update(low=float("nan")),
            "'task.low' must be a number in -1000000000..1000000000; got nan",
        ),
        (lambda m: m["artifacts"][0].update(name="fp32"), "artifacts[0]: its name must be"),
    ],
)
def test_an_error_names_the_place_and_what_is_expected_there(
    broken: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(broken, change)
    with pytest.raises(BundleError) as caught:
        Bundle.open(broken)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "\ufffe", "[" * 100_000])
def test_manifest_that_is_not_json(broken: Path, text: str) -> None:
    (broken / "manifest.json").write_text(text)
    with pytest.raises(BundleError):
        Bundle.open(broken)


def test_manifest_of_random_bytes(broken: Path) -> None:
    (broken / "manifest.json").write_bytes(os.urandom(100))
    with pytest.raises(BundleError):
        Bundle.open(broken)


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="svfap-edge export"):
        Bundle.open(tmp_path / "none")


def test_writing_appears_at_once_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "new"
    with writing(target) as scratch:
        (scratch / "manifest.json").write_text("{}")
        assert not target.exists()
    assert (target / "manifest.json").is_file()
    with pytest.raises(RuntimeError), writing(tmp_path / "bad") as scratch:
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep"]


def test_an_empty_folder_may_be_the_target(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", replace=False)
    with writing(tmp_path / "empty") as scratch:
        (scratch / "manifest.json").write_text("{}")
    assert (tmp_path / "empty" / "manifest.json").is_file()


def test_a_bundle_that_cannot_be_written_is_a_bundle_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"), writing(tmp_path / "file" / "b"):
        pass
    with pytest.raises(BundleError, match="cannot be written"), writing(tmp_path / "b") as folder:
        (folder / "x" / "y").write_text("")
    with pytest.raises(BundleError, match="No bundle"):
        Bundle.open(tmp_path / ("a" * 300))
