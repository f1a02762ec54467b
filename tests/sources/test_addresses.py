"""What the text that names a source stands for, and what a source is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from svfap_edge import open_source
from svfap_edge.errors import SourceError, SvfapError
from svfap_edge.sources.addresses import Target, find_target, name_sources, split_name


@pytest.mark.parametrize(
    ("text", "kind", "address", "name"),
    [
        ("0", "camera", "0", "camera:0"),
        ("camera:2", "camera", "2", "camera:2"),
        ("/dev/video1", "camera", "1", "camera:1"),
        ("rtsp://10.0.0.7/stream1", "url", None, "rtsp://10.0.0.7/stream1"),
        ("rtsp://me:secret@cam:554/1?x=2", "url", None, "rtsp://***@cam:554/1?x=***"),
        ("http://me:p@ss@cam/1", "url", None, "http://***@cam/1"),
        ("rtsp://me:se[cret@cam/1", "url", None, "rtsp://***@cam/1"),
        ("rtspsrc location=rtsp://a:b@c/1 ! decodebin ! appsink", "gstreamer", None,
         "rtspsrc location=rtsp://***@c/1 ! decodebin ! appsink"),
    ],
)  # fmt: skip
def test_what_a_text_names(text: str, kind: str, address: str | None, name: str) -> None:
    assert find_target(text) == Target(kind, address or text, name)  # type: ignore[arg-type]


def test_what_names_no_camera(tmp_path: Path) -> None:
    assert find_target("video.mp4") is None
    assert find_target("-1") is None
    with pytest.raises(SourceError, match="pass its path"):
        open_source("file:///x.mp4")
    with pytest.raises(SourceError, match="appsink"):
        open_source("videotestsrc ! autovideosink")
    with pytest.raises(SourceError, match="0 or more"):
        open_source(-1)
    with pytest.raises(SourceError, match="Cannot read frames from float"):
        open_source(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("door=0", "door", "0"),
        ("cam_1.left-2=a video.mp4", "cam_1.left-2", "a video.mp4"),
        ("desk=rtsp://me:pw@10.0.0.7/1?token=x==", "desk", "rtsp://me:pw@10.0.0.7/1?token=x=="),
        ("rtsp://10.0.0.7/1?token=x", None, None),
        ("http://cam/video?a=1&b=2", None, None),
        ("v4l2src device=/dev/video0 ! videoconvert ! appsink", None, None),
        ("left=v4l2src device=x ! appsink", "left", "v4l2src device=x ! appsink"),
        ("/data/take=2.mp4", None, None),
        ("./take=2.mp4", None, None),
        ("door=", None, None),
        ("=0", None, None),
    ],
)  # fmt: skip
def test_name_and_source(text: str, name: str | None, source: str | None) -> None:
    assert split_name(text) == (name, source or text)


def test_a_file_with_an_equals_sign_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_name("take=2.mp4") == ("take", "2.mp4")
    Path("take=2.mp4").touch()
    assert split_name("take=2.mp4") == (None, "take=2.mp4")
    assert split_name("a=take=2.mp4") == ("a", "take=2.mp4")


def test_names_of_those_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my frames").mkdir()
    Path("v.2.mp4").touch()
    texts = [
        "0", "/dev/video1", "v.2.mp4", "v.2.mp4", "my frames", "rtsp://me:secret@cam:554/1",
        "videotestsrc ! appsink", "videotestsrc ! no sink", "sample", "camera-0=7",
    ]  # fmt: skip
    assert list(name_sources(texts)) == [
        "camera-0-2", "camera-1", "v.2", "v.2-2", "my-frames", "cam", "pipeline",
        "videotestsrc-no-sink", "sample", "camera-0",
    ]  # fmt: skip
    assert name_sources(texts)["camera-0"] == "7"
    with pytest.raises(SvfapError, match="Two cameras are named 'a'"):
        name_sources(["a=0", "b=1", "a=2"])


@pytest.mark.parametrize(
    "address",
    ["concat:///etc/passwd", "cache:///etc/passwd", "ASYNC:///etc/passwd", "subfile:///x",
     "crypto://x", "data://x", "ftp://x/y", "rtmp://x/y", "unix:///tmp/x", "pipe://0"],
)  # fmt: skip
def test_other_protocols_than_those_of_cameras_are_refused(address: str) -> None:
    with pytest.raises(SourceError, match="is no address of a camera"):
        find_target(address)


@pytest.mark.parametrize("address", ["rtsp://h/\udcff", "http://h/a\0b", "a\udcff ! appsink"])
def test_an_address_that_opencv_cannot_take_is_refused(address: str) -> None:
    with pytest.raises(SourceError, match="Percent-encode"):
        find_target(address)
