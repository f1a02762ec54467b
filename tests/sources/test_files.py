"""Folders and images: order, times, and files that are not what they seem."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge import open_source
from svfap_edge.errors import SourceError
from svfap_edge.sources.files import read_image
from svfap_edge.sources.frames import Frame


def read(source: object) -> list[Frame]:
    with open_source(source) as opened:  # type: ignore[arg-type]
        return list(opened)


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
    frames = read("sample")
    assert len(frames) == 150
    assert frames[0].image.shape == (360, 640, 3)
    assert frames[0].image.dtype == np.uint8
    assert not np.array_equal(frames[0].image, frames[100].image)


def test_no_such_source() -> None:
    with pytest.raises(SourceError, match=r"No source 'nowhere\.mp4'"):
        open_source("nowhere.mp4")


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="not a readable image"):
        open_source(tmp_path / "x.png")
    with pytest.raises(SourceError, match="not a readable image"):
        read(tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        open_source(tmp_path)


def test_bad_frame_rate(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="positive"):
        open_source(tmp_path, fps=0)


def pictures(folder: Path, *names: str) -> Path:
    """A folder of small pictures, whose grey level counts them."""
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        good, data = cv2.imencode(".png", np.full((8, 8, 3), 10 * index, np.uint8))
        assert good
        (folder / name).write_bytes(data.tobytes())
    return folder


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    """As macOS and editors leave them beside the data."""
    folder = pictures(tmp_path / "f", "1.png", "2.png")
    for name in ("._1.png", "._2.png", ".trash.png"):
        (folder / name).write_bytes(b"\0\5\x16\7 Mac OS X")
    assert len(read(folder)) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("0.png", "0.04.png", "0.2.png", "0.12.png", "10.5.png", "9.75.png"),
        ("①1.png", "①2.png", "①10.png"),
        ("frame9.png", "frame10.png", "frame11.png"),
    ],
    ids=["decimal seconds", "a digit that is no number", "natural"],
)
def test_order_of_frames(tmp_path: Path, names: tuple[str, ...]) -> None:
    from svfap_edge.sources.files import folder_times

    decimal = all(name[0].isascii() and name[0].isdigit() for name in names)
    want = sorted(names, key=lambda name: float(name[:-4])) if decimal else list(names)
    assert list(folder_times(pictures(tmp_path / "f", *names))) == want


def test_gaps_in_the_numbers_are_said(tmp_path: Path) -> None:
    with open_source(pictures(tmp_path / "a", "f7.png", "f8.png", "f11.png", "f12.png")) as source:
        assert len(list(source)) == 4
        (warning,) = source.warnings
    assert "2 are missing, first after 8" in warning
    with open_source(pictures(tmp_path / "c", "2.png", "4.png", "6.png")) as source:
        assert "one of 2 frames" in source.warnings[0]
    for number, names in enumerate([("1.png", "2.png"), ("a.png", "d.png")]):
        with open_source(pictures(tmp_path / f"b{number}", *names)) as source:
            assert source.warnings == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize(("comma", "point"), [(",", "."), (";", ","), (";", ".")])
def test_timestamps_from_a_spreadsheet(
    tmp_path: Path, encoding: str, comma: str, point: str
) -> None:
    folder = pictures(tmp_path / "f", "gro\u00df.png", "klein.png")
    rows = [
        ("name", "time"),
        ("gro\u00df.png", f"0{point}5"),
        ("klein.png", f"2{point}25"),
        ("", ""),
    ]
    text = "\r\n".join(comma.join(row) for row in rows) + "\r\n"
    (folder / "timestamps.csv").write_bytes(text.encode(encoding))
    assert [frame.timestamp_s for frame in read(folder)] == [0, 1.75]


def test_a_picture_that_is_cut_off(tmp_path: Path) -> None:
    """OpenCV fills the missing part with grey; an embedded preview does not hide that."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    preview = b"\xff\xe1" + (len(data[:600]) + 4).to_bytes(2, "big") + data[:600] + b"\xff\xd9"
    whole, cut = data[:2] + preview + data[2:], (data[:2] + preview + data[2:])[:-400]
    (tmp_path / "whole.jpg").write_bytes(whole)
    (tmp_path / "cut.jpg").write_bytes(cut)
    assert len(read(tmp_path / "whole.jpg")) == 75
    with pytest.raises(SourceError, match="not a readable image"):
        open_source(tmp_path / "cut.jpg")


@pytest.mark.parametrize("name", ["me.heic", "me.avif", "me.jpg"])
def test_pictures_that_are_not_read_say_how_to_convert_them(tmp_path: Path, name: str) -> None:
    """Also under another name, as phones send them."""
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(SourceError, match=rf"magick {name} me\.png"):
        list(open_source(tmp_path))
    with pytest.raises(SourceError, match=rf"magick {name} me\.png"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_animated_pictures_are_refused(tmp_path: Path, suffix: str) -> None:
    """OpenCV would show the first picture. A GIF is a video."""
    image = pytest.importorskip("PIL.Image")
    pictures = [image.new("RGB", (16, 16), (40 * i, 0, 0)) for i in range(3)]
    for name in (f"a.{suffix}", "a.gif"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100)
    with pytest.raises(SourceError, match=rf"animated.*magick a\.{suffix} a\.gif"):
        open_source(tmp_path / f"a.{suffix}")
    assert [round(f.timestamp_s, 2) for f in read(tmp_path / "a.gif")] == [0, 0.1, 0.2]
    pictures[0].save(tmp_path / f"one.{suffix}")
    assert len(read(tmp_path / f"one.{suffix}")) == 75


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_pictures_of_sixteen_bits_have_their_real_range(
    tmp_path: Path, bits: int, suffix: str
) -> None:
    grey = np.tile(np.linspace(0, 1, 64), (8, 1))
    stored = np.round(grey * ((1 << bits) - 1)).astype(np.uint16)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(cv2.imencode(suffix, stored)[1].tobytes())
    assert np.abs(read_image(path) - 255 * grey[..., None]).max() <= 1


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """As a camera stores an image that is to be shown by an EXIF orientation, 1 to 8."""
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (0,), 7: (0, 1), 8: (1,)}
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(np.flip(image, flips.get(orientation, ())))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tiff", "png", "jpg"])
def test_pictures_are_turned_by_their_orientation(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    wanted = cv2.GaussianBlur(noise, (0, 0), 4)
    tag, data = 0x0112, image.Exif()
    data[tag] = orientation
    saving = {"tiffinfo": {tag: orientation}} if suffix == "tiff" else {"exif": data}
    path = tmp_path / f"x.{suffix}"
    image.fromarray(turned(wanted, orientation)).save(path, **saving)
    found = read_image(path)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < 2


def test_a_huge_picture_is_shrunk(tmp_path: Path) -> None:
    huge = np.full((300, 12_000, 3), 90, np.uint8)
    (tmp_path / "x.jpg").write_bytes(cv2.imencode(".jpg", huge)[1].tobytes())
    assert read_image(tmp_path / "x.jpg").shape == (102, 4096, 3)
