"""A session in the lab: faces go to Lab Streaming Layer beside the other devices, and to a file.

    pip install "svfap-edge[lsl]"
    python examples/lab_recording.py session-7 60           the first camera, for a minute
    python examples/lab_recording.py session-7 60 sample    the built-in sample

LabRecorder then finds `session-7-1` (a channel for each label) and the stimuli's markers.
"""

from __future__ import annotations

import sys

import pylsl

from svfap_edge import Engine, run
from svfap_edge.sinks.jsonl import JsonLines
from svfap_edge.sinks.lsl import LslOutlets


def markers(name: str) -> pylsl.StreamOutlet:
    """An outlet of the experiment itself, for what was shown and when."""
    rate = pylsl.IRREGULAR_RATE
    return pylsl.StreamOutlet(pylsl.StreamInfo(name, "Markers", 1, rate, pylsl.cf_string, name))


def main() -> None:
    name, seconds = sys.argv[1], float(sys.argv[2])
    source = sys.argv[3] if len(sys.argv) > 3 else 0
    stimuli = markers(f"{name}-stimuli")
    with Engine.load() as engine:
        sinks = [LslOutlets(name, engine.manifest.task), JsonLines(f"{name}.jsonl")]
        stimuli.push_sample(["begin"])
        summary = run(source, engine, sinks, seconds=seconds)
        stimuli.push_sample(["end"])
    print(f"{summary.predictions} predictions of {summary.people} people in {name}.jsonl")


if __name__ == "__main__":
    main()
