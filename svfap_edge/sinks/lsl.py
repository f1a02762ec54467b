"""Results as Lab Streaming Layer (LSL) outlets, beside the lab's other recordings.

LSL announces outlets on the local network and sends samples to whoever subscribes. Its clock is
that of the machine (`time.monotonic` on Linux); receivers correct for their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from svfap_edge.errors import ConfigError, DependencyMissing
from svfap_edge.perception.results import Perception, StateChange
from svfap_edge.sources.frames import StartTime
from svfap_edge.tasks import Task

from .sink import Sink

PERSON, COVERAGE = "person", "coverage"
"""Channels after those of the labels."""

LAST_S = 0.5
"""Seconds between the last sample and the end of the outlets: they are sent by another thread."""

SAME_CLOCK_S = 0.1
"""A source whose times begin this close to LSL's clock is on that clock."""


class LslOutlets(Sink):
    """One outlet of LSL for each person who is present at a time.

    An outlet has a channel for each label (the probability of a class, or the value), then `person`
    (the number in the person's name) and `coverage`, all float32. A sample is one prediction,
    stamped with the time of its newest frame: for a live source on LSL's clock, for a recording as
    if its first frame had been shown when the run began. A person has the first outlet that is
    free, named NAME-1, NAME-2 and so on (NAME-door-1 for a camera "door"), and keeps it; where
    nobody is, nothing is sent. The first outlet is there from the beginning.
    """

    def __init__(self, name: str, task: Task, cameras: tuple[str, ...] = ()) -> None:
        """
        Args:
            name: First part of the outlets' names; not empty.
            task: What the channels are.
            cameras: Names of the sources, where they have names.

        Raises:
            DependencyMissing: pylsl, or the library that it loads, is not there.
            ConfigError: the name is empty.
        """
        try:
            import pylsl
        except (ImportError, RuntimeError, OSError) as error:  # pylsl raises its own without liblsl
            raise DependencyMissing(
                f'LSL needs pylsl: pip install "svfap-edge[lsl]" ({" ".join(str(error).split())})'
            ) from error
        if not name.strip():
            raise ConfigError("--lsl needs a name that is not empty; got ''.")
        self._lsl, self._name, self._task = pylsl, name, task
        self._outlets: dict[tuple[str | None, int], Any] = {}
        self._places: dict[tuple[str | None, str], int] = {}  # by camera and person
        self._base_s: dict[str | None, float] = {}  # of camera time 0, on LSL's clock
        for camera in cameras or (None,):
            self._outlet(camera, 0)

    def begin(self, camera: str | None, start: StartTime) -> None:
        now_s, now = self._lsl.local_clock(), datetime.now(timezone.utc)
        base_s = now_s - (now - datetime.fromisoformat(start.wall_time)).total_seconds()
        same = abs(base_s - start.origin_s) < SAME_CLOCK_S
        self._base_s[camera] = start.origin_s if same else base_s

    def write(self, camera: str | None, perception: Perception) -> None:
        if camera not in self._base_s:
            self._base_s[camera] = self._lsl.local_clock() - perception.timestamp_s
        for prediction in perception.predictions:
            person = prediction.stream
            place = self._place(camera, person)
            values = [prediction.scores[label] for label in self._task.labels]
            sample = [*values, float(person.rpartition("-")[2]), prediction.coverage]
            time_s = self._base_s[camera] + prediction.end_s
            self._outlet(camera, place).push_sample(sample, time_s)
        self._free(camera, perception.changes)

    def missing(self, camera: str | None, gap: object, changes: list[StateChange]) -> None:
        self._free(camera, changes)

    def end(self, camera: str | None, changes: list[StateChange], summary: dict[str, Any]) -> None:
        self._free(camera, changes)

    def close(self) -> None:
        """End the outlets. Whoever listens gets `LAST_S` to take the last samples."""
        if any(outlet.have_consumers() for outlet in self._outlets.values()):
            time.sleep(LAST_S)
        self._outlets.clear()  # an outlet ends when nobody holds it

    def _place(self, camera: str | None, person: str) -> int:
        key = camera, person
        if key not in self._places:
            taken = {place for (where, _), place in self._places.items() if where == camera}
            self._places[key] = next(n for n in range(len(taken) + 1) if n not in taken)
        return self._places[key]

    def _free(self, camera: str | None, changes: Sequence[StateChange]) -> None:
        for change in changes:
            if change.state == "ended":
                self._places.pop((camera, change.stream), None)

    def _outlet(self, camera: str | None, place: int) -> Any:
        key = camera, place
        if key not in self._outlets:
            parts = (self._name, *([] if camera is None else [camera]), str(place + 1))
            self._outlets[key] = self._lsl.StreamOutlet(self._described("-".join(parts)))
        return self._outlets[key]

    def _described(self, name: str) -> Any:
        """What LSL tells of an outlet; fields by the XDF conventions for channels."""
        task, lsl = self._task, self._lsl
        labels = [*task.labels, PERSON, COVERAGE]
        info = lsl.StreamInfo(
            name,
            "Expression",
            len(labels),
            lsl.IRREGULAR_RATE,
            lsl.cf_float32,
            f"svfap-edge-{name}",
        )
        unit = "probability" if task.kind == "classes" else f"{task.low:g}..{task.high:g}"
        channels = info.desc().append_child("channels")
        for label in labels:
            channel = channels.append_child("channel")
            channel.append_child_value("label", label)
            what = {PERSON: "number", COVERAGE: "share"}
            channel.append_child_value("unit", what.get(label, unit))
        info.desc().append_child_value("task", task.name)
        return info
