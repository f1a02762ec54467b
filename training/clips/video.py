"""Reading chosen frames of a video by their true times.

With PyAV the times come from the packets, without decoding, and decoding starts at the key frame
before the first chosen frame. Without PyAV, or for containers that carry no times, OpenCV decodes
the whole video twice: once for the times, once for the frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge.errors import SourceError, UnreadableClip
from svfap_edge.sources.files import DEFAULT_FPS, VideoFile

Choice = Callable[[np.ndarray], np.ndarray]
"""A function from the times (n,) of all frames, in seconds from the first, to T chosen indices."""

LEAST_SHARE = 0.98  # of the promised frames and time; with less a video counts as cut off


def read_video(path: Path, choose: Choice) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB of the frames that `choose` picks."""
    try:
        import av
    except ImportError:
        return _read_with_opencv(path, choose)
    try:
        found = _read_with_av(path, choose)
    except av.error.FFmpegError as error:
        raise UnreadableClip(str(path), f"damaged or not a video ({error})") from error
    return _read_with_opencv(path, choose) if found is None else found


def _read_with_av(path: Path, choose: Choice) -> np.ndarray | None:
    """The chosen frames; None if the packets carry no times."""
    import av

    with av.open(os.path.abspath(path), metadata_errors="ignore") as container:
        if not container.streams.video:
            raise UnreadableClip(str(path), "holds no video stream")
        stream = container.streams.video[0]
        packets = [
            (packet.pts, getattr(packet, "is_discard", False))
            for packet in container.demux(stream)
            if packet.size
        ]
        shown = [time for time, discard in packets if not discard]
        if None in shown:
            return None
        if not shown:
            raise UnreadableClip(str(path), "holds no frame")
        pts = np.unique(np.array(shown, np.int64))
        tick_s = float(stream.time_base or 0)
        times = (pts - pts[0]) * tick_s
        _refuse_cut(path, len(packets), stream.frames, times, (stream.duration or 0) * tick_s)
        wanted = pts[choose(times)]
        images = _decode(container, set(wanted.tolist()), int(wanted.min()))
    if len(images) < len(set(wanted.tolist())):  # frames that need an earlier key frame
        with av.open(os.path.abspath(path), metadata_errors="ignore") as container:
            images = _decode(container, set(wanted.tolist()), None)
    try:
        return np.stack([images[time] for time in wanted.tolist()])
    except KeyError as error:
        raise UnreadableClip(str(path), "a frame in it does not decode") from error


def _decode(container: Any, wanted: set[int], start: int | None) -> dict[int, np.ndarray]:
    """Wanted images by presentation time, decoded from the key frame before `start`.

    None for `start` decodes from the beginning.
    """
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # loaders run one process per core already
    if start is not None:
        container.seek(start, stream=stream, backward=True)
    images: dict[int, np.ndarray] = {}
    for frame in container.decode(stream):
        if frame.pts in wanted:
            image = frame.to_ndarray(format="rgb24")
            turns = round(getattr(frame, "rotation", 0) / 90)
            images[frame.pts] = np.ascontiguousarray(np.rot90(image, turns)) if turns else image
            if len(images) == len(wanted):
                break
    return images


def _read_with_opencv(path: Path, choose: Choice) -> np.ndarray:
    try:
        with VideoFile(path) as video:
            times = np.array([frame.timestamp_s for frame in video])
            promised = video.frames or 0
            _refuse_cut(path, len(times), promised, times, promised / (video.fps or DEFAULT_FPS))
        chosen = choose(times)
        images = {}
        with VideoFile(path) as video:
            for frame in video:
                if frame.index in chosen:
                    images[frame.index] = frame.image
                if frame.index >= max(chosen):
                    break
    except UnreadableClip:
        raise
    except SourceError as error:
        raise UnreadableClip(str(path), "damaged or not a video") from error
    return np.stack([images[index] for index in chosen.tolist()])


def _refuse_cut(
    path: Path, frames: int, promised: int, times: np.ndarray, promised_s: float
) -> None:
    """Raise UnreadableClip if both frames and time fall short of what the header promises.

    The header of an AVI may count empty frames, and a last frame may be shown for long, so neither
    alone is a sign of damage.
    """
    few = frames < LEAST_SHARE * promised - 2
    if few and times[-1] < LEAST_SHARE * promised_s - 0.1:
        raise UnreadableClip(str(path), f"cut off after {frames} of {promised} frames")
