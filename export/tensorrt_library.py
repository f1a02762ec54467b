"""Finding a TensorRT on this machine, loading it, and hearing what it says.

- TensorRT builds for the GPU that is present, and the plan runs on that kind of GPU only.
- TensorRT for RTX builds without any GPU, ahead of time: by default for every GPU of compute
  capability 8.0, 8.6, 8.9, 12.0 and later, or for those asked for (7.5 must be asked for).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from svfap_edge.errors import BackendUnavailable, EngineIncompatible, SvfapError

Flavour = Literal["auto", "tensorrt", "rtx"]
RTX_LIBRARIES = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
"""The package that carries the libraries of TensorRT for RTX."""


@dataclass(frozen=True)
class Builder:
    """A TensorRT that is installed here.

    Attributes:
        name: "TensorRT" or "TensorRT for RTX".
        version: As the library says, "10.3.0".
        trt: Its Python module.
    """

    name: str
    version: str
    trt: Any

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for GPUs that are not present."""
        return self.name == "TensorRT for RTX"


def find_builder(flavour: Flavour = "auto", compute_capabilities: Sequence[str] = ()) -> Builder:
    """The builder to use.

    Args:
        flavour: "tensorrt", "rtx", or "auto": TensorRT if it is installed, but TensorRT for RTX
            first where compute capabilities are asked for, which only it can build for.
        compute_capabilities: Those asked for.

    Raises:
        BackendUnavailable: it is not installed, or does not load; says why and what to install.
    """
    finders = {"tensorrt": _find_tensorrt, "rtx": _find_rtx}
    if flavour != "auto" and flavour not in finders:
        raise SvfapError(f"Unknown TensorRT flavour '{flavour}'. Known: auto, tensorrt, rtx.")
    order = ("rtx", "tensorrt") if compute_capabilities else ("tensorrt", "rtx")
    reasons = []
    for name in order if flavour == "auto" else (flavour,):
        try:
            return finders[name]()
        except BackendUnavailable as error:
            reasons.append(str(error))
    raise BackendUnavailable(" ".join(reasons))


def _find_tensorrt() -> Builder:
    install = (
        'Install it on the device itself: pip install "svfap-edge[tensorrt]" '
        "(on Jetson: use the TensorRT that JetPack brings)."
    )
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise BackendUnavailable(f"TensorRT cannot be used here ({error}). {install}") from error
    version = str(getattr(trt, "__version__", "unknown"))
    if version.partition(".")[0] not in ("10", "11"):
        raise BackendUnavailable(f"TensorRT {version} is here; 10.x or 11.x is needed. {install}")
    return Builder("TensorRT", version, trt)


def _find_rtx() -> Builder:
    install = 'Install it: pip install "svfap-edge[tensorrt-rtx]".'
    try:
        if importlib.util.find_spec("tensorrt_rtx"):  # NVIDIA's own package brings its libraries
            trt = importlib.import_module("tensorrt_rtx")
        else:
            libraries = _load_rtx_libraries()
            trt = importlib.import_module("tensorrt_rtx_bindings")
            if not f"{trt.__version__}.".startswith(f"{libraries}."):
                raise ImportError(f"libraries {libraries} do not fit bindings {trt.__version__}")
    except (ImportError, OSError) as error:
        reason = f"TensorRT for RTX cannot be used here ({error})."
        raise BackendUnavailable(f"{reason} {install}") from error
    return Builder("TensorRT for RTX", str(getattr(trt, "__version__", "unknown")), trt)


@functools.cache
def _load_rtx_libraries() -> str:
    """Load the libraries for the bindings to find, each after what it depends on.

    Returns:
        The version of TensorRT for RTX: "1.7.1".

    Raises:
        ImportError, OSError: the package or a library is missing, or does not load.
    """
    files = importlib.metadata.distribution(RTX_LIBRARIES).files or []
    version = ""
    for library in ("libcudart.so.", "libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so."):
        found = [file for file in files if file.name.startswith(library)]
        if not found:
            raise ImportError(f"{RTX_LIBRARIES} has no {library}*")
        ctypes.CDLL(str(found[0].locate()), mode=ctypes.RTLD_GLOBAL)
        version = found[0].name.removeprefix(library)
    return version


def present_capability() -> tuple[str, ...]:
    """Compute capability of the first GPU, by NVIDIA's driver: ("8.7",); () if there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    device, values = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return ()
    for value, attribute in zip(values, (75, 76), strict=True):  # major, minor; see cuda.h
        if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return ()
    return (f"{values[0].value}.{values[1].value}",)


@functools.cache
def log_of(trt: Any) -> Any:
    """Keeps warnings and errors. One for the process: TensorRT ignores a second logger."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity.value <= trt.ILogger.Severity.WARNING.value:
                self.lines.append((severity.name, message))

    return Log()


def refusal(what: str, log: Any, words: Sequence[str] = ()) -> EngineIncompatible:
    """The error with the given words, or else the last errors logged."""
    if not words:
        words = [message for severity, message in log.lines if severity != "WARNING"]
        # Without a GPU every error brings one more about the missing driver.
        words = [w for w in words if "catchCudaError" not in w] or words
    lines = dict.fromkeys(words or ["It gave no reason."])
    return EngineIncompatible(f"{what}:\n  " + "\n  ".join(list(lines)[-8:]))
