"""Finding a TensorRT on this machine, loading it, and keeping what it logs.

There are two kinds ("flavours") with one Python interface: TensorRT (10.x, which JetPack brings,
and 11.x) and TensorRT for RTX (1.x). A plan of one does not run on the other.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svfap_edge.errors import BackendUnavailable

NAMES = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
"""Names of the flavours, by the word that a manifest's `needs` uses."""

RTX_LIBRARIES = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
"""The package that carries the libraries of TensorRT for RTX."""

KEPT_LINES = 200
"""Newest lines of TensorRT's log that are kept."""


@dataclass(frozen=True)
class TensorRT:
    """A TensorRT that is installed here.

    Attributes:
        name: "TensorRT" or "TensorRT for RTX".
        version: The version that the library reports, for example "10.3.0".
        trt: Its Python module.
    """

    name: str
    version: str
    trt: Any

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds plans for GPUs not present here, and finishes kernels on first use."""
        return self.name == NAMES["rtx"]


def find_library(flavour: str) -> TensorRT:
    """Load one flavour: "tensorrt" or "rtx". If it is not installed or does not load, a
    BackendUnavailable says why and what to install."""
    return _find_rtx() if flavour == "rtx" else _find_tensorrt()


def _find_tensorrt() -> TensorRT:
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
    return TensorRT(NAMES["tensorrt"], version, trt)


def _find_rtx() -> TensorRT:
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
    return TensorRT(NAMES["rtx"], str(getattr(trt, "__version__", "unknown")), trt)


@functools.cache
def _load_rtx_libraries() -> str:
    """Load the libraries for the bindings to find, each after the libraries it depends on, and
    return their version, for example "1.7.1"."""
    files = importlib.metadata.distribution(RTX_LIBRARIES).files or []
    version = ""
    for library in ("libcudart.so.", "libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so."):
        found = [file for file in files if file.name.startswith(library)]
        if not found:
            raise ImportError(f"{RTX_LIBRARIES} has no {library}*")
        ctypes.CDLL(str(found[0].locate()), mode=ctypes.RTLD_GLOBAL)
        version = found[0].name.removeprefix(library)
    return version


@functools.cache
def log_of(trt: Any) -> Any:
    """The logger of this process, which keeps the newest warnings and errors in `lines`, each as
    (severity, message). There is one because TensorRT ignores a second logger."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[tuple[str, str]] = deque(maxlen=KEPT_LINES)

        def log(self, severity: Any, message: str) -> None:
            if severity.value <= trt.ILogger.Severity.WARNING.value:
                self.lines.append((severity.name, message))

    return Log()


def reasons(log: Any, words: Sequence[str] = ()) -> str:
    """Why TensorRT failed, one reason a line: the given words, or else the last errors logged."""
    if not words:
        words = [message for severity, message in log.lines if severity != "WARNING"]
        # Without a GPU every error brings one more about the missing driver.
        words = [w for w in words if "catchCudaError" not in w] or words
    lines = dict.fromkeys(words or ["It gave no reason."])
    return "\n  ".join(list(lines)[-8:])
