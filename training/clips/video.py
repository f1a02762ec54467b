"""Reading chosen frames of a video by their true times.

Where the file is tidy, its index tells the times, and decoding starts at the key frame before the
first chosen frame. Where times are missing, out of order or jump, the whole file is decoded twice:
once for the times, once for the frames. Both give what `VideoFile` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np

from svfap_edge.errors import SourceError, UnreadableClip
from svfap_edge.sources.decoding import Decoder
from svfap_edge.sources.steady import GAP_S
from svfap_edge.sources.video import VideoFile

Choice = Callable[[np.ndarray], np.ndarray]
"""A function from the times (n,) of all frames, in seconds from the first, to T chosen indices."""


def read_video(path: Path, choose: Choice) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB of the frames that `choose` picks, in the size of the first of them.

    Raises:
        UnreadableClip: the file is no video, is cut off, or a chosen frame does not decode.
    """
    try:
        images = _read_by_index(path, choose) or _read_in_order(path, choose)
    except UnreadableClip:
        raise
    except SourceError as error:
        raise UnreadableClip(str(path), "damaged or not a video") from error
    height, width = images[0].shape[:2]
    return np.stack(
        [
            image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height))
            for image in images
        ]
    )


def _read_by_index(path: Path, choose: Choice) -> list[np.ndarray] | None:
    """The chosen frames; None where the index does not tell their times."""
    with closing(Decoder(path, threads=1)) as decoder:
        stored, seconds = decoder.index()
        if not stored:
            raise UnreadableClip(str(path), "holds no frame")
        order = np.argsort(seconds)
        steps_s = np.diff(seconds[order])
        if not (np.isfinite(seconds).all() and ((steps_s > 0) & (steps_s <= GAP_S)).all()):
            return None
        damage = decoder.damage(float(seconds.max()))
        if damage:
            raise UnreadableClip(str(path), damage)
        ticks = np.array(stored)[order]
        if not decoder.seek(int(ticks[0])):
            return None
        first, _ = next(decoder.pictures(), (None, None))  # a recording may begin amid a group
        if first is None:
            return None
        begin = int(np.searchsorted(ticks, first))
        ticks, times = ticks[begin:], seconds[order][begin:]
        chosen = choose(times - times[0])
        wanted = ticks[chosen].tolist()
        decoder.seek(int(ticks[max(0, int(min(chosen)) - 1)]))  # with the frame before, see bwdif
        images = _collect(decoder, set(wanted))
    return [images[tick] for tick in wanted] if len(images) == len(set(wanted)) else None


def _collect(decoder: Decoder, wanted: set[int]) -> dict[int, np.ndarray]:
    """Wanted images by their time in the container, as far as they come."""
    images: dict[int, np.ndarray] = {}
    for tick, frame in decoder.pictures():
        if tick in wanted:
            images[tick] = decoder.image(frame)
            if len(images) == len(wanted):
                break
    return images


def _read_in_order(path: Path, choose: Choice) -> list[np.ndarray]:
    """The chosen frames of a file that is decoded from its beginning."""
    with VideoFile(path, threads=1) as video:
        times = np.array([picture.timestamp_s for picture in video.pictures()])
    if video.damage:
        raise UnreadableClip(str(path), video.damage)
    chosen = choose(times).tolist()
    images = {}
    with VideoFile(path, threads=1) as video:
        for index, picture in enumerate(video.pictures()):
            if index in chosen:
                images[index] = picture.image()
            if index >= max(chosen):
                break
    return [images[index] for index in chosen]
