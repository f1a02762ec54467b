"""JPEG pictures from strangers: their size is read before anything is decoded."""

from __future__ import annotations

import cv2
import numpy as np

from svfap_edge.errors import FrameError

MAX_PIXELS = 2560 * 1600
"""Pixels of the largest picture that is decoded: 12 MB of memory."""

_SIZE_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start of frame, of any coding
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height that the header of a JPEG states; FrameError if it has none."""
    if data[:2] != b"\xff\xd8":
        raise FrameError("The frame is no JPEG. Send each frame as one JPEG picture.")
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # padding, or nothing that has a length
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _SIZE_MARKERS:
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            if at + 9 > len(data) or not width or not height:
                break
            return width, height
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    raise FrameError("The JPEG is damaged: its header states no size. Send the frame again.")


def decode_jpeg(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB.

    Raises:
        FrameError: it is no JPEG, is damaged, or has more than `max_pixels`; that is known before
            memory is taken for it.
    """
    width, height = jpeg_size(data)
    if width * height > max_pixels:
        raise FrameError(
            f"The picture has {width}x{height} pixels; at most {max_pixels} are taken. Send "
            "smaller ones: faces are looked for in 320 pixels."
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise FrameError("The JPEG is damaged and cannot be decoded. Send the frame again.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def encode_jpeg(image: np.ndarray, quality: int = 80) -> bytes:
    """A picture (H, W, 3) uint8 RGB as JPEG."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return data.tobytes()
