"""When a live source began, on its own clock and on the wall: what puts cameras on one axis."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from .frames import Frame, Source
from .live import Camera


@dataclass(frozen=True)
class Origin:
    """Time 0 of a live source.

    Attributes:
        source: Its name.
        origin_s: On the capture clock: `time.monotonic` of a camera, the application's own of
            pushed frames.
        wall_time: ISO 8601, UTC; of pushed frames, when the first was taken less its time since.
    """

    source: str
    origin_s: float
    wall_time: str

    @property
    def times(self) -> dict[str, Any]:
        return {"origin_s": round(self.origin_s, 6), "wall_time": self.wall_time}

    def to_json(self) -> dict[str, Any]:
        return {"type": "source", "source": self.source, **self.times}


def origin_of(source: Source, frame: Frame) -> Origin | None:
    """Of a live source, asked when its first frame was just taken; None of others."""
    origin_s = getattr(source, "origin_s", None)
    if not source.live or origin_s is None:
        return None
    age_s = time.monotonic() - origin_s if isinstance(source, Camera) else frame.timestamp_s
    moment = datetime.fromtimestamp(time.time() - age_s, timezone.utc)
    return Origin(source.name, origin_s, moment.isoformat(timespec="milliseconds"))
