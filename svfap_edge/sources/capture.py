"""Opening cameras, URLs and GStreamer pipelines with OpenCV, and reading from them."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from svfap_edge.errors import DependencyMissing, SourceError

from .addresses import Target

TCP_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
"""Port by protocol, for a URL that names none, as IANA assigns them."""


PROOF_S = 3.0
"""Seconds in which a network camera's picture has to change once, where OpenCV is in doubt."""

_CONVERTS_NO_FIELDS = tuple(int(n) for n in cv2.__version__.split(".")[:2]) >= (4, 13)
"""OpenCV 4.13 and 4.14 hand on memory that nobody wrote instead of interlaced frames (tried)."""


class Capture(Protocol):
    """An open camera. One thread uses it, and is left behind if `read` never returns.

    Attributes:
        fps: Nominal frames a second, or None where unknown.
    """

    fps: float | None

    def read(self) -> tuple[np.ndarray, float] | None:
        """Wait for the next frame and return it.

        Returns:
            An image, (H, W, 3) uint8 RGB, that is never written to again, and the time at which it
            was grabbed, in seconds of `time.monotonic`; None if the frame was damaged or none came.

        Raises:
            Exception: the camera is gone.
        """
        ...

    def close(self) -> None:
        """Free the camera."""
        ...


def built_with(library: str) -> bool:
    """Whether the installed OpenCV was built with a library: "FFMPEG" or "GStreamer"."""
    found = re.search(rf"^\s*{library}:\s+YES\b", cv2.getBuildInformation(), re.MULTILINE)
    return found is not None


def check_available(target: Target) -> None:
    """Raise DependencyMissing if OpenCV was built without what this kind of source needs."""
    needs, way_out = _LIBRARIES.get(target.kind, ("", ""))
    if needs and not built_with(needs):
        raise DependencyMissing(
            f"'{target.name}' needs {needs}, and this OpenCV ({cv2.__version__}) was built without "
            f"it. {way_out}"
        )


_LIBRARIES = {
    "url": (
        "FFMPEG",
        "Install opencv-python from PyPI, which has FFmpeg, or use a GStreamer pipeline if this "
        "OpenCV has GStreamer.",
    ),
    "gstreamer": (
        "GStreamer",
        "The wheels on PyPI have none. Use the OpenCV of your system (JetPack, Debian: "
        "python3-opencv) or one built with -DWITH_GSTREAMER=ON; a network camera also works by its "
        "rtsp:// URL.",
    ),
}
"""What OpenCV needs for a kind of source, and what to do without it."""


class OpenCvCapture:
    """A `Capture` on `cv2.VideoCapture`."""

    def __init__(self, target: Target, connect_timeout_s: float, read_timeout_s: float) -> None:
        """Open it; SourceError if that fails, or if it is a recording instead of a live source. The
        timeouts are for opening a URL and for a frame of it; cameras and pipelines have none."""
        if target.kind == "camera":
            self._capture = cv2.VideoCapture(int(target.address), cv2.CAP_ANY)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where the driver has that setting
        elif target.kind == "gstreamer":
            self._capture = cv2.VideoCapture(target.address, cv2.CAP_GSTREAMER)
        else:
            left_s = connect_timeout_s - _knock(target, connect_timeout_s)
            timeouts = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, max(1, round(left_s * 1e3)),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_timeout_s * 1e3),
            ]  # fmt: skip
            self._capture = cv2.VideoCapture(target.address, cv2.CAP_FFMPEG, timeouts)
        if not self._capture.isOpened():
            raise SourceError(_cannot_open(target))
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if re.match("https?:", target.address) and count > 0:
            self._capture.release()
            raise SourceError(
                f"'{target.name}' is a recording of {count:.0f} frames. It would be read faster "
                "than it plays, with wrong times. Download it and pass the file."
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else None
        self._name = target.name
        self._doubtful = target.kind == "url" and _CONVERTS_NO_FIELDS
        self._proof_s = min(PROOF_S, read_timeout_s)

    def read(self) -> tuple[np.ndarray, float] | None:
        if self._doubtful:
            self._await_change()
        return self._read()

    def _await_change(self) -> None:
        """Leave out the first picture and all that equal it. SourceError if none differs: memory
        that OpenCV did not write is always the same."""
        first = self._read()
        until_s = time.monotonic() + self._proof_s
        while first is not None and self._doubtful:
            other = self._read()
            self._doubtful = other is not None and np.array_equal(other[0], first[0])
            if self._doubtful and time.monotonic() > until_s:
                raise SourceError(
                    f"'{self._name}' gives the same picture for {self._proof_s:.0f} s. If it is "
                    f"interlaced, OpenCV {cv2.__version__} cannot convert it (4.12 can): set the "
                    "camera to progressive, or use a GStreamer pipeline. Else check the camera."
                )

    def _read(self) -> tuple[np.ndarray, float] | None:
        if not self._capture.grab():
            return None
        grabbed_s = time.monotonic()
        good, image = self._capture.retrieve()
        if not good or image is None:
            return None
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), grabbed_s

    def close(self) -> None:
        self._capture.release()


def _knock(target: Target, timeout_s: float) -> float:
    """Make sure that a server listens, if the URL's protocol begins with a TCP connection, and
    return the seconds that it took. SourceError if none does.

    OpenCV opens one URL at a time in a process, so a machine that is switched off would keep all
    others waiting for the whole timeout. And FFmpeg would print what it takes for the host, which
    is a piece of the password where that is not percent-encoded.
    """
    started = time.monotonic()
    try:
        parts = urlsplit(target.address)
    except ValueError:  # it is not well-formed; FFmpeg will say so
        return 0.0
    scheme = parts.scheme.lower()
    proxy = os.environ.get("http_proxy") or os.environ.get("https_proxy")
    if scheme not in TCP_PORTS or (proxy and scheme in ("http", "https")):
        return 0.0
    try:
        if not parts.hostname:
            raise ValueError("it has no host")
        port = parts.port or TCP_PORTS[scheme]
        socket.create_connection((parts.hostname, port), timeout_s).close()
    except (OSError, ValueError) as error:  # the words of a ValueError may hold the password
        reason = f" Connecting: {error.strerror or error}." if isinstance(error, OSError) else ""
        raise SourceError(_cannot_open(target, reason)) from None
    return time.monotonic() - started


def _cannot_open(target: Target, reason: str = "") -> str:
    if target.kind == "camera":
        there = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        return (
            f"Camera {target.address} cannot be opened. Devices here: {there or 'none'}. "
            "Check that it is plugged in, that no other program uses it, and that you may read it "
            "(group 'video')."
        )
    if target.kind == "gstreamer":
        return (
            f"The pipeline '{target.name}' cannot be opened. Try it with gst-launch-1.0, its "
            "appsink replaced by fakesink; GST_DEBUG=2 says what fails."
        )
    if "@" in target.address:
        reason += (
            " In a user name or password, these characters must be percent-encoded: # %23, / %2F, "
            "? %3F, @ %40, : %3A, % %25."
        )
    return (
        f"'{target.name}' cannot be opened. Check the address, the password, and that it plays in "
        f"ffplay; OPENCV_FFMPEG_LOGLEVEL=24 says what fails.{reason}"
    )
