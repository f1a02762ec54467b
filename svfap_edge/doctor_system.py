"""What surrounds the engines: packages, the processor, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator

from .cache import cache_root
from .doctor_check import Answer, Check, State, version_of
from .machine import INSTRUCTION_SETS, cpu_flags, cpu_name, free_memory_bytes, usable_cores

OPTIONAL = (
    ("scikit-image", "the built-in sample", "demo"),
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


def check_software() -> Iterator[Check]:
    system = f"{platform.system()} {platform.machine()}"
    yield Check("software", "python", "ok", f"{platform.python_version()} on {system}")
    for name in ("svfap-edge", "numpy"):
        found = version_of(name)
        if found:
            yield Check("software", name, "ok", found)
        else:
            yield Check("software", name, "note", "not installed by pip", "")
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
        if not flags & {"avx512_vnni", "avx_vnni"}:
            return "note", (
                "No VNNI: INT8 is slower than fp32 on OpenVINO here. Prefer int8.onnx on "
                "onnxruntime, or fp32.onnx."
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
        yield Check(
            "space", "cache", "note", "off: OpenVINO compiles at every start",
            "Set SVFAP_EDGE_CACHE to a folder.",
        )  # fmt: skip
        return
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Check(
            "space", "cache", "broken", f"{root} cannot be written",
            "Make it writable, or set SVFAP_EDGE_CACHE to another folder.",
        )  # fmt: skip
        return
    size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) if root.is_dir() else 0
    free = shutil.disk_usage(existing).free
    low = free < LOW_DISK_BYTES
    yield Check(
        "space", "cache", "note" if low else "ok",
        f"{root}: {size / 1e6:.1f} MB used, {free / 1e9:.1f} GB free on its disk",
        "Free some disk space." if low else "",
    )  # fmt: skip


def check_optional() -> Iterator[Check]:
    for name, use, extra in OPTIONAL:
        found = version_of(name)
        if found:
            yield Check("optional", name, "ok", f"{found}, for {use}")
        else:
            advice = f'pip install "svfap-edge[{extra}]"'
            yield Check("optional", name, "missing", f"not installed; needed for {use}", advice)
