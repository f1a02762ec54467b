"""Recordings of every kind, written with PyAV where a test needs them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 25
MATRICES = {"bt709": "ITU709", "smpte170m": "ITU601", "bt2020nc": "BT2020"}
"""Names of colour matrices in FFmpeg's options and in PyAV."""


def write_video(
    path: Path, times_ms: Iterable[int], size: tuple[int, int] = (64, 48), **options: str
) -> Path:
    """An MPEG-4 video whose frames come at the given times; frame i has level 5 * i (mod 250)."""
    images = (np.full((size[1], size[0], 3), 5 * i % 250, np.uint8) for i in range(10**6))
    options = {"qmin": "1", "qmax": "1", **options}
    return write(path, images, "mpeg4", times_ms=times_ms, options=options)


def level(image: np.ndarray) -> int:
    """The number of a frame of `write_video`."""
    return round(float(image.mean()) / 5)


def write(
    path: Path,
    images: Iterable[np.ndarray],
    codec: str = "libx264",
    *,
    times_ms: Iterable[int] | None = None,
    fields: str = "prog",
    aspect: Fraction = Fraction(1),
    pixels: str = "yuv420p",
    matrix: str = "smpte170m",
    options: dict[str, str] | None = None,
) -> Path:
    """Write images, (H, W, 3) uint8 RGB, 25 a second or at given times.

    `fields` is "tff" or "bff" for interlaced frames, of which the top or the bottom field comes
    first; `aspect` is that of a pixel; `pixels` and `matrix` say how colours are stored.
    """
    graph: Any = None
    tick = Fraction(1, RATE) if times_ms is None else Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=RATE, options=options or {})
        for image, time in zip(images, times_ms or count()):  # noqa: B905
            if graph is None:
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pixels
                stream.codec_context.sample_aspect_ratio = aspect
                if times_ms is not None:
                    stream.time_base = stream.codec_context.time_base = tick
                graph = marking(stream, fields, tick)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=pixels, dst_colorspace=MATRICES[matrix]
            )
            frame.pts, frame.time_base = time, tick
            graph.push(frame)
            container.mux(stream.encode(graph.vpull()))
        container.mux(stream.encode(None))
    return path


def marking(stream: Any, fields: str, tick: Fraction) -> Any:
    """A filter that marks a stream's frames as interlaced or not, see `write`."""
    graph = av.filter.Graph()
    begin = graph.add_buffer(
        width=stream.width, height=stream.height, format=stream.pix_fmt, time_base=tick
    )
    graph.link_nodes(begin, graph.add("setfield", fields), graph.add("buffersink")).configure()
    return graph


def interlaced(images: Sequence[np.ndarray], bottom_first: bool = False) -> Iterator[np.ndarray]:
    """Each two images as one whose lines are from both, in turn."""
    for early, late in zip(images[::2], images[1::2], strict=True):
        frame = early.copy()
        frame[int(not bottom_first) :: 2] = late[int(not bottom_first) :: 2]
        yield frame


def turn(path: Path, target: Path, a: float, b: float, c: float, d: float) -> Path:
    """A copy of an MP4 with the display matrix [[a, b], [c, d]]."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    begin = header + (52 if data[header] == 1 else 40)
    numbers = [round(x * 65536) for x in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]
    data[begin : begin + 36] = struct.pack(">9i", *numbers)
    target.write_bytes(data)
    return target
