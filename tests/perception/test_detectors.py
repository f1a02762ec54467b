"""Detectors and the crop."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge.errors import ConfigError, DependencyMissing, SourceError, SvfapError
from svfap_edge.perception.detectors import (
    Box,
    Detector,
    HaarDetector,
    WholeFrame,
    YuNetDetector,
    crop_face,
    open_detector,
)
from svfap_edge.sources.opening import open_source
from svfap_edge.sources.sample import read_portrait


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return read_portrait()


@pytest.fixture(params=["haar", "yunet"])
def detector(request: pytest.FixtureRequest) -> Detector:
    if request.param == "haar":
        return HaarDetector()
    return YuNetDetector(request.getfixturevalue("yunet"))


def test_finds_the_astronauts_face(detector: Detector, portrait: np.ndarray) -> None:
    faces = detector.detect(portrait)
    assert faces
    x, y = faces[0].center
    assert 190 < x < 260
    assert 70 < y < 160
    assert 60 < faces[0].side < 150
    assert 0 <= faces[0].score <= 1


def test_boxes_are_in_pixels_of_the_full_frame(detector: Detector, portrait: np.ndarray) -> None:
    small = detector.detect(portrait)[0]
    expected = Box(*(3 * v for v in (small.x, small.y, small.width, small.height)))
    found = detector.detect(cv2.resize(portrait, None, fx=3, fy=3))  # Haar takes a badge for one
    assert max(box.iou(expected) for box in found) > 0.7


def test_nothing_in_an_empty_frame(detector: Detector) -> None:
    assert detector.detect(np.full((360, 640, 3), 90, np.uint8)) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (17, 9)])
def test_odd_frames_do_not_crash(detector: Detector, size: tuple[int, int]) -> None:
    detector.detect(np.zeros((*size, 3), np.uint8))


def test_video_detection_rate(detector: Detector, videos: Path) -> None:
    """Every frame of the first 2.6 s has a face, none after 2.9 s has."""
    for frame in list(open_source(videos / "face_noface.mov"))[::10]:
        found = bool(detector.detect(frame.image))
        if frame.timestamp_s < 2.3:
            assert found, frame.timestamp_s
        if frame.timestamp_s > 2.9:
            assert not found, frame.timestamp_s


def test_choices(yunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_detector("none").name == "none"
    assert open_detector("auto").name == "haar"
    assert open_detector("auto", yunet).name == "yunet"
    monkeypatch.setenv("SVFAP_EDGE_FACE_MODEL", str(yunet))
    assert open_detector("auto").name == "yunet"
    assert open_detector("haar").name == "haar"


def test_bad_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SvfapError, match="auto, yunet, haar, none"):
        open_detector("psychic")
    with pytest.raises(SourceError, match="--face-model"):
        open_detector("yunet")
    with pytest.raises(SourceError, match="No face model at"):
        open_detector("yunet", tmp_path / "none.onnx")
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(SourceError, match="not a YuNet face model"):
        open_detector("yunet", tmp_path / "x.onnx")
    monkeypatch.setattr(cv2.data, "haarcascades", "/nowhere/")
    with pytest.raises(DependencyMissing, match="no Haar cascades"):
        open_detector("haar")


def test_crop_is_square_and_centered() -> None:
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[40:60, 90:110] = 255
    crop = crop_face(frame, Box(90, 40, 20, 20), 0.0)
    assert crop.shape == (20, 20, 3)
    assert (crop == 255).all()
    wide = crop_face(frame, Box(90, 40, 20, 20), 1.0)
    assert wide.shape == (40, 40, 3)
    assert (wide[10:30, 10:30] == 255).all()
    assert wide.mean() == pytest.approx(255 / 4)
    assert crop_face(frame, Box(90, 30, 20, 40), 0.0).shape == (40, 40, 3)  # the longer side
    assert crop_face(frame, Box(90, 40, 20, 20), 0.0, 7).shape == (7, 7, 3)


@pytest.mark.parametrize(
    "box", [Box(-30, -30, 60, 60), Box(190, 90, 40, 40), Box(-500, 0, 10, 10), Box(0, 900, 5, 5)]
)
def test_crop_beyond_the_frame_repeats_its_border(box: Box) -> None:
    frame = np.full((100, 200, 3), 77, np.uint8)
    crop = crop_face(frame, box, 0.2, 16)
    assert crop.shape == (16, 16, 3)
    assert (crop == 77).all()


def test_whole_frame_detector_covers_the_frame() -> None:
    (box,) = WholeFrame().detect(np.zeros((100, 200, 3), np.uint8))
    assert (box.x, box.y, box.width, box.height) == (0, 0, 200, 100)


def test_small_faces_in_a_large_frame(yunet: Path, faces: Path) -> None:
    """Five people of 60 to 120 pixels in 3840: found at the size "auto", not at the default."""
    near = open_detector("yunet", yunet)
    found = []
    for path in sorted((faces / "val" / "happiness").iterdir()):
        image = cv2.copyMakeBorder(cv2.imread(str(path)), 20, 20, 20, 20, cv2.BORDER_REPLICATE)
        boxes = near.detect(image[..., ::-1].copy())
        found += [(image, boxes[0].width)] if len(boxes) == 1 else []
        if len(found) == 5:
            break
    frame = np.full((2160, 3840, 3), 110, np.uint8)
    for place, ((image, width), wanted) in enumerate(
        zip(found, (60, 75, 90, 105, 120), strict=True)
    ):
        share = wanted / width
        small = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        x = 500 + 600 * place
        frame[900 : 900 + small.shape[0], x : x + small.shape[1]] = small[..., ::-1]
    assert near.detect(frame) == []
    places = sorted(box.center[0] for box in open_detector("yunet", yunet, "auto").detect(frame))
    assert [round((x - 500) // 600) for x in places] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [0, 63, -320, "large", "32.5", None])
def test_a_bad_detection_size(size: object) -> None:
    with pytest.raises(ConfigError, match=r"detect_size must be auto, or 64 pixels or more; got"):
        open_detector("haar", detect_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(65000, 1), (1, 65000), (100, 100)])
@pytest.mark.parametrize("side", [65000, 20000, 2000])
def test_a_crop_is_bounded_whatever_the_box(shape: tuple[int, int], side: int) -> None:
    frame = np.full((*shape, 3), 90, np.uint8)
    crop = crop_face(frame, Box(-10, -10, side, side), 0.2)
    assert crop.nbytes <= 3 * 1024 * 1024 and crop.shape[0] == crop.shape[1]
    assert (crop == 90).all()


def test_a_large_crop_beyond_the_frame_shows_the_same_as_a_small_one() -> None:
    frame = np.zeros((3000, 3000, 3), np.uint8)
    frame[:, 1500:] = 200
    crop = crop_face(frame, Box(500, 500, 3000, 3000), 0.0, 64)
    assert (crop[:, :20] == 0).all() and (crop[:, 24:] == 200).all()
    crop = crop_face(frame, Box(-500, -500, 3000, 3000), 0.0, 64)
    assert (crop[:, :41] == 0).all() and (crop[:, 44:] == 200).all()
