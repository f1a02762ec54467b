"""What is a video and what a picture, by name alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from svfap_edge.media import is_image, is_media, is_video


@pytest.mark.parametrize(
    ("name", "image", "video"),
    [
        ("face.jpg", True, False),
        ("faces/HAPPY.JPEG", True, False),
        ("scan .tif", True, False),
        ("clip.mp4", False, True),
        ("My.Holiday.MKV", False, True),
        ("labels.csv", False, False),
        ("clip.mp4.txt", False, False),
        ("frames", False, False),
        ("", False, False),
        ("photo.jfif", True, False),
        ("00001.MTS", False, True),
        ("phone.3gp", False, True),
        ("._face.jpg", False, False),
        ("faces/.hidden.mp4", False, False),
        ("photo.heic", False, False),
    ],
)
def test_names(name: str, image: bool, video: bool) -> None:
    for path in (name, Path(name)):
        assert (is_image(path), is_video(path), is_media(path)) == (image, video, image or video)
