"""A robot that waves back: it looks while it moves, and never waits for the camera.

    python examples/robot_loop.py            the built-in sample
    python examples/robot_loop.py 0          the first camera

One thread perceives. The control loop runs at its own rate and asks for the newest state alone.
"""

from __future__ import annotations

import sys
import threading
import time

from svfap_edge import Engine, Perceiver, Person, open_source

CONTROL_HZ = 20
SMILES = 0.6
"""Smoothed probability of happiness from which on the robot waves."""


class Eyes(threading.Thread):
    """Perceives the source it is named after; `people` are those of the newest frame."""

    people: tuple[Person, ...] = ()

    def run(self) -> None:
        with (
            Engine.load() as engine,
            Perceiver(engine, hop_s=0.25, smoothing_s=1.0) as perceiver,
            open_source(self.name) as source,
        ):
            for frame in source:
                if perceiver.wants(frame.timestamp_s):
                    self.people = perceiver.process(frame.image, frame.timestamp_s).people
        self.people = ()


def smiling(person: Person) -> bool:
    prediction = person.prediction  # None while nothing is known of this person
    if prediction is None or prediction.smoothed is None:
        return False
    return prediction.smoothed.get("happiness", 0.0) > SMILES


def main() -> None:
    eyes = Eyes(name=sys.argv[1] if len(sys.argv) > 1 else "sample", daemon=True)
    eyes.start()
    greeted: set[str] = set()
    while eyes.is_alive():
        for person in eyes.people:
            if person.name not in greeted and smiling(person):
                greeted.add(person.name)
                x, y = person.box.center
                print(f"wave at {person.name}, whose face is at {x:.0f}, {y:.0f}", flush=True)
        time.sleep(1 / CONTROL_HZ)  # the robot moves here


if __name__ == "__main__":
    main()
