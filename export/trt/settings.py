"""What a user may set of a TensorRT build, and the words for it: KEY=VALUE."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from svfap_edge.errors import SvfapError

OURS = ("workspace_mib", "timing_cache", "batch")
"""Keys that are fields of `PlanSettings`; all others are the builder config's own."""


@dataclass(frozen=True)
class PlanSettings:
    """How to build.

    Attributes:
        batch: Smallest, most likely and largest number of clips in one run.
        workspace_mib: Most memory a layer may use while it runs, MiB.
        compute_capabilities: GPUs to build for, "8.6", "8.9" (TensorRT for RTX only).
        timing_cache: File that makes the next build faster: read if it is there, and written
            back. TensorRT only: TensorRT for RTX chooses its kernels on the target and has none.
        options: KEY and VALUE for the builder config; see `plan_settings`.

    Raises:
        SvfapError: a value makes no sense.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_mib: int = 1024
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        low, likely, high = self.batch
        if not 1 <= low <= likely <= high:
            raise SvfapError(f"Batch must be 1 <= min <= opt <= max; it is {self.batch}.")
        if self.workspace_mib < 1:
            raise SvfapError(f"The workspace must be 1 MiB or more; it is {self.workspace_mib}.")
        if self.timing_cache is not None and not self.timing_cache.absolute().parent.is_dir():
            raise SvfapError(f"The folder of the timing cache '{self.timing_cache}' is not there.")
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d{1,2}\.\d", capability):
                raise SvfapError(
                    f"'{capability}' is no compute capability; write it like 8.6 or 12.0."
                )

    def to_dict(self) -> dict[str, Any]:
        cache = self.timing_cache
        return {**asdict(self), "timing_cache": None if cache is None else cache.name}


def parse_options(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Split "KEY=VALUE" texts, for `plan_settings`.

    Raises:
        SvfapError: not KEY=VALUE, or a key given twice.
    """
    options: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise SvfapError(
                f"TensorRT option '{text}' is not KEY=VALUE, like builder_optimization_level=3 "
                "or flag.TF32=0."
            )
        if key in options:
            raise SvfapError(f"TensorRT option '{key}' is given twice.")
        options[key] = value
    return tuple(options.items())


def plan_settings(
    options: Sequence[tuple[str, str]] = (), compute_capabilities: tuple[str, ...] = ()
) -> PlanSettings:
    """Settings from options, by KEY:

    - `workspace_mib` (1024), `timing_cache` (a file), `batch` (smallest,likely,largest: 1,1,8);
    - an attribute of TensorRT's builder config: `builder_optimization_level`,
      `profiling_verbosity`; numbers, 0 or 1, and enumerations by name;
    - `flag.NAME` for a builder flag, `preview.NAME` for a preview feature, `tactic.NAME` for a
      tactic source, with VALUE 0 or 1; `memory.NAME` for another memory pool, in MiB.

    Raises:
        SvfapError: a value of ours makes no sense. The builder checks its own; see
            `tensorrt_config.configured`.
    """
    given = {key: value for key, value in options if key in OURS}
    fields: dict[str, Any] = {}
    if "workspace_mib" in given:
        fields["workspace_mib"] = _whole("workspace_mib", given["workspace_mib"])
    if "timing_cache" in given:
        fields["timing_cache"] = Path(given["timing_cache"])
    if "batch" in given:
        parts = given["batch"].split(",")
        if len(parts) != 3:
            raise SvfapError(f"TensorRT option batch={given['batch']}: give three, like 1,1,8.")
        fields["batch"] = tuple(_whole("batch", part) for part in parts)
    theirs = tuple((key, value) for key, value in options if key not in OURS)
    return PlanSettings(**fields, compute_capabilities=compute_capabilities, options=theirs)


def _whole(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise SvfapError(f"TensorRT option {key}: '{text}' is no whole number.") from error
