"""What `svfap-edge doctor` tries in processes of their own, so that a crash is just a finding.

Each probe returns facts; whatever it raises is the finding.
"""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def package_model() -> dict[str, Any]:
    """Whether the model in the package is whole."""
    from svfap_edge.bundle import Bundle

    bundle = Bundle.open()
    bundle.verify_all()
    return {"name": bundle.manifest.name, "artifacts": list(bundle.manifest.artifacts)}


def engine(name: str) -> dict[str, Any]:
    """One prediction of the model in the package."""
    import numpy as np

    from svfap_edge.runtimes import Engine
    from svfap_edge.runtimes.choice import ENGINES

    start = time.perf_counter()
    with Engine.load(engine=name) as loaded:
        loaded.infer(np.zeros((1, *loaded.spec.clip.shape), np.uint8))
        facts: dict[str, Any] = {
            "artifact": loaded.spec.artifact,
            "precision": loaded.spec.precision,
            "seconds": round(time.perf_counter() - start, 3),
        }
    library = sys.modules[ENGINES[name].libraries[0]]
    facts["version"] = str(getattr(library, "__version__", "")).split("-")[0]
    if name == "onnxruntime":
        offered = library.get_available_providers()
        facts["offers"] = [each.replace("ExecutionProvider", "") for each in offered]
    elif name == "openvino":
        facts["offers"] = list(library.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    return facts


def module(name: str) -> dict[str, Any]:
    """Whether a module can be imported."""
    found = importlib.import_module(name)
    return {"version": str(getattr(found, "__version__", ""))}


def tensorrt(name: str) -> dict[str, Any]:
    """Whether TensorRT ("tensorrt") or TensorRT for RTX ("rtx") loads."""
    from svfap_edge.export.trt.builder import find_builder

    return {"version": find_builder(name).version}


def pyav() -> dict[str, Any]:
    """Whether PyAV loads, with what reading a video takes, and its version."""
    import av
    import av.filter
    import av.video.reformatter

    if "h264" not in av.codecs_available:
        raise ImportError("its FFmpeg has no H.264")
    return {"version": av.__version__}


def opencv(face_model: Path | None) -> dict[str, Any]:
    """What this OpenCV can do, and whether the face detectors work; YuNet only if it has a file."""
    import cv2
    import numpy as np

    from svfap_edge.errors import SvfapError
    from svfap_edge.perception.detectors import Detector, HaarDetector, YuNetDetector

    said = cv2.getBuildInformation()
    parts = {"FFmpeg": "FFMPEG", "GStreamer": "GStreamer", "V4L": "v4l/v4l2"}
    facts: dict[str, Any] = {"version": cv2.__version__, "file": cv2.__file__}
    for name, key in parts.items():
        match = re.search(rf"^\s*{re.escape(key)}:\s*(\S+)", said, re.MULTILINE)
        facts[name] = bool(match) and match[1] not in ("NO", "NONE")  # type: ignore[index]
    frame = np.zeros((64, 64, 3), np.uint8)
    detectors: dict[str, Callable[[], Detector]] = {"haar": HaarDetector}
    if face_model is not None:
        detectors["yunet"] = lambda: YuNetDetector(face_model)
    for detector, make in detectors.items():
        try:
            make().detect(frame)
            facts[detector] = ""
        except SvfapError as error:
            facts[detector] = str(error)
    return facts


def cuda() -> dict[str, Any]:
    """NVIDIA's driver and GPUs, asked without any CUDA package.

    Returns:
        "problem" if no driver is installed; otherwise "gpus" (name, compute capability, memory in
        MiB) and "cuda" (the newest version the driver knows; empty without a GPU).
    """
    from svfap_edge.runtimes.cuda_driver import DriverMissing, find_gpus

    try:
        gpus = find_gpus()
    except DriverMissing:
        return {"problem": "no NVIDIA driver"}
    return {
        "cuda": gpus[0].cuda if gpus else "",
        "gpus": [
            {"name": g.name, "compute_capability": g.capability, "memory_mib": g.memory >> 20}
            for g in gpus
        ],
    }
