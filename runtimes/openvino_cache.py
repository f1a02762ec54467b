"""What OpenVINO compiled in an earlier run, found without loading OpenVINO.

Reading and checking a large model takes as long as importing the library, so both are done at once.
The cache is ours and not OpenVINO's: that one tells models apart by name and time, and maps a file
that another process may cut off.

What was compiled of an IR leaves the weights in its `.bin`, where the system can give OpenVINO a
file of verified bytes that no other process can change: then little is kept, and nothing is copied.
"""

from __future__ import annotations

import os
import zlib
from concurrent.futures import Future
from mmap import mmap
from pathlib import Path
from typing import BinaryIO

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.cache import compiled_model_cache, keep_compiled, kept_compiled
from svfap_edge.machine import cpu_flags, cpu_name, version_of

from .backend import Mode

COMPILED = "compiled.blob"
"""Name of a compiled model in its entry of the cache."""

FILES_IN_MEMORY = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


class Ahead:
    """Reads an artifact, and what an earlier run compiled of it, while OpenVINO is imported.

    The weights of an IR go into a file in memory that has no name. They need not have been checked
    for the compiled model to be imported with them, for they are numbers alone; whoever loads an
    engine waits for the check at the end.

    Attributes:
        folder: Where the compiled model is kept, once `compiled` has answered; None if there is no
            cache.
        apart: Whether the compiled model leaves the weights in the artifact's file.
    """

    def __init__(self, bundle: Bundle, artifact: Artifact, threads: int | None, mode: Mode) -> None:
        """The arguments are those of `openvino_backend.load`. What else decides how it compiles
        follows from the processor and ONEDNN_MAX_CPU_ISA."""
        self.folder: Path | None = None
        self.apart = FILES_IN_MEMORY and artifact.format == "openvino"
        self._bundle, self._artifact = bundle, artifact
        self._threads, self._mode = threads, mode
        self._weights: BinaryIO | None = None
        self._compiled: Future[memoryview | None] = Future()
        self._found: memoryview | None = None

    def read(self) -> list[bytes | memoryview]:
        """The verified bytes of the artifact's files; see `Bundle.read`."""
        try:
            self.folder = self._entry()
            if self.folder is not None:
                self._found = kept_compiled(self.folder / COMPILED)
            if not self.apart:
                self._compiled.set_result(self._found)
            return self._bundle.read(self._artifact.name, self._take)
        finally:
            if not self._compiled.done():
                self._compiled.set_result(None)

    def _entry(self) -> Path | None:
        flags = zlib.crc32(" ".join(sorted(cpu_flags())).encode())
        settings = {
            "machine": [cpu_name(), flags, os.environ.get("ONEDNN_MAX_CPU_ISA", "")],
            "threads": self._threads,
            "mode": self._mode,
            "weights": "apart" if self.apart else "inside",
        }
        builder = f"openvino-{version_of('openvino')}"
        return compiled_model_cache(self._artifact, builder, settings)

    def _take(self, file: BinaryIO) -> bytes | memoryview:
        size = os.fstat(file.fileno()).st_size
        if not (self.apart and file.name.endswith(".bin") and size):
            return file.read()
        self._weights = os.fdopen(os.memfd_create("weights"), "w+b", buffering=0)
        os.ftruncate(self._weights.fileno(), size)
        content = memoryview(mmap(self._weights.fileno(), size))
        content = content[: file.readinto(content)]  # type: ignore[attr-defined]
        self._compiled.set_result(self._found)
        return content

    def compiled(self) -> memoryview | None:
        """What an earlier run compiled; None if it has to be compiled. Waits for `read`."""
        return self._compiled.result()

    def keep(self, compiled: bytes) -> None:
        """Keep what was compiled now."""
        if self.folder is not None:
            keep_compiled(self.folder / COMPILED, compiled)

    def config(self) -> dict[str, str]:
        """How OpenVINO has to compile and import what is kept."""
        config = {"CACHE_MODE": "OPTIMIZE_SIZE"} if self.apart else {}
        if self._weights is not None:
            config["WEIGHTS_PATH"] = f"/proc/self/fd/{self._weights.fileno()}"
        return config

    def close(self) -> None:
        """Give up the file of the weights. What was read, and what was imported, stays whole."""
        if self._weights is not None:
            self._weights.close()
            self._weights = None
