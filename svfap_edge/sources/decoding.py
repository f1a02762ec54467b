"""Decoding recorded videos with PyAV: the one set of rules by which every file is read.

Pictures are what a player shows: turned and mirrored by the display matrix, with square pixels, in
the colours that the file's matrix and range mean, deinterlaced where they are interlaced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from svfap_edge.errors import DependencyMissing, SourceError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import Graph

LEAST_SHARE = 0.98
"""Share of the frames and the time promised by a file's header; with less it counts as cut off."""

MOST_STRETCH = 10
"""Pixels that are said to be longer than this are taken for square."""


class Decoder:
    """An open video file.

    Attributes:
        offset_s: Time of the earliest stream of the file, in seconds; pictures count from there.
        promised: Number of pictures that the header promises, 0 where it says nothing.
        promised_end_s: Time of the end that the header promises, in seconds of the container, 0
            where it says nothing.
        packets: Number of pictures read so far, decoded or not.
        undecoded: Number of those that are damaged, after the first that could be decoded.
        broken_off: True where the last picture that was read is damaged.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Open a file with a number of threads; 0 takes as many as there are cores.

        Raises:
            SourceError: it cannot be opened, or holds no video.
            DependencyMissing: PyAV is not installed.
        """
        try:
            import av
            from av.video.reformatter import VideoReformatter
        except ImportError as error:
            raise DependencyMissing(
                f"Reading the video '{path}' needs PyAV: pip install av. Folders of images are "
                "read without it."
            ) from error
        self._error = av.error.FFmpegError
        try:
            # An absolute path is never taken for a protocol of FFmpeg's, as `12:30.mp4` would be;
            # nor does a playlist in a file lead to the network.
            self._container = av.open(
                os.path.abspath(path),
                metadata_errors="ignore",
                options={"protocol_whitelist": "file"},
            )
            self._stream = _shown_stream(self._container)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceError(f"'{path}' is damaged or not a video: {reason}.") from error
        if self._stream is None:
            self._container.close()
            raise SourceError(f"'{path}' is damaged or not a video: it holds no pictures.")
        self._stream.codec_context.thread_count = threads
        if threads != 1:
            self._stream.thread_type = "AUTO"
        self._tick = self._stream.time_base or Fraction(1, 1000)
        self._reformat = VideoReformatter().reformat
        if "threads" in (self._reformat.__doc__ or ""):  # newer PyAV: its threads only disturb
            self._reformat = partial(self._reformat, threads=1)
        self._stretch = float(self._stream.sample_aspect_ratio or 1)
        if not 1 / MOST_STRETCH <= self._stretch <= MOST_STRETCH:
            self._stretch = 1.0
        self.offset_s = (self._container.start_time or 0) / 1e6
        self.promised = int(self._stream.frames)
        self.promised_end_s = _promised_end_s(self._stream)
        self.packets = self.undecoded = 0
        self.broken_off = False

    def rate(self, timed: bool) -> float | None:
        """Nominal frames a second. A file without times has a rate of its codec alone."""
        rates = [self._stream.average_rate, self._stream.guessed_rate]
        for rate in rates if timed else rates[::-1]:
            if rate and 0 < rate < 1000:
                return float(rate)
        return None

    def index(self) -> tuple[list[int | None], np.ndarray]:
        """Times of all pictures that are shown, in the order in which they are stored, as the
        container has them and in seconds. Nothing is decoded, and the file is read to its end."""
        ticks: list[int | None] = []
        for packet in self._packets():
            if packet.size:
                self._note(packet.is_corrupt, bool(ticks))
                if not packet.is_discard and not packet.is_corrupt:
                    ticks.append(packet.pts)
        return ticks, np.array([np.nan if t is None else t * float(self._tick) for t in ticks])

    def seek(self, ticks: int) -> bool:
        """Go to the key picture before a time of the container; False where that is impossible."""
        try:
            self._container.seek(ticks, stream=self._stream, backward=True)
        except self._error:
            return False
        return True

    def pictures(self) -> Iterator[tuple[int | None, VideoFrame]]:
        """Decoded pictures in order of display, with their times in ticks of the container.

        It begins with the first picture that does not need one before it. What cannot be decoded is
        left out.
        """
        fields: _Deinterlacer | None = None
        for frame in self._decoded():
            if fields is None and not frame.interlaced_frame:
                yield frame.pts, frame
                continue
            fields = fields or _Deinterlacer(self._tick)
            yield from fields.push(frame)
        if fields is not None:
            yield from fields.finish()

    def seconds(self, ticks: int | None) -> float | None:
        """A time of the container in seconds."""
        return None if ticks is None else float(ticks * self._tick)

    def image(self, frame: VideoFrame) -> np.ndarray:
        """A decoded picture as a player shows it: (H, W, 3) uint8 RGB."""
        width, height = frame.width, frame.height
        if self._stretch > 1:
            width = round(width * self._stretch)
        else:
            height = round(height / self._stretch)
        shown = self._reformat(frame, width, height, "rgb24")
        return _oriented(shown.to_ndarray(), frame)

    def damage(self, last_s: float) -> str | None:
        """What is wrong with a file that was read to its end, and whose last picture has a time in
        seconds of the container; None where nothing is known to be.

        The header of an AVI may count empty frames, and a last frame may be shown for long, so a
        file is cut off where both, frames and time, are short.
        """
        few = self.packets < LEAST_SHARE * self.promised - 2
        short = last_s < LEAST_SHARE * self.promised_end_s - 0.5
        if few and (short or self.broken_off):
            return f"cut off after {self.packets} of {self.promised} frames"
        if self.broken_off or (short and not self.promised):
            return f"cut off after {last_s:.1f} s"
        if self.undecoded > (1 - LEAST_SHARE) * self.packets + 2:
            return f"{self.undecoded} of {self.packets} frames cannot be decoded"
        return None

    def close(self) -> None:
        self._container.close()

    def _packets(self) -> Iterator[Any]:
        """Stored pictures up to the end or to where the file is damaged, and an empty one."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._error:
                return
            if packet is None:
                return
            self.packets += packet.size > 0
            yield packet

    def _note(self, damaged: bool, begun: bool) -> None:
        self.broken_off = damaged and begun
        self.undecoded += self.broken_off

    def _decoded(self) -> Iterator[VideoFrame]:
        flushed, begun = False, None
        flagged = self._stream.codec_context.name == "h264"  # marks what it lacks frames for
        for packet in self._packets():
            flushed = not packet.size
            begun = packet.is_keyframe if begun is None else begun
            try:
                frames = None if packet.is_corrupt else packet.decode()
            except self._error:
                frames = None
            if packet.size:
                self._note(frames is None, begun)
            for frame in frames or ():
                begun = begun or frame.key_frame or (flagged and not frame.is_corrupt)
                if begun:
                    yield frame
        if not flushed:
            yield from self._stream.codec_context.decode(None)


def _shown_stream(container: Any) -> Any:
    """The video stream that players show: the one marked as default, else the first, but no cover
    picture; None if there is none."""
    from av.stream import Disposition

    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]
    default = (stream for stream in streams if stream.disposition & Disposition.default)
    return next(default, streams[0] if streams else None)


def _promised_end_s(stream: Any) -> float:
    if stream.duration:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    try:  # Matroska keeps it in a tag: "00:01:02.5"
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _oriented(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The picture turned and mirrored by the display matrix of its frame, at right angles.

    The matrix [[a, b, u], [c, d, v], [x, y, w]] takes (x, y) to (a x + c y, b x + d y); see ISO/IEC
    14496-12, 6.2.2.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, flip_x, flip_y = cv2.transpose(image), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    if flip_x or flip_y:
        image = cv2.flip(image, -1 if flip_x and flip_y else int(flip_x))
    return image


class _Deinterlacer:
    """FFmpeg's `bwdif`: a picture for each frame, at the time of its first field. It looks at the
    frame before and the one after, so each picture comes one frame late."""

    def __init__(self, tick: Fraction) -> None:
        self._tick = tick
        self._graph: Graph | None = None
        self._shape: tuple[Any, ...] = ()

    def push(self, frame: VideoFrame) -> Iterator[tuple[int | None, VideoFrame]]:
        shape = (frame.width, frame.height, frame.format.name)
        if shape != self._shape:
            yield from self.finish()
            self._shape, self._graph = shape, self._build(frame)
        assert self._graph is not None
        self._graph.push(frame)
        yield from self._ready()

    def finish(self) -> Iterator[tuple[int | None, VideoFrame]]:
        """What is left at the end."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
            self._graph = None

    def _build(self, frame: VideoFrame) -> Graph:
        from av.filter import Graph

        graph = Graph()
        graph.link_nodes(
            graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=self._tick
            ),
            graph.add("bwdif", "mode=send_frame:deint=interlaced"),
            graph.add("buffersink"),
        ).configure()
        return graph

    def _ready(self) -> Iterator[tuple[int | None, VideoFrame]]:
        from av.error import BlockingIOError, EOFError

        assert self._graph is not None
        while True:
            try:
                frame: Any = self._graph.vpull()
            except (BlockingIOError, EOFError):
                return
            pts = frame.pts
            yield None if pts is None else round(pts * frame.time_base / self._tick), frame
