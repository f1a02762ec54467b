"""The findings of `doctor`: engines, packages, the processor, memory and disk."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from svfap_edge.cache import FACE_MODEL_NAME, cache_root, compiled_entries
from svfap_edge.errors import SvfapError
from svfap_edge.machine import (
    INSTRUCTION_SETS,
    cpu_flags,
    cpu_name,
    free_memory_bytes,
    int8_saturates,
    usable_cores,
    version_of,
)

State = Literal["ok", "missing", "broken", "note"]
"""It works; it is not there; it is there and does not work; it works, with something to know."""

Answer = dict[str, Any] | SvfapError
"""Facts that a probe found, or why there are none."""

OPTIONAL = (
    ("matplotlib", "timeline pictures and reports", "report"),
    ("torch", "export and training", "export"),
    ("onnx", "export", "export"),
    ("nncf", "INT8 export", "export"),
    ("lightning", "training", "train"),
)
"""Distribution, what it is for, the extra that brings it."""

SHARING = (
    ("cv2", ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
             "opencv-contrib-python-headless")),
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino",
                     "onnxruntime-directml")),
)  # fmt: skip
"""Distributions that install into one folder: where two are there, parts of both are used."""

LOW_MEMORY_BYTES = 1 << 30
LOW_DISK_BYTES = 1 << 29


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        group: "software", "model", "engines", "processor", "gpu", "video", "space" or "optional".
        name: What was looked at.
        state: See `State`.
        fact: What was found.
        advice: What to do; empty where nothing is.
    """

    group: str
    name: str
    state: State
    fact: str
    advice: str = ""


def broken(group: str, name: str, problem: object, advice: str) -> Check:
    """The finding for what is there and does not work, with its error on one line."""
    return Check(group, name, "broken", " ".join(str(problem).split())[:400], advice)


def check_software() -> Iterator[Check]:
    system = f"{platform.system()} {platform.machine()}"
    yield Check("software", "python", "ok", f"{platform.python_version()} on {system}")
    for name in ("svfap-edge", "numpy"):
        found = version_of(name)
        yield Check("software", name, "ok" if found else "note", found or "not installed by pip")
    for folder, names in SHARING:
        there = [f"{name} {version_of(name)}" for name in names if version_of(name)]
        if len(there) > 1:
            yield Check(
                "software", folder, "note",
                f"{' and '.join(there)} overwrite each other",
                f"Uninstall all of them with pip, then install the one you need: {folder} comes "
                "from each.",
            )  # fmt: skip


def check_processor(openvino: Answer | None) -> Iterator[Check]:
    flags = cpu_flags()
    sets = ", ".join(name for flag, name in INSTRUCTION_SETS if flag in flags)
    if not flags and isinstance(openvino, dict):
        sets = f"as OpenVINO says: {', '.join(openvino['offers'])}"
    state, advice = cpu_advice(flags, platform.machine().lower())
    cores = usable_cores()
    fact = f"{cpu_name()}, {cores} core{'s' if cores > 1 else ''}; {sets or 'instructions unknown'}"
    yield Check("processor", "cpu", state, fact, advice)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    if limit:
        advice = "Unset ONEDNN_MAX_CPU_ISA, unless you imitate a smaller processor."
        yield Check("processor", "limit", "note", f"OpenVINO is held to {limit}", advice)


def cpu_advice(flags: set[str], machine: str) -> tuple[State, str]:
    """Which artifacts suit a processor, by its flags as the Linux kernel names them.

    The figures behind it: docs/benchmarks.md.
    """
    if not flags:
        return "note", "Measure which artifact is the quickest: svfap-edge benchmark BUNDLE"
    if machine in ("x86_64", "amd64"):
        if "avx2" not in flags:
            return "note", "No AVX2: every engine is slow here."
        if int8_saturates(flags, machine):
            return "note", (
                "No VNNI: INT8 is slower than fp32 on OpenVINO here, and its sums saturate. Prefer "
                "fp32.onnx, or see what INT8 loses on this processor: svfap-edge evaluate."
            )
        if flags & {"avx512_bf16", "amx_bf16"}:
            return "ok", "VNNI and BF16: INT8 is the quickest, bf16.openvino the next."
        return "ok", "VNNI, no BF16: INT8 is the quickest; bf16.openvino computes in fp32."
    if "asimddp" not in flags:
        return "note", "No dot-product instruction: INT8 saves memory here rather than time."
    return "ok", "Dot-product instructions: measure INT8 against fp32 with svfap-edge benchmark."


def check_space() -> Iterator[Check]:
    memory = free_memory_bytes()
    if memory is not None:
        low = memory < LOW_MEMORY_BYTES
        advice = "A base model needs up to 0.9 GB (docs/benchmarks.md)." if low else ""
        fact = f"{memory / 1e9:.1f} GB free"
        yield Check("space", "memory", "note" if low else "ok", fact, advice)
    root = cache_root()
    if root is None:
        fact = "off: OpenVINO compiles at every start"
        yield Check("space", "cache", "note", fact, "Set SVFAP_EDGE_CACHE to a folder.")
        return
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        advice = "Make it writable, or set SVFAP_EDGE_CACHE to another folder."
        yield broken("space", "cache", f"{root} cannot be written", advice)
        return
    size = sum(entry.size_bytes for entry in compiled_entries())
    free = shutil.disk_usage(existing).free
    low = free < LOW_DISK_BYTES
    fact = f"{root}: {size / 1e6:.1f} MB of compiled models, {free / 1e9:.1f} GB free on its disk"
    advice = "Free some disk space." if low else ""
    yield Check("space", "cache", "note" if low else "ok", fact, advice)


def check_optional() -> Iterator[Check]:
    for name, use, extra in OPTIONAL:
        found = version_of(name)
        if found:
            yield Check("optional", name, "ok", f"{found}, for {use}")
        else:
            advice = f'pip install "svfap-edge[{extra}]"'
            yield Check("optional", name, "missing", f"not installed; needed for {use}", advice)


GPU_PACKAGES = (
    ("tensorrt", ("tensorrt",), "tensorrt", "tensorrt", 'pip install "svfap-edge[tensorrt]"'),
    ("tensorrt for rtx", ("tensorrt_rtx", "tensorrt_rtx_bindings"), "tensorrt", "rtx",
     'pip install "svfap-edge[tensorrt-rtx]"'),
    ("pycuda", ("pycuda",), "module", "pycuda.driver", "pip install pycuda"),
    ("cuda-python", ("cuda.bindings",), "module", "cuda.bindings.driver",
     "pip install cuda-python"),
)  # fmt: skip
"""Name, modules of which one is there if it is installed, its probe, and how to get it."""


def engine_table() -> tuple[dict[str, Any], list[Check]]:
    """Engines that can run the model in the package; none, and the reason, where even numpy is
    broken. TensorRT, which runs plans only, is among the GPU's packages."""
    try:
        from svfap_edge.runtimes.choice import ENGINES
    except Exception as error:  # a broken numpy raises all kinds of errors
        return {}, [broken("engines", "all", error, "pip install --force-reinstall numpy")]
    return {name: entry for name, entry in ENGINES.items() if "onnx" in entry.formats}, []


def check_package_model(answer: Answer) -> Check:
    name = "model in the package"
    if isinstance(answer, SvfapError):
        advice = "Install svfap-edge again: pip install --force-reinstall --no-deps svfap-edge"
        return broken("model", name, answer, advice)
    return Check("model", name, "ok", f"{answer['name']}: {', '.join(answer['artifacts'])}")


def check_engine(name: str, entry: Any, answer: Answer | None, model: Answer) -> Check:
    if answer is None:
        return Check("engines", name, "missing", "not installed", f"{entry.install}")
    if isinstance(answer, dict):
        ran = f"{answer['version']}: ran {answer['artifact']} in {answer['precision']}"
        offers = f"; offers {', '.join(answer['offers'])}" if answer.get("offers") else ""
        return Check("engines", name, "ok", (ran + offers).removeprefix(": "))
    if isinstance(model, SvfapError):
        return Check("engines", name, "note", "installed; not tried without an intact model")
    formats = {artifact.partition(".")[2] for artifact in model["artifacts"]}
    if not formats & set(entry.formats):
        reason = "installed; not tried, for the model in the package has no artifact for it"
        return Check("engines", name, "note", reason, "Try it: svfap-edge benchmark BUNDLE")
    advice = f"Install it again: {entry.install} --force-reinstall"
    return broken("engines", name, answer, advice)


def check_driver(answer: Answer) -> Check:
    if isinstance(answer, SvfapError):
        advice = "See nvidia-smi. In a container, start it with its GPUs (--gpus all)."
        return broken("gpu", "nvidia driver", answer, advice)
    if "problem" in answer:
        advice = "Nothing, unless this machine should run TensorRT."
        return Check("gpu", "nvidia driver", "missing", "not installed", advice)
    gpus = ", ".join(
        f"{gpu['name']} (compute capability {gpu['compute_capability']}, {gpu['memory_mib']} MiB)"
        for gpu in answer["gpus"]
    )
    return Check("gpu", "nvidia driver", "ok", f"CUDA {answer['cuda']}: {gpus or 'no GPU'}")


def check_gpu_packages(answers: dict[str, Answer]) -> Iterator[Check]:
    for name, _, _, _, install in GPU_PACKAGES:
        answer = answers.get(name)
        if answer is None:
            advice = f"For NVIDIA GPUs only: {install}"
            yield Check("gpu", name, "missing", "not installed", advice)
        elif isinstance(answer, SvfapError):
            yield broken("gpu", name, answer, f"Install it again: {install}")
        else:
            found = answer["version"] or version_of(name) or "unknown version"
            yield Check("gpu", name, "ok", f"{found}, loads")


FACE_MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
"""SHA-256 of YuNet's file in OpenCV Zoo, March 2023."""


PYAV = "pyav"


def check_pyav(answer: Answer | None) -> Check:
    install = 'pip install "av>=15"'
    if answer is None:
        return Check("video", PYAV, "missing", "not installed: no video file is read", install)
    if isinstance(answer, SvfapError):
        return broken("video", PYAV, answer, f"Install it again: {install} --force-reinstall")
    return Check("video", PYAV, "ok", f"{answer['version']}, for video files")


def check_opencv(answer: Answer) -> Iterator[Check]:
    if isinstance(answer, SvfapError):
        advice = (
            'Install it again: pip install --force-reinstall "opencv-python>=4.10,<5"; on a '
            "machine without libGL, opencv-python-headless instead."
        )
        yield broken("video", "opencv", answer, advice)
        return
    yield Check("video", "opencv", "ok", f"{answer['version']} ({answer['file']})")
    uses = {
        "FFmpeg": ("network cameras", "Install opencv-python from PyPI, which has it."),
        "GStreamer": (
            "GStreamer pipelines",
            "Only if you need pipelines: use an OpenCV built with GStreamer, such as the "
            "system's on Jetson; PyPI's has none.",
        ),
        "V4L": ("cameras on Linux", "Only if you need cameras: use an OpenCV built with V4L."),
    }
    for name, (use, advice) in uses.items():
        if answer[name]:
            yield Check("video", name, "ok", f"built in, for {use}")
        else:
            yield Check("video", name, "missing", f"not built in: no {use}", advice)


def check_detectors(answer: Answer, face_model: Path | None) -> Iterator[Check]:
    facts = answer if isinstance(answer, dict) else {}
    haar = facts.get("haar", "not tried without OpenCV")
    if face_model is None:
        advice = (
            "More faces, three times as fast: svfap-edge doctor --fetch downloads it, or copy "
            f"{FACE_MODEL_NAME} from OpenCV Zoo to {cache_root() or 'the cache folder'}."
        )
        fact = "no file, so that the Haar cascade finds the faces"
        yield Check("video", "yunet", "missing", fact, advice)
    else:
        yield _check_yunet(face_model, facts.get("yunet", "not tried without OpenCV"))
    if haar:
        advice = "Use YuNet, or --detector none."
        yield Check("video", "haar", "missing", " ".join(haar.split()), advice)
    else:
        yield Check("video", "haar", "ok", "OpenCV's frontal-face cascade")


def _check_yunet(path: Path, problem: str) -> Check:
    again = f"Copy {FACE_MODEL_NAME} from OpenCV Zoo again."
    if problem:
        return broken("video", "yunet", problem, again)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != FACE_MODEL_SHA256:
        fact = f"{path} works, but is another file (SHA-256 {found[:12]}...) than was tested"
        return Check("video", "yunet", "note", fact, again)
    return Check("video", "yunet", "ok", str(path))
