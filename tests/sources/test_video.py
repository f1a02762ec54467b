"""Video files: what a picture is, its time, and files that are not what they seem."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from svfap_edge import open_source
from svfap_edge.errors import SourceError, UnreadableClip
from svfap_edge.sources.frames import Frame
from svfap_edge.sources.video import VideoFile
from svfap_edge.training.clips.video import read_video

from ..recordings import interlaced, level, turn, write, write_video

FAST = {"preset": "ultrafast", "qp": "4"}
FIELDS = {"flags": "+ildct+ilme"}


def read(source: object) -> list[Frame]:
    with open_source(source) as opened:  # type: ignore[arg-type]
        return list(opened)


def every(path: Path) -> np.ndarray:
    """All frames, as training reads them."""
    return read_video(path, lambda times: np.arange(len(times)))


def scene(count: int = 12, width: int = 160, height: int = 96) -> list[np.ndarray]:
    """A picture without symmetry, in colours, that moves a little; soft, so that scaling it and
    taking every second line of it loses little."""
    picture = np.zeros((height + 40, width + 40, 3), np.uint8)
    picture[:] = (60, 90, 120)
    cv2.circle(picture, (60, 50), 24, (220, 60, 40), -1)
    cv2.rectangle(picture, (100, 60), (150, 110), (40, 200, 90), -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 5)
    return [picture[20 : 20 + height, 10 + i : 10 + i + width].copy() for i in range(count)]


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean absolute difference of two pictures of one size."""
    assert found.shape == wanted.shape
    return float(np.abs(found.astype(int) - wanted).mean())


TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "as it is": ((1, 0, 0, 1), lambda image: image),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down and mirrored": ((1, 0, 0, -1), lambda image: image[::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
    "a quarter to the right": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "a quarter to the left": ((0, -1, 1, 0), lambda image: np.rot90(image)),
    "over the diagonal": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "over the other diagonal": (
        (0, -1, -1, 0),
        lambda image: np.rot90(image, 2).transpose(1, 0, 2),
    ),
}
"""Display matrices, and what players make of them (tried with ffmpeg)."""


@pytest.mark.parametrize("name", TURNS)
def test_pictures_are_turned_and_mirrored_as_players_do(tmp_path: Path, name: str) -> None:
    matrix, shown = TURNS[name]
    plain = write(tmp_path / "plain.mp4", scene(), options=FAST)
    turned = turn(plain, tmp_path / "turned.mp4", *matrix)
    wanted = np.stack([shown(frame.image) for frame in read(plain)])
    assert np.array_equal([frame.image for frame in read(turned)], wanted)
    assert np.array_equal(every(turned), wanted)


@pytest.mark.parametrize(
    ("name", "codec", "first", "options"),
    [
        ("dvd.mpg", "mpeg2video", "tff", {**FIELDS, "qmin": "1", "qmax": "2"}),
        ("dv.avi", "dvvideo", "bff", {}),
        ("camcorder.mp4", "libx264", "tff", {**FAST, **FIELDS, "x264opts": "tff=1"}),
    ],
)
def test_interlaced_video(
    tmp_path: Path, name: str, codec: str, first: str, options: dict[str, str]
) -> None:
    """Each frame is the picture at the time of its first field, without combs."""
    images = scene(24, 720, 576)
    path = write(
        tmp_path / name, interlaced(images, first == "bff"), codec, fields=first, options=options
    )
    frames = read(path)
    assert [round(f.timestamp_s, 3) for f in frames] == [round(0.04 * i, 3) for i in range(12)]
    for frame, wanted in zip(frames, images[::2], strict=True):
        shown = cv2.resize(frame.image, (720, 576))  # the pixels of DV are not square
        assert difference(shown, wanted) < 3
    assert np.array_equal(every(path), [frame.image for frame in frames])
    assert np.array_equal(read_video(path, lambda times: np.array([7])), [frames[7].image])


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(4, 3), Fraction(1, 2)])
def test_pixels_that_are_not_square(tmp_path: Path, aspect: Fraction) -> None:
    images = scene(5)
    scale = (1 / float(aspect), 1.0) if aspect > 1 else (1.0, float(aspect))
    stored = [cv2.resize(i, None, fx=scale[0], fy=scale[1]) for i in images]
    path = write(tmp_path / "a.mp4", stored, aspect=aspect, options=FAST)
    frames = read(path)
    for frame, wanted in zip(frames, images, strict=True):
        assert difference(frame.image, wanted) < 4
    assert np.array_equal(every(path), [frame.image for frame in frames])


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuvj420p"])
def test_colours_are_those_of_the_files_matrix_and_range(
    tmp_path: Path, matrix: str, pixels: str
) -> None:
    images = scene(3)
    path = write(
        tmp_path / "c.mp4", images, options={**FAST, "colorspace": matrix}, pixels=pixels,
        matrix=matrix,
    )  # fmt: skip
    for frame, wanted in zip(read(path), images, strict=True):
        assert difference(frame.image, wanted) < 4


def test_a_picture_size_that_changes(tmp_path: Path) -> None:
    """Each frame keeps its shape; a clip takes that of its first frame."""
    parts = [
        write(
            tmp_path / f"{i}.ts", scene(10, *size), options=FAST, times_ms=range(400 * i, 10**4, 40)
        )
        for i, size in enumerate([(160, 96), (96, 160)])
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read(path)
    shapes = [frame.image.shape[:2] for frame in frames]
    assert shapes == sorted(shapes)
    assert set(shapes) == {(96, 160), (160, 96)}
    assert np.diff([f.timestamp_s for f in frames]) == pytest.approx(0.04, abs=0.041)
    assert every(path).shape == (len(frames), 96, 160, 3)


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


@pytest.mark.parametrize("content", [b"", b"this is no video", b"\0" * 5000])
def test_not_a_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(SourceError, match="not a video"):
        open_source(tmp_path / "x.mp4")


@pytest.mark.parametrize(
    "name", ["2024-05-01T12:30:05.mp4", "file:x.mp4", "concat:a.mp4", "%03d.mp4"]
)
def test_names_that_look_like_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file is opened as that file, also by a relative path; and written so."""
    write_video(tmp_path / "plain.mp4", [0, 40, 80])
    (tmp_path / "plain.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read(name)) == 3
    assert len(read_video(Path(name), lambda times: np.arange(len(times)))) == 3


def test_a_picture_that_starts_after_the_sound_says_so(tmp_path: Path) -> None:
    write_video(tmp_path / "late.mkv", range(5000, 6000, 40))
    assert VideoFile(tmp_path / "late.mkv").start_s == pytest.approx(0)  # nothing is before it
    with (
        av.open(str(tmp_path / "sound.mkv"), "w") as container,
        av.open(str(tmp_path / "late.mkv")) as late,
    ):
        picture = container.add_stream_from_template(late.streams.video[0])
        sound = container.add_stream("flac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), layout="mono")
        silence.rate, silence.pts = 8000, 0
        container.mux(sound.encode(silence) + sound.encode(None))
        for packet in late.demux(video=0):
            if packet.size:
                packet.stream = picture
                container.mux(packet)
    with open_source(tmp_path / "sound.mkv") as source:
        assert source.start_s == pytest.approx(5.0, abs=0.001)
        assert next(iter(source)).timestamp_s == 0


def test_the_default_stream_is_shown(tmp_path: Path) -> None:
    """As where a camera writes a preview, or a player's cover picture, before the film."""
    with av.open(str(tmp_path / "both.mkv"), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 32 * (1 + number), 48, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number else 0
        for stream in streams:
            for _ in range(3):
                image = np.zeros((stream.height, stream.width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    assert [frame.image.shape for frame in read(tmp_path / "both.mkv")] == [(48, 64, 3)] * 3
    assert every(tmp_path / "both.mkv").shape == (3, 48, 64, 3)


def remux(path: Path, target: Path, times: Callable[[int, int], int]) -> Path:
    """A copy whose packets have other times: a function of their number and time."""
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.pts = times(number, packet.pts)
                packet.stream = stream
                container.mux(packet)
    return target


@pytest.mark.parametrize("name", ["j.mp4", "j.mkv"])
def test_a_wrong_time_is_repaired_and_said(tmp_path: Path, name: str) -> None:
    plain = write_video(tmp_path / "plain.mp4", range(0, 1200, 40))
    hour = round(3600 / float(av.open(str(plain)).streams.video[0].time_base))
    path = remux(plain, tmp_path / name, lambda i, t: t + hour if i in (20, 21) else t)
    with open_source(path) as source:
        times = [frame.timestamp_s for frame in source]
        assert times == pytest.approx([0.04 * i for i in range(30)], abs=0.001)
        (warning,) = source.warnings
        assert "wrong time" in warning
    assert [level(image) for image in every(path)] == list(range(30))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.webm", "a.ts"])
def test_a_file_that_is_cut_off(tmp_path: Path, name: str) -> None:
    """`run` reads what is there and warns; training does not take it. A recording that was only
    stopped early is neither."""
    codec = "libvpx" if name == "a.webm" else "libx264"
    options = {**FAST, "movflags": "faststart"} if codec == "libx264" else {"deadline": "realtime"}
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 96, 3), dtype=np.uint8)
    with av.open(str(tmp_path / name), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with open_source(tmp_path / name) as source:
        assert len(list(source)) == 60
        assert source.warnings == []
    content = (tmp_path / name).read_bytes()
    cut = tmp_path / f"cut{name}"
    cut.write_bytes(content[: len(content) * 6 // 10])
    with open_source(cut) as source:
        assert 20 < len(list(source)) < 40
        damaged = any("damaged" in warning for warning in source.warnings)
    if name != "a.ts":  # which does not say how long it is
        assert damaged
        with pytest.raises(UnreadableClip, match="cut"):
            every(cut)


def test_a_recording_that_begins_amid_a_group(tmp_path: Path) -> None:
    """It begins with the first picture that needs none before it, and nothing is damaged."""
    options = {**FAST, "g": "12", "bf": "2"}
    whole = write(tmp_path / "w.ts", scene(60), options=options)
    content = whole.read_bytes()
    (tmp_path / "t.ts").write_bytes(content[len(content) // 3 // 188 * 188 :])
    with open_source(tmp_path / "t.ts") as source:
        frames = list(source)
        assert source.warnings == []
    assert 24 <= len(frames) <= 48
    assert len(frames) % 12 == 0
    assert [f.timestamp_s for f in frames] == pytest.approx([0.04 * i for i in range(len(frames))])
    assert np.array_equal(every(tmp_path / "t.ts"), [frame.image for frame in frames])
    last = [frame.image for frame in read(whole)[-len(frames) :]]
    assert np.array_equal([frame.image for frame in frames], last)


def test_a_bare_stream_has_the_rate_of_its_codec(tmp_path: Path) -> None:
    path = write(tmp_path / "bare.h264", scene(20), options=FAST)
    assert [f.timestamp_s for f in read(path)] == pytest.approx([0.04 * i for i in range(20)])
    assert len(every(path)) == 20


def test_a_playlist_in_a_file_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(SourceError, match="not a video"):
        open_source(tmp_path / "v.mp4")
