"""`run` does not write over what it reads, nor two results into one file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.test_commands import call, refused
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx
from tests.runner.test_several_sources import CLIP

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes symbolic links")


def write_film(path: Path) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for level in range(10):
        writer.write(np.full((48, 64, 3), 10 * level, np.uint8))
    writer.release()
    return path.read_bytes()


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video, a hard and a symbolic link to it, and a folder of images; all in the current one."""
    monkeypatch.chdir(tmp_path)
    write_film(Path("in.mp4"))
    os.link("in.mp4", "hard.mp4")
    Path("soft.mp4").symlink_to("in.mp4")
    Path("there").symlink_to(".")
    Path("frames").mkdir()
    for name in ("0.png", "1.jpg"):
        cv2.imwrite(f"frames/{name}", np.full((48, 64, 3), 99, np.uint8))
    Path("frames/timestamps.csv").write_text("0.png,0\n1.jpg,1\n")
    Path("link.png").symlink_to("frames/0.png")
    return tmp_path / "in.mp4"


@pytest.mark.parametrize("option", ["--video", "--jsonl", "--plot"])
@pytest.mark.parametrize(
    "output", ["in.mp4", "./there/in.mp4", "hard.mp4", "soft.mp4", "frames/../in.mp4"]
)
def test_a_source_is_not_overwritten(film: Path, option: str, output: str) -> None:
    before = film.read_bytes()
    said = refused(2, "run", "in.mp4", option, output)
    assert f"{option} '{Path(output)}' would overwrite the source 'in.mp4'" in said
    assert film.read_bytes() == before
    assert refused(2, "run", output, option, film).count("would overwrite") == 1


@pytest.mark.parametrize(
    "output",
    ["frames/0.png", "there/frames/1.jpg", "frames/new.png", "frames/timestamps.csv", "link.png"],
)
def test_the_images_of_a_folder_are_not_overwritten(film: Path, output: str) -> None:
    before = {path.name: path.read_bytes() for path in Path("frames").iterdir()}
    for option in ("--jsonl", "--plot"):
        assert "one of the images of" in refused(2, "run", "frames", option, output)
    assert {path.name: path.read_bytes() for path in Path("frames").iterdir()} == before


def test_of_several_sources_none_is_overwritten(film: Path) -> None:
    before = film.read_bytes()
    for sources in (["frames", "in.mp4"], ["a=in.mp4", "b=frames"], ["door=in.mp4"]):
        assert "would overwrite" in refused(2, "run", *sources, "--jsonl", "hard.mp4")
        assert refused(2, "run", *sources[:1], "frames", "--jsonl", "frames/0.png")
    assert film.read_bytes() == before


def test_two_results_do_not_share_a_file(film: Path) -> None:
    for one, other in (("--video", "--jsonl"), ("--video", "--plot"), ("--plot", "--jsonl")):
        said = refused(2, "run", "in.mp4", one, "out.mp4", other, "there/out.mp4")
        assert "would both write" in said and one in said and other in said
    assert not Path("out.mp4").exists()


def test_what_is_harmless_is_let_pass(film: Path) -> None:
    bundle = bundle_of_onnx(Path("b"), brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)
    options = ("--bundle", bundle.path, "--detector", "none")
    for _ in range(2):  # the second time, the file is there
        result = call("run", "frames", *options, "--jsonl", "frames/lines.jsonl")
        assert result.exit_code == 0, result.output
    outputs = ("--jsonl", "/dev/null", "--video", "out.mp4")
    assert call("run", "in.mp4", *options, *outputs).exit_code == 0
