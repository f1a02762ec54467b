"""Threads of the application: many at their first clip, and some inside an engine at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from svfap_edge.clip import ClipSpec
from svfap_edge.runtimes import available_engines

from .models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

CODE = """
import itertools, sys, threading, time
import numpy as np
from svfap_edge import Engine, Perceiver

engine = Engine.load(sys.argv[1], engine=sys.argv[2])
image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
clips = np.zeros((8, *engine.spec.clip.shape), np.uint8)

def infer():
    while True:
        engine.infer(clips)

def perceive(number):
    perceiver = Perceiver(engine, detector="haar", prefix=str(number))
    for index in itertools.count():
        perceiver.process(image, index / 30)

for number in range(2):
    threading.Thread(target=infer, daemon=True).start()
    threading.Thread(target=perceive, args=[number], daemon=True).start()
time.sleep(float(sys.argv[3]))
print("end")
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_daemon_threads_inside_an_engine_or_a_detector_do_not_abort(
    tmp_path: Path, engine: str
) -> None:
    if engine not in available_engines("onnx"):
        pytest.skip(f"{engine} is not installed")
    clip = ClipSpec(8, 0.8, 64)
    bundle = bundle_of_onnx(tmp_path / "bundle", brightness_model(clip), BRIGHTNESS_TASK, clip)
    for wait_s in ("0.05", "0.2", "0.35"):
        words = [sys.executable, "-c", CODE, str(bundle.path), engine, wait_s]
        found = subprocess.run(words, capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (0, "end\n"), found.stderr[-2000:]


FIRST = """
import os, sys, threading
import numpy as np
from svfap_edge import Engine

engine = Engine.load(sys.argv[1], engine="openvino")
clips = np.zeros((2, *engine.spec.clip.shape), np.uint8)
together = threading.Barrier(6)

def infer():
    together.wait()
    engine.infer(clips)

threads = [threading.Thread(target=infer) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("end")
"""


def test_the_first_clips_of_several_threads_do_not_wait_for_each_other(tmp_path: Path) -> None:
    if "openvino" not in available_engines("onnx"):
        pytest.skip("openvino is not installed")
    clip = ClipSpec(8, 0.8, 64)
    bundle = bundle_of_onnx(tmp_path / "bundle", brightness_model(clip), BRIGHTNESS_TASK, clip)
    for number in range(4):  # where it was wrong, one of six hung
        environment = {**os.environ, "SVFAP_EDGE_CACHE": str(tmp_path / f"cache-{number}")}
        words = [sys.executable, "-c", FIRST, str(bundle.path)]
        found = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        assert found.stdout == "end\n", found.stderr[-2000:]
