"""Which installed TensorRT builds a plan.

- TensorRT builds for the GPU that is present, and the plan runs on that kind of GPU only.
- TensorRT for RTX builds without any GPU, ahead of time: by default for every GPU of compute
  capability 8.0, 8.6, 8.9, 12.0 and later, or for those asked for (7.5 must be asked for).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from svfap_edge.errors import BackendUnavailable, EngineIncompatible, SvfapError
from svfap_edge.runtimes.cuda_driver import find_gpu
from svfap_edge.runtimes.trt.library import NAMES, TensorRT, find_library, reasons

Flavour = Literal["auto", "tensorrt", "rtx"]


def find_builder(flavour: Flavour = "auto", compute_capabilities: Sequence[str] = ()) -> TensorRT:
    """The TensorRT to build with.

    Args:
        flavour: "tensorrt", "rtx", or "auto": TensorRT if it is installed, but TensorRT for RTX
            first where compute capabilities are asked for, which only it can build for.
        compute_capabilities: Those asked for.

    Raises:
        BackendUnavailable: it is not installed, or does not load; says why and what to install.
    """
    if flavour != "auto" and flavour not in NAMES:
        raise SvfapError(f"Unknown TensorRT flavour '{flavour}'. Known: auto, {', '.join(NAMES)}.")
    order = ("rtx", "tensorrt") if compute_capabilities else ("tensorrt", "rtx")
    failures = []
    for name in order if flavour == "auto" else (flavour,):
        try:
            return find_library(name)
        except BackendUnavailable as error:
            failures.append(str(error))
    raise BackendUnavailable(" ".join(failures))


def present_capability() -> tuple[str, ...]:
    """Compute capability of the GPU that would be used: ("8.7",); () if there is none."""
    try:
        return (find_gpu().capability,)
    except BackendUnavailable:
        return ()


def refusal(what: str, log: Any, words: Sequence[str] = ()) -> EngineIncompatible:
    """The error with the given words, or else the last errors logged."""
    return EngineIncompatible(f"{what}:\n  {reasons(log, words)}")
