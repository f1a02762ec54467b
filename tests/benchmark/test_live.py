"""What a live camera costs."""

from __future__ import annotations

import json

import cv2

from svfap_edge.bundle import Bundle
from tests.cli.test_commands import call


def test_the_processor_time_of_live_cameras(tiny: Bundle) -> None:
    before = cv2.getNumThreads()
    try:
        options = ("--live", "--seconds", 1, "--detector", "none", "--json")
        done = call("benchmark", tiny.path, *options)
    finally:
        cv2.setNumThreads(before)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["live"]
    assert [row["cameras"] for row in rows] == [1, 1, 1, 8, 8, 8]
    for row in rows:
        assert row["cpu_ms"] > 0 and row["wall_ms"] > 0
        assert sum(row["stages_ms"].values()) - row["wall_ms"] < 1e-6
        assert row["hop_s"] in (0.2, 0.4)
