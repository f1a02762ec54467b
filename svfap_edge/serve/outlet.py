"""The outlet to the socket: the lines of a run to everyone who watches, and pictures."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from svfap_edge import LineSink, Perception

from .hub import Hub
from .jpeg import encode_jpeg

PICTURE_SIDE = 960
"""Pixels of the longer side that pictures are shrunk to."""

PICTURE_INTERVAL_S = 0.04
"""Least seconds between two pictures of a camera; those between are not sent, nor counted."""


class WebOutlet(LineSink):
    """Sends the lines that `JsonLines` writes, and pictures to those who want them.

    Pictures are encoded in a thread of their own, and of each camera only the newest waits for it,
    so that the run is not held up.
    """

    def __init__(self, hub: Hub, counts: Callable[[str], dict[str, int]] = lambda _: {}) -> None:
        """
        Args:
            hub: Where everyone is who watches.
            counts: What became of the frames of a camera, by its name ("" in a run without names);
                this goes with the pictures.
        """
        self._hub, self._counts = hub, counts
        self._waiting: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}
        self._sent_s: dict[str, float] = {}
        self._news = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._encode, name="svfap-pictures", daemon=True)
        self._thread.start()

    def line(self, content: dict[str, Any]) -> None:
        about = f"{content['type']} {content.get('camera', '')}"
        lasting = content["type"] in ("source", "summary")
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        self._hub.line(text, about if lasting else None)

    def write(self, camera: str | None, perception: Perception) -> None:
        super().write(camera, perception)
        name, now = camera or "", time.monotonic()
        due = now - self._sent_s.get(name, 0.0) >= PICTURE_INTERVAL_S
        if not self._hub.wants_pictures or not (due or perception.predictions):
            return
        self._sent_s[name] = now
        image = perception.image
        header = {
            **perception.to_json(),
            "type": "picture",
            "camera": name,
            "width": image.shape[1],
            "height": image.shape[0],
            "counts": self._counts(name),
        }
        with self._news:  # the image belongs to the source, which may fill it again: a copy waits
            self._waiting[name] = (shrunk(image), header)
            self._news.notify()

    def _encode(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                waiting, self._waiting = self._waiting, {}
            for name, (image, header) in waiting.items():
                self._hub.picture(name, packed(header, encode_jpeg(image)))

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()


def shrunk(image: np.ndarray) -> np.ndarray:
    """A copy (H, W, 3) uint8 whose longer side is at most `PICTURE_SIDE`."""
    height, width = image.shape[:2]
    factor = min(1.0, PICTURE_SIDE / max(height, width))
    if factor == 1.0:
        return image.copy()
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def packed(header: dict[str, Any], picture: bytes) -> bytes:
    """One message: the length of the header (four bytes, big-endian), the header as JSON, and the
    picture as JPEG."""
    text = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    return struct.pack(">I", len(text)) + text + picture
