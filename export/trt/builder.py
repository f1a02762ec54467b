"""The TensorRT that builds a plan, and what a user may set of the build.

- TensorRT builds for the GPU that is present, and the plan runs on that kind of GPU only.
- TensorRT for RTX builds without any GPU, ahead of time: by default for every GPU of compute
  capability 8.0, 8.6, 8.9, 12.0 and later, or for those asked for (7.5 must be asked for).
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from svfap_edge.errors import BackendUnavailable, EngineIncompatible, SvfapError
from svfap_edge.runtimes.backend import INPUT_NAME
from svfap_edge.runtimes.cuda_driver import find_gpu
from svfap_edge.runtimes.trt.library import NAMES, TensorRT, find_library, log_of, reasons

FLAG = "flag."
KEYS = (
    "workspace_mib", "timing_cache", "batch", "builder_optimization_level", "profiling_verbosity",
)  # fmt: skip
"""Settings by name; all other keys are `flag.NAME`."""


@dataclass(frozen=True)
class PlanSettings:
    """How to build.

    Attributes:
        batch: Smallest, most likely and largest number of clips in one run.
        workspace_mib: Most memory a layer may use while it runs, MiB.
        compute_capabilities: GPUs to build for, "8.6", "8.9" (TensorRT for RTX only).
        timing_cache: File that makes the next build faster: read if it is there, and written
            back. TensorRT only: TensorRT for RTX chooses its kernels on the target and has none.
        builder_optimization_level: Effort of the search for fast kernels, 0 to 5; None for
            TensorRT's default.
        profiling_verbosity: What the plan keeps for inspection: "NONE", "LAYER_NAMES_ONLY" or
            "DETAILED"; None for TensorRT's default.
        flags: Builder flags by TensorRT's name, such as "TF32", set or cleared.

    Raises:
        SvfapError: a value makes no sense.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_mib: int = 1024
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    builder_optimization_level: int | None = None
    profiling_verbosity: str | None = None
    flags: tuple[tuple[str, bool], ...] = ()

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
        """Plain JSON types; the timing cache by its file name."""
        cache = None if self.timing_cache is None else self.timing_cache.name
        return {**asdict(self), "timing_cache": cache, "flags": dict(self.flags)}


def plan_settings(
    texts: Sequence[str] = (), compute_capabilities: tuple[str, ...] = ()
) -> PlanSettings:
    """Settings from texts KEY=VALUE, where KEY is one of `KEYS`, or `flag.NAME` with 0 or 1; what
    makes no sense is an SvfapError. The builder checks flags and ranges; see `configured`."""
    fields: dict[str, Any] = {"flags": ()}
    seen: set[str] = set()
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise SvfapError(
                f"TensorRT option '{text}' is not KEY=VALUE, like builder_optimization_level=3 "
                "or flag.TF32=0."
            )
        if key in seen:
            raise SvfapError(f"TensorRT option '{key}' is given twice.")
        seen.add(key)
        if key.startswith(FLAG):
            if value not in ("0", "1"):
                raise SvfapError(f"TensorRT option {key}={value}: choose 0, 1.")
            fields["flags"] += ((key.removeprefix(FLAG), value == "1"),)
        elif key in ("workspace_mib", "builder_optimization_level"):
            fields[key] = _whole(key, value)
        elif key == "timing_cache":
            fields[key] = Path(value)
        elif key == "profiling_verbosity":
            fields[key] = value
        elif key == "batch":
            fields[key] = tuple(_whole(key, part) for part in value.split(","))
            if len(fields[key]) != 3:
                raise SvfapError(f"TensorRT option batch={value}: give three, like 1,1,8.")
        else:
            raise _unknown(key, (*KEYS, "flag.NAME"))
    return PlanSettings(**fields, compute_capabilities=compute_capabilities)


def find_builder(flavour: str = "auto", compute_capabilities: Sequence[str] = ()) -> TensorRT:
    """The TensorRT to build with: "tensorrt", "rtx", or "auto": TensorRT if it is installed, but
    TensorRT for RTX first where compute capabilities are asked for, which only it can build for.
    For errors see `find_library`."""
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
    """The error with the given words, or else with the last errors logged."""
    return EngineIncompatible(f"{what}:\n  {reasons(log, words)}")


def configured(builder: TensorRT, settings: PlanSettings) -> tuple[Any, Any]:
    """A fresh TensorRT builder and its config; takes a moment, and needs no model.

    SvfapError for a setting that this builder does not have or a value that it does not take;
    EngineIncompatible, in the library's own words, if it does not start.
    """
    _check_flavour(builder, settings)
    trt, log = builder.trt, log_of(builder.trt)
    log.lines.clear()
    try:
        maker = trt.Builder(log)
    except TypeError as error:  # a null pointer from the library: no GPU, no driver
        raise refusal(f"{builder.name} {builder.version} does not start", log) from error
    config = maker.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.compute_capabilities:
        config.num_compute_capabilities = len(settings.compute_capabilities)
        for index, text in enumerate(settings.compute_capabilities):
            capability = getattr(trt.ComputeCapability, "SM" + text.replace(".", ""))
            if not config.set_compute_capability(capability, index):
                raise refusal(f"Compute capability {text} was refused", log)
    if settings.timing_cache is not None:
        _use_timing_cache(config, settings.timing_cache)
    if settings.builder_optimization_level is not None:
        _set(config, "builder_optimization_level", settings.builder_optimization_level)
    if settings.profiling_verbosity is not None:
        levels = trt.ProfilingVerbosity.__members__
        if settings.profiling_verbosity not in levels:
            given = f"profiling_verbosity={settings.profiling_verbosity}"
            raise SvfapError(f"TensorRT option {given}: choose {', '.join(levels)}.")
        _set(config, "profiling_verbosity", levels[settings.profiling_verbosity])
    known = trt.BuilderFlag.__members__
    for name, on in settings.flags:
        if name not in known:
            raise _unknown(FLAG + name, [FLAG + each for each in known])
        (config.set_flag if on else config.clear_flag)(known[name])
        _check_taken(FLAG + name, int(on), int(config.get_flag(known[name])))
    return maker, config


def add_profile(maker: Any, config: Any, network: Any, settings: PlanSettings, log: Any) -> None:
    """Give the builder the batches to expect of a network; one of a fixed batch takes no other."""
    first, *shape = tuple(network.get_input(0).shape)
    low, likely, high = settings.batch if first == -1 else (first,) * 3
    if first != -1 and settings.batch != (first,) * 3:
        raise SvfapError(f"The model takes batches of {first} only; ask for that.")
    profile = maker.create_optimization_profile()
    profile.set_shape(INPUT_NAME, (low, *shape), (likely, *shape), (high, *shape))
    if config.add_optimization_profile(profile) < 0:
        raise refusal(f"Batch {settings.batch} was refused", log)


def _check_flavour(builder: TensorRT, settings: PlanSettings) -> None:
    """Refuse what one of TensorRT and TensorRT for RTX has and the other has not."""
    if builder.ahead_of_time:
        if settings.timing_cache is not None:
            raise SvfapError("TensorRT for RTX has no timing cache; build without that option.")
        known = {_capability(name): name for name in builder.trt.ComputeCapability.__members__}
        unknown = [c for c in settings.compute_capabilities if c not in known]
        if unknown:
            raise SvfapError(
                f"{builder.name} {builder.version} does not build for compute capability "
                f"{', '.join(unknown)}; it does for {', '.join(filter(None, known))}."
            )
    elif settings.compute_capabilities:
        raise SvfapError(
            f"{builder.name} builds for the GPU that is present, not for compute capability "
            f"{', '.join(settings.compute_capabilities)}. Build on the device itself, or ahead of "
            'time with TensorRT for RTX: pip install "svfap-edge[tensorrt-rtx]".'
        )


def _capability(name: str) -> str:
    """ "SM89" to "8.9"; "" for names that are none."""
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}" if digits.isdigit() else ""


def _use_timing_cache(config: Any, path: Path) -> None:
    """Use the file's timings; an empty cache if it is missing, damaged or of another GPU."""
    cache = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _set(config: Any, key: str, value: Any) -> None:
    with contextlib.suppress(AttributeError, TypeError, ValueError, OverflowError):
        setattr(config, key, value)
    _check_taken(key, value, getattr(config, key, "nothing"))


def _check_taken(key: str, value: Any, kept: Any) -> None:
    if kept != value:
        raise SvfapError(
            f"TensorRT does not take {key}={value}; it keeps {kept}. Choose a value in its range."
        )


def _whole(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise SvfapError(f"TensorRT option {key}: '{text}' is no whole number.") from error


def _unknown(key: str, known: Sequence[str]) -> SvfapError:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return SvfapError(f"TensorRT has no option '{key}'. {meant}Known: {', '.join(known)}.")
