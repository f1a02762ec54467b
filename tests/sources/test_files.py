"""Videos, folders and images: order, times, and files that are not what they seem."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge import open_source
from svfap_edge.errors import SourceError
from svfap_edge.sources.frames import Frame


def write_video(path: Path, times_ms: list[int], size: tuple[int, int] = (64, 48)) -> Path:
    """An H.264 or MPEG-4 video whose frames come at the given times; brightness counts frames."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index, time_ms in enumerate(times_ms):
            image = np.full((size[1], size[0], 3), 5 * index % 250, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def read(source: object) -> list[Frame]:
    with open_source(source) as opened:  # type: ignore[arg-type]
        return list(opened)


def test_variable_frame_rate_keeps_the_containers_times(tmp_path: Path) -> None:
    times = [0, 33, 66, 300, 310, 800, 801, 1200]
    frames = read(write_video(tmp_path / "vfr.mp4", times))
    assert [round(f.timestamp_s * 1000) for f in frames] == times
    assert [f.index for f in frames] == list(range(8))


def test_a_video_that_starts_late_starts_at_zero(tmp_path: Path) -> None:
    frames = read(write_video(tmp_path / "late.mkv", [5000, 5040, 5080]))
    assert [round(f.timestamp_s * 1000) for f in frames] == [0, 40, 80]


def test_real_video(videos: Path) -> None:
    with open_source(videos / "face_noface.mov") as source:
        assert source.frames == 169
        frames = list(source)
        assert source.warnings == []
    assert len(frames) == 169
    assert frames[0].image.shape == (540, 960, 3)
    times = np.array([f.timestamp_s for f in frames])
    assert (np.diff(times) > 0).all()
    # Its frame rate varies: index / fps would be wrong by up to a second.
    assert times[-1] == pytest.approx(6.36, abs=0.05)
    red, _, blue = frames[0].image.reshape(-1, 3).mean(0)
    assert red > blue  # a warm indoor picture: RGB, not BGR


def test_folder_of_images_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), np.full((4, 6, 3), number, np.uint8))
    frames = read(tmp_path)
    assert [int(f.image[0, 0, 0]) for f in frames] == [1, 2, 10]
    assert [f.timestamp_s for f in frames] == [0, 0.04, 0.08]
    with open_source(tmp_path, fps=10) as source:
        assert [f.timestamp_s for f in source] == [0, 0.1, 0.2]


def test_folder_with_timestamps(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((4, 4, 3), np.uint8))
    table = tmp_path / "timestamps.csv"
    table.write_text("name,timestamp_s\nb.png,10.5\nc.png,10.6\na.png,11.0\n")
    assert [round(f.timestamp_s, 6) for f in read(tmp_path)] == [0, 0.1, 0.5]
    table.write_text("b.png,1\nc.png,2\n")
    with pytest.raises(SourceError, match=r"no time for \['a\.png'\]"):
        open_source(tmp_path)
    table.write_text("a.png,1\nb.png,1\nc.png,2\n")
    with pytest.raises(SourceError, match="all different"):
        open_source(tmp_path)
    table.write_text("a.png,1\nb.png,x\nc.png,2\n")
    with pytest.raises(SourceError, match="line 2"):
        open_source(tmp_path)


def test_one_image_is_shown_for_a_while(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.full((4, 4), 9, np.uint8))
    frames = read(tmp_path / "x.png")
    assert len(frames) == 75
    assert frames[0].image.shape == (4, 4, 3)


def test_sample() -> None:
    pytest.importorskip("skimage")
    frames = read("sample")
    assert len(frames) == 150
    assert frames[0].image.shape == (360, 640, 3)
    assert frames[0].image.dtype == np.uint8
    assert not np.array_equal(frames[0].image, frames[100].image)


def test_no_such_source() -> None:
    with pytest.raises(SourceError, match=r"No source 'nowhere\.mp4'"):
        open_source("nowhere.mp4")


@pytest.mark.parametrize("content", [b"", b"this is no video", b"\0" * 5000])
def test_not_a_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(SourceError, match="not a video"):
        open_source(tmp_path / "x.mp4")


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="not a readable image"):
        open_source(tmp_path / "x.png")
    with pytest.raises(SourceError, match="not a readable image"):
        read(tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        open_source(tmp_path)


def test_a_cut_video_warns(videos: Path, tmp_path: Path) -> None:
    whole = (videos / "WolfgangLanger_Pexels.mp4").read_bytes()
    index_first = b"moov" in whole[:4096]
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    if not index_first:
        with pytest.raises(SourceError, match="not a video"):
            open_source(tmp_path / "cut.mp4")
        return
    with open_source(tmp_path / "cut.mp4") as source:
        count = sum(1 for _ in source)
        assert 0 < count < 472
        assert any("damaged" in warning for warning in source.warnings)


def test_bad_frame_rate(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="positive"):
        open_source(tmp_path, fps=0)
