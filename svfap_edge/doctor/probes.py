"""What `svfap-edge doctor` tries in processes of their own, so that a crash is just a finding.

    python -m svfap_edge.doctor.probes NAME [ARGUMENT]

Each probe returns facts; whatever it raises is the finding.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
import time
from pathlib import Path
from typing import Any

from svfap_edge.benchmark.processes import answering

CUDA_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
CUDA_CALLS = {100: "no device", 101: "invalid device", 802: "not ready", 803: "driver too old"}
"""Results of `cuInit` worth a word (CUDA driver API, cuda.h)."""

MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR (cuda.h)."""


def package_model() -> dict[str, Any]:
    """Whether the model in the package is whole."""
    from svfap_edge.bundle import Bundle

    bundle = Bundle.open()
    for name in bundle.manifest.artifacts:
        bundle.verify(name)
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


def tensorrt(flavour: str) -> dict[str, Any]:
    """Whether TensorRT ("tensorrt") or TensorRT for RTX ("rtx") loads."""
    from svfap_edge.export.trt.library import find_builder

    return {"version": find_builder(flavour).version}  # type: ignore[arg-type]


def opencv(face_model: str = "") -> dict[str, Any]:
    """What this OpenCV can do, and whether the face detectors work.

    Args:
        face_model: YuNet's file, or nothing.
    """
    import cv2
    import numpy as np

    from svfap_edge.errors import SvfapError
    from svfap_edge.perception.detectors import HaarDetector, YuNetDetector

    said = cv2.getBuildInformation()
    parts = {"FFmpeg": "FFMPEG", "GStreamer": "GStreamer", "V4L": "v4l/v4l2"}
    facts: dict[str, Any] = {"version": cv2.__version__, "file": cv2.__file__}
    for name, key in parts.items():
        match = re.search(rf"^\s*{re.escape(key)}:\s*(\S+)", said, re.MULTILINE)
        facts[name] = bool(match) and match[1] not in ("NO", "NONE")  # type: ignore[index]
    frame = np.zeros((64, 64, 3), np.uint8)
    for detector, make in (
        ("haar", HaarDetector), ("yunet", lambda: YuNetDetector(Path(face_model)))
    ):  # fmt: skip
        if detector == "yunet" and not face_model:
            continue
        try:
            make().detect(frame)  # type: ignore[operator]
            facts[detector] = ""
        except SvfapError as error:
            facts[detector] = str(error)
    return facts


def cuda() -> dict[str, Any]:
    """NVIDIA's driver and GPUs, asked without any CUDA package.

    Returns:
        "problem" if there is none; otherwise "cuda" (the newest version the driver knows) and
        "gpus" (name, compute capability, memory in MiB).
    """
    library = None
    for name in CUDA_LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        return {"problem": "no NVIDIA driver"}
    code = library.cuInit(0)
    if code:
        return {"problem": f"the driver answers {code} ({CUDA_CALLS.get(code, 'see cuda.h')})"}
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceGetCount(ctypes.byref(count))
    number = version.value
    return {
        "cuda": f"{number // 1000}.{number % 1000 // 10}",
        "gpus": [_gpu(library, index) for index in range(count.value)],
    }


def _gpu(library: Any, index: int) -> dict[str, Any]:
    device, text = ctypes.c_int(), ctypes.create_string_buffer(128)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(text, len(text), device)
    values = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        values.append(str(value.value))
    memory = ctypes.c_size_t()
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return {
        "name": text.value.decode(errors="replace"),
        "compute_capability": ".".join(values),
        "memory_mib": memory.value >> 20,
    }


PROBES = {
    "package_model": package_model,
    "engine": engine,
    "module": module,
    "opencv": opencv,
    "cuda": cuda,
    "tensorrt": tensorrt,
}

if __name__ == "__main__":
    with answering() as answer:
        answer(PROBES[sys.argv[1]](*sys.argv[2:]))  # type: ignore[operator]
