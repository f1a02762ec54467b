"""A builder, and its config with the settings put on it, each checked by reading it back."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path
from typing import Any

from svfap_edge.errors import SvfapError
from svfap_edge.runtimes.backend import INPUT_NAME
from svfap_edge.runtimes.trt.library import TensorRT, log_of

from .library import refusal
from .settings import OURS, PlanSettings

GROUPS = {
    "flag": "BuilderFlag",
    "preview": "PreviewFeature",
    "tactic": "TacticSource",
    "memory": "MemoryPoolType",
}
"""Keys `GROUP.NAME`, and TensorRT's enumeration that has the names."""

NOT_OPTIONS = {
    "flags",  # one by one, as flag.NAME
    "num_compute_capabilities",
    "num_optimization_profiles",
    "profile_stream",  # an address
    "progress_monitor",
}


def configured(builder: TensorRT, settings: PlanSettings) -> tuple[Any, Any]:
    """A fresh TensorRT builder and its config; takes a moment, and needs no model.

    Raises:
        SvfapError: a setting that this builder does not have, with those it has, or a value that
            it does not take.
        EngineIncompatible: the library does not start; in its own words.
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
    for key, value in settings.options:
        _set_option(config, trt, key, value)
    return maker, config


def add_profile(maker: Any, config: Any, network: Any, settings: PlanSettings, log: Any) -> None:
    """Tell the builder the batches to expect of a network.

    Raises:
        SvfapError: the network has a batch of its own.
        EngineIncompatible: the builder refuses them.
    """
    first, *shape = tuple(network.get_input(0).shape)
    low, likely, high = settings.batch if first == -1 else (first,) * 3
    if first != -1 and settings.batch != (first,) * 3:
        raise SvfapError(f"The model takes batches of {first} only; ask for that.")
    profile = maker.create_optimization_profile()
    profile.set_shape(INPUT_NAME, (low, *shape), (likely, *shape), (high, *shape))
    if config.add_optimization_profile(profile) < 0:
        raise refusal(f"Batch {settings.batch} was refused", log)


def _check_flavour(builder: TensorRT, settings: PlanSettings) -> None:
    """What one of TensorRT and TensorRT for RTX has and the other has not."""
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


def _set_option(config: Any, trt: Any, key: str, value: str) -> None:
    """Set an attribute of the builder config, or a member of one of `GROUPS`.

    Raises:
        SvfapError: unknown key, with the known ones; or a value that does not fit.
    """
    group, _, name = key.partition(".")
    if name and name in _members(trt, group):
        _set_member(config, trt, group, name, value)
        return
    if key not in _attributes(config):
        raise _unknown(config, trt, key)
    wanted = _in_type_of(getattr(config, key), key, value)
    with contextlib.suppress(AttributeError, TypeError, ValueError, OverflowError):
        setattr(config, key, wanted)
    _check_taken(key, value, getattr(config, key), wanted)


def _attributes(config: Any) -> list[str]:
    """Those of the config that hold a number or a member of an enumeration."""
    kind = type(config)
    names = {name for name in dir(kind) if isinstance(getattr(kind, name), property)}
    return [
        name
        for name in sorted(names - NOT_OPTIONS)
        if isinstance(getattr(config, name), (int, float))
        or hasattr(type(getattr(config, name)), "__members__")
    ]


def _members(trt: Any, group: str) -> dict[str, Any]:
    """Names of a group that this version has; the workspace has a key of its own."""
    members = getattr(getattr(trt, GROUPS.get(group, ""), None), "__members__", {})
    return {name: member for name, member in members.items() if name != "WORKSPACE"}


def _set_member(config: Any, trt: Any, group: str, name: str, value: str) -> None:
    key, member = f"{group}.{name}", _members(trt, group)[name]
    if group == "memory":
        size = _in_type_of(0, key, value) << 20
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            config.set_memory_pool_limit(member, size)
        kept = config.get_memory_pool_limit(member)
        _check_taken(key, value, f"{kept / (1 << 20):g} MiB" if kept != size else None, None)
        return
    on = _in_type_of(False, key, value)
    if group == "flag":
        (config.set_flag if on else config.clear_flag)(member)
        kept = config.get_flag(member)
    elif group == "preview":
        config.set_preview_feature(member, on)
        kept = config.get_preview_feature(member)
    else:
        bit, sources = 1 << int(member), config.get_tactic_sources()
        config.set_tactic_sources(sources | bit if on else sources & ~bit)
        kept = bool(config.get_tactic_sources() & bit)
    _check_taken(key, value, int(kept), int(on))


def _check_taken(key: str, value: str, kept: Any, wanted: Any) -> None:
    if kept != wanted:
        raise SvfapError(
            f"TensorRT does not take {key}={value}; it keeps {kept}. Choose a value in its range."
        )


def _in_type_of(present: Any, key: str, value: str) -> Any:
    """`value` as the type of `present`: an enumeration by name, a bool, int or float."""
    members = getattr(type(present), "__members__", None)
    choices = dict(members) if members else {"0": False, "1": True}
    if members or isinstance(present, bool):
        if value not in choices:
            raise SvfapError(f"TensorRT option {key}={value}: choose {', '.join(choices)}.")
        return choices[value]
    try:
        return type(present)(value)
    except ValueError as error:
        kind = type(present).__name__
        raise SvfapError(f"TensorRT option {key}={value}: the value must be {kind}.") from error


def _unknown(config: Any, trt: Any, key: str) -> SvfapError:
    """The error for an unknown key: the nearest known ones, then all of its group."""
    group = key.partition(".")[0]
    members = {g: [f"{g}.{name}" for name in _members(trt, g)] for g in GROUPS}
    own = [*OURS, *_attributes(config)]
    everything = own + [name for names in members.values() for name in names]
    near = difflib.get_close_matches(key, everything, n=3, cutoff=0.5)
    known = members.get(group) or [*own, *(f"{g}.NAME" for g in GROUPS if members[g])]
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return SvfapError(f"TensorRT has no option '{key}'. {meant}Known: {', '.join(known)}.")
