"""Pictures from strangers."""

from __future__ import annotations

import numpy as np
import pytest

from svfap_edge.errors import FrameError
from svfap_edge.serve.jpeg import decode_jpeg, encode_jpeg, jpeg_size


def picture(width: int = 48, height: int = 32) -> bytes:
    return encode_jpeg(np.full((height, width, 3), (200, 40, 40), np.uint8))


def claiming(width: int, height: int) -> bytes:
    """A JPEG whose header states another size than it has."""
    data = bytearray(picture())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def test_the_size_is_read_and_colours_are_rgb() -> None:
    assert jpeg_size(picture()) == (48, 32)
    image = decode_jpeg(picture())
    assert image.shape == (32, 48, 3)
    assert np.abs(image.mean((0, 1)) - (200, 40, 40)).max() < 6


def test_padding_before_a_marker_is_skipped() -> None:
    data = picture()
    assert jpeg_size(data[:2] + b"\xff\xff" + data[2:]) == (48, 32)


def test_a_bomb_is_refused_by_its_header() -> None:
    for width, height in ((65535, 65535), (65535, 100), (2561, 1600)):
        with pytest.raises(FrameError, match=f"{width}x{height} pixels"):
            decode_jpeg(claiming(width, height))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n" + bytes(99),
        b"\xff\xd8" + b"\xff" * 5000, b"\xff\xd8" + b"\xff\xe0\x00\x00" * 500, bytes(5000),
        b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x00\x00\x00" + bytes(20), claiming(0, 8),
        b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x20\x00\x30",
    ],
)  # fmt: skip
def test_what_is_no_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_jpeg(data)


def test_noise_and_cuts_are_pictures_or_refused() -> None:
    random, whole = np.random.default_rng(1), picture(64, 64)
    for _ in range(300):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for at in random.integers(0, len(data), 5):
            data[at] = random.integers(0, 256)
        try:
            assert decode_jpeg(bytes(data)).ndim == 3
        except FrameError:
            continue
