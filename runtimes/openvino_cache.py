"""What OpenVINO compiled in an earlier run, found without loading OpenVINO.

Reading and checking a large model takes as long as importing the library, so both are done at once.
The cache is ours and not OpenVINO's: that one tells models apart by name and time, and maps a file
that another process may cut off.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from svfap_edge.bundle import Artifact
from svfap_edge.cache import compiled_model_cache, keep_compiled, kept_compiled
from svfap_edge.machine import cpu_flags, cpu_name, version_of

from .backend import Mode

COMPILED = "compiled.blob"
"""Name of a compiled model in its entry of the cache."""


@dataclass(frozen=True)
class Kept:
    """An entry of the cache.

    Attributes:
        folder: Its folder; None if there is no cache.
        content: The compiled model; None if it has to be compiled.
    """

    folder: Path | None
    content: memoryview | None

    def keep(self, content: bytes) -> None:
        """Keep what was compiled now."""
        if self.folder is not None:
            keep_compiled(self.folder / COMPILED, content)


def read_ahead(artifact: Artifact, threads: int | None, mode: Mode) -> Kept:
    """The entry of an artifact, compiled as `openvino_backend.load` does with these arguments. What
    else decides how it compiles follows from the processor and ONEDNN_MAX_CPU_ISA."""
    flags = zlib.crc32(" ".join(sorted(cpu_flags())).encode())
    settings = {
        "machine": [cpu_name(), flags, os.environ.get("ONEDNN_MAX_CPU_ISA", "")],
        "threads": threads,
        "mode": mode,
    }
    folder = compiled_model_cache(artifact, f"openvino-{version_of('openvino')}", settings)
    return Kept(folder, None if folder is None else kept_compiled(folder / COMPILED))
