"""A monitor with a face tracker of its own: it gives crops, and the SDK keeps one stream.

    python examples/driver_monitor.py        the built-in sample

`crops` stands for the application's tracker. When it loses the face, the stream says so, and
nothing is predicted until enough of a clip was seen again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from svfap_edge import Engine, open_source

LOST_S = 0.5
"""Seconds without a face after which the monitor says that it sees nobody."""


def crops(address: str) -> Iterator[tuple[float, np.ndarray | None]]:
    """Time in seconds and the face, (H, W, 3) uint8 RGB; None where there is none."""
    with open_source(address) as source:
        for frame in source:
            seen = frame.timestamp_s < 3.5  # the camera of the sample swings away then
            yield frame.timestamp_s, frame.image[40:280, 180:420] if seen else None


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "sample"
    with Engine.load() as engine:
        driver = engine.open_stream("driver", hop_s=0.5, smoothing_s=1.0)
        print(f"a prediction every {driver.hop_s:g} s")
        seen_s = 0.0
        for time_s, face in crops(address):
            if face is not None:
                seen_s = time_s
                if driver.wants(time_s):  # other frames would fill no slot
                    for p in driver.push(face, time_s):
                        print(f"{p.end_s:.2f} s: {p.smoothed_label}, coverage {p.coverage:.0%}")
            elif time_s - seen_s > LOST_S and driver.state == "valid":
                driver.mark_stale()
                print(f"{time_s:.2f} s: nobody is seen, {driver.state}")


if __name__ == "__main__":
    main()
