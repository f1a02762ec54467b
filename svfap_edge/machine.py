"""What this machine is: every measurement is quoted with it."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

INSTRUCTION_SETS = (
    ("avx2", "AVX2"),
    ("avx_vnni", "AVX-VNNI"),
    ("avx512f", "AVX-512"),
    ("avx512_vnni", "AVX-512-VNNI"),
    ("avx512_bf16", "AVX-512-BF16"),
    ("amx_int8", "AMX-INT8"),
    ("amx_bf16", "AMX-BF16"),
    ("asimddp", "ASIMD dot product"),
    ("i8mm", "I8MM"),
    ("bf16", "BF16"),
)
"""Instruction sets that matter to INT8 and bf16: the Linux kernel's flag and the usual name."""

LIBRARIES = ("svfap-edge", "numpy", "onnxruntime", "openvino", "opencv-python")


def describe_machine() -> dict[str, str]:
    """Processor, instruction sets, cores, system and library versions, by name."""
    flags = cpu_flags()
    sets = [name for flag, name in INSTRUCTION_SETS if flag in flags]
    facts = {
        "cpu": cpu_name(),
        "instruction sets": ", ".join(sets) or "unknown",
        "cores": str(usable_cores()),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    found = {library: version_of(library) for library in LIBRARIES}
    found["ONEDNN_MAX_CPU_ISA"] = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    return {**facts, **{name: fact for name, fact in found.items() if fact}}


def version_of(distribution: str) -> str:
    """Version of an installed distribution; empty if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def cpu_flags() -> set[str]:
    """Instruction-set flags as the Linux kernel names them; empty where unknown."""
    return set((_kernel_entry("cpuinfo", "flags") or _kernel_entry("cpuinfo", "Features")).split())


def int8_saturates(flags: set[str], machine: str) -> bool:
    """Whether a processor of these flags adds two products of INT8 in 16 bits, where they saturate.

    x86 does without VNNI (Intel's `vpmaddubsw`): a model with large weights beside each other loses
    accuracy there that it has elsewhere.
    """
    x86 = machine.lower() in ("x86_64", "amd64")
    return x86 and bool(flags) and not flags & {"avx512_vnni", "avx_vnni", "amx_int8"}


def cpu_name() -> str:
    """Name of the processor's model."""
    return _kernel_entry("cpuinfo", "model name") or platform.processor() or platform.machine()


def _kernel_entry(file: str, name: str) -> str:
    """What a file below /proc holds after `name` and a colon; empty where it does not."""
    try:
        lines = Path("/proc", file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")


def usable_cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_mb() -> float:
    """The most memory that this process held at a time, in MB.

    On Linux it is the figure for the process image, because `ru_maxrss` also counts what the parent
    held.
    """
    peak = _kernel_entry("self/status", "VmHWM")
    if peak:
        return int(peak.split()[0]) / 1024
    import resource

    unit = 1 << 20 if platform.system() == "Darwin" else 1 << 10  # bytes there, kB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def free_memory_bytes() -> int | None:
    """Memory in bytes that this process can still get; None where unknown.

    It is what the kernel calls available or what a container's limit leaves, whichever is less.
    """
    available = _kernel_entry("meminfo", "MemAvailable")
    left = [int(available.split()[0]) << 10] if available else []
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        if limit != "max":
            used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8")
            left.append(int(limit) - int(used))
    except (OSError, ValueError):
        pass
    return min(left) if left else None


BUSY = 0.2
"""Cores that other processes may take before a measurement says so."""


class OtherLoad:
    """The context of a measurement: how many cores processes other than ours and our children took
    in it. Linux counts that; elsewhere nothing is known."""

    def __enter__(self) -> OtherLoad:
        self._cores: float | None = None
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        now = self._read()
        if now is not None and self._before is not None:
            wall, busy, ours = (b - a for a, b in zip(self._before, now, strict=True))
            self._cores = max(0.0, busy - ours) / max(wall, 1e-3)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds of the clock, of all processors, and of this process and those that it waited
        for."""
        try:
            words = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
            user, nice, system, _, _, irq, soft, steal = (int(word) for word in words[:8])
        except (OSError, ValueError):
            return None
        ticks = user + nice + system + irq + soft + steal
        mine = os.times()
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), sum(mine[:4])

    def sentence(self) -> str | None:
        """What to say of it; None where little was taken, or nothing is known."""
        if self._cores is None or self._cores < BUSY:
            return None
        return (
            f"Other processes took {self._cores:.1f} of {os.cpu_count()} cores during the timing: "
            "the times are too long, and their ratios uncertain. Measure on an idle machine."
        )
