"""Resuming: a run is only continued with the settings, task and lists it was started with.

The fingerprint of a run says what it is made of; it is stored in the resume checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from svfap_edge.atomic import written_whole
from svfap_edge.errors import ConfigError, TrainingError
from svfap_edge.training.clips.reading import LabelledClips
from svfap_edge.training.config import to_table

from .objective import Objective

FREE = frozenset(
    (
        "data.train", "data.val", "data.test",  # their content is compared
        "data.workers", "optim.epochs",
        "run.output", "run.save_every", "run.tensorboard", "run.threads",
        "run.devices", "run.nodes",  # the number of processes is compared
    )
)  # fmt: skip
"""Settings that may differ between a run and its continuation.

With another `optim.epochs` the learning rate follows the new cosine from there on, so the result is
not that of a run started with it."""


def fingerprint_of(objective: Objective, processes: int) -> dict[str, Any]:
    """Settings, task and lists of a run by dotted name, and the number of processes."""
    task = objective.task.to_dict() if objective.task else {}
    sections = {**to_table(objective.settings), "task": task}
    kept = {
        f"{section}.{name}": value
        for section, values in sections.items()
        for name, value in values.items()
        if f"{section}.{name}" not in FREE
    }
    lists = {
        f"data.{name}": list_digest(clips, Path(getattr(objective.settings.data, name)))
        for name, clips in objective.lists.items()
    }
    return {**kept, **lists, "processes": processes, "--quantize": objective.quantized}


def list_digest(clips: LabelledClips, path: Path) -> str:
    """Size of a list and a digest of its targets and file names.

    The digest stays the same if the list and its files have been moved together.
    """
    folder = path if path.is_dir() else path.parent
    prefixes = [os.path.join(text, "") for text in (str(folder), os.path.abspath(folder))]
    total = hashlib.sha256()
    for item, target in zip(clips.items, clips.targets.tolist(), strict=True):
        name = str(item.path)
        start = next((len(prefix) for prefix in prefixes if name.startswith(prefix)), 0)
        total.update(f"{name[start:]}\0{target}\n".encode(errors="surrogateescape"))
    return f"{len(clips)} items with digest {total.hexdigest()[:16]}"


def check_resume(path: Path, fingerprint: dict[str, Any], epochs: int) -> None:
    """Raise ConfigError where a resume checkpoint is not one of this run, or is past `epochs`."""
    try:
        stored = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        before, epoch, step = stored["record"], stored["place"]["epoch"], stored["place"]["step"]
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise ConfigError(
            f"'{path}' cannot be read as a resume checkpoint of this version: "
            f"{str(error).strip()[:200]}. Start again in another run.output."
        ) from error
    names = [
        name for name in {**before, **fingerprint} if before.get(name) != fingerprint.get(name)
    ]
    if names:
        changes = "; ".join(
            f"{n} was {_short(before.get(n))}, is {_short(fingerprint.get(n))}" for n in names
        )
        raise ConfigError(
            f"'{path}' does not fit these settings: {changes}. Resume with those in "
            f"'{path.with_name('config.toml')}', or start a new run in another run.output."
        )
    if epoch + (step > 0) > epochs:
        raise ConfigError(
            f"'{path}' is in epoch {epoch + (step > 0)} already: optim.epochs={epochs} is too few."
        )


def _short(value: Any) -> str:
    return f"{value!r:.200}" if not isinstance(value, str) else f"{value:.200}"


def save_atomically(
    fabric: Fabric,
    path: Path,
    state: dict[str, Any],
    keep: Callable[[str, Any], bool] | None = None,
) -> None:
    """Save a checkpoint from all processes; modules and optimizers become their state dicts.

    Only those entries (name, value) of the model's state dict are saved that `keep` accepts. If
    the file cannot be written, what was at `path` before is untouched.
    """
    try:
        with written_whole(path) if fabric.is_global_zero else nullcontext(path) as part:
            # Fabric writes in the first process only, with what it gathers from the others.
            fabric.save(part, state, filter={"model": keep} if keep else None)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        kept = f" The one before is intact: '{path}'." if path.exists() else ""
        raise TrainingError(
            f"The checkpoint '{path}' could not be written: {str(error).strip()[:200]}.{kept} "
            "Make room, or move the folder and set run.output, then continue with --resume."
        ) from error
    fabric.barrier()
