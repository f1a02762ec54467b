"""Nothing leaves the machine: the libraries under us write and report nothing of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import numpy as np, sys
from svfap_edge import Engine
from svfap_edge.runtimes import available_engines
if sys.argv[1] in available_engines("onnx"):
    with Engine.load(engine=sys.argv[1]) as engine:
        engine.infer(np.zeros((1, *engine.spec.clip.shape), np.uint8))
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_run_leaves_no_file_but_the_cache(tmp_path: Path, engine: str) -> None:
    places = {name: tmp_path / name for name in ("HOME", "TMPDIR", "SVFAP_EDGE_CACHE")}
    for place in places.values():
        place.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY",)}
    environment |= {name: str(place) for name, place in places.items()}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "HOME" / ".cache")}
    subprocess.run([sys.executable, "-c", RUN, engine], env=environment, check=True)
    left = [p for name in ("HOME", "TMPDIR") for p in places[name].rglob("*") if p.is_file()]
    assert left == []


def test_who_has_set_the_variable_is_respected() -> None:
    code = "import os, svfap_edge; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "0"
