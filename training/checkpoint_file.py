"""What checkpoint files hold: weights in the containers of many trainers, opened without running
code that a pickle may hold."""

from __future__ import annotations

import argparse
import datetime
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PosixPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from svfap_edge.errors import CheckpointError

Weights = Literal["auto", "model", "ema"]

PREFIXES = re.compile(r"^((module|encoder|backbone|model|_orig_mod)\.)+")
"""What wrappers put before the names of the encoder's weights."""

CONTAINERS = ("model", "module", "state_dict", "model_state_dict", "model_state", "weights", "net")
"""Keys under which trainers keep their weights."""

AVERAGES = (
    "model_ema", "ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict",
)  # fmt: skip
"""Keys under which trainers keep a moving average of the weights."""

MOST_UNPACKED = 1.1
"""A checkpoint that unpacks to more than this many times its size is refused: PyTorch compresses
nothing, so it would be a trap."""


def read_content(path: Path) -> Mapping[str, Any]:
    """What a `.pth` or `.safetensors` file holds, at its top; CheckpointError if it is neither, or
    would run code."""
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at '{path}'.")
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or (start[8:] == b"{" and start[5:8] == b"\0\0\0"):
        return _read_safetensors(path)
    content = _read_pickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"'{path}' holds a {type(content).__name__}, expected a dict of weights."
        )
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = {k: json.loads(v) for k, v in (file.metadata() or {}).items() if v[:1] in '{["'}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is not readable as safetensors: {error}") from error
    return {**about, "model": state}


def write_safetensors(
    path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any], half: bool = False
) -> None:
    """Write weights, in half precision if asked for, and beside them plain values that
    `read_content` gives back."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    if half:
        plain = {n: v.half() if v.is_floating_point() else v for n, v in plain.items()}
    metadata = {"format": "pt", **{k: json.dumps(v) for k, v in about.items()}}
    path.write_bytes(save(plain, metadata))  # a file of its own making would be its owner's alone


def _allowed_types() -> list[Any]:
    """Types that a checkpoint may hold beside tensors and plain containers; none runs code."""
    scalar = np.float64(0).__reduce__()[0]  # moved between numpy versions
    array = np.zeros(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, bool)]
    times = [datetime.datetime, datetime.timedelta, datetime.date]
    numbers = [scalar, array, np.ndarray, np.dtype, *dtypes]
    return [argparse.Namespace, PosixPath, *times, *numbers]


def _read_pickle(path: Path) -> Any:
    unpacked = 0
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"'{path}' is damaged: {error}.") from error
    if unpacked > MOST_UNPACKED * path.stat().st_size + 1_000_000:
        raise CheckpointError(
            f"'{path}' has {path.stat().st_size:,} bytes and would unpack to {unpacked:,}; "
            "PyTorch compresses nothing. It was not opened."
        )
    try:
        with torch.serialization.safe_globals(_allowed_types()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles; what matters is an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:operand|class):? ([\w.]+)", str(error))
        if found is None:
            raise CheckpointError(f"'{path}' is not a PyTorch checkpoint.") from error
        what = next(filter(None, found.groups()))
        raise CheckpointError(
            f"'{path}' was not opened: it asks for '{what}', which is more than weights and plain "
            "values. Such a pickle can run any program on your computer. Get the checkpoint from "
            "its authors, or save only its state dict on a machine that you can lose."
        ) from error
    except Exception as error:  # damaged bytes make its readers raise nearly anything
        raise CheckpointError(
            f"'{path}' is not a PyTorch checkpoint, or is cut short: {str(error)[:200]}"
        ) from error


def find_state(
    content: Mapping[str, Any], path: Path, weights: Weights = "auto"
) -> tuple[dict[str, Tensor], str]:
    """The state dict in a file's content, without the prefixes of wrappers, and the key that it was
    under ("" at the top).

    "auto" takes the weights, and a moving average where there is nothing else; "model" and "ema"
    take nothing else. CheckpointError if that is not there, with what is, or if a weight is no
    finite number.
    """
    keys = {"auto": (*CONTAINERS, *AVERAGES), "model": CONTAINERS, "ema": AVERAGES}[weights]
    for key in keys:
        state = _state(content.get(key))
        if state is not None:
            return _cleaned(state, path), key
    state = None if weights == "ema" else _state(content)
    if state is not None:
        return _cleaned(state, path), ""
    held = {key: _state(value) is not None for key, value in content.items()}
    there = [f"'{key}' (weights)" for key, weights_in in held.items() if weights_in]
    rest = [f"'{key}'" for key, weights_in in held.items() if not weights_in][:8]
    raise CheckpointError(
        f"'{path}' holds no {'moving average' if weights == 'ema' else 'state dict'}: expected "
        f"weights under {', '.join(keys[:4])} or the like. It has "
        f"{', '.join(there + rest) or 'nothing'}."
    )


def _state(found: Any) -> dict[str, Tensor] | None:
    """A state dict, which may lie in one more container; None for anything else."""
    if not isinstance(found, Mapping) or not found:
        return None
    if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        return dict(found)
    inner = (_state(found[key]) for key in CONTAINERS if isinstance(found.get(key), Mapping))
    return next((state for state in inner if state is not None), None)


def _cleaned(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    clean = {PREFIXES.sub("", name): weight for name, weight in state.items()}
    for name, weight in clean.items():
        if weight.is_complex() or weight.dtype == torch.bool:
            kind = str(weight.dtype).removeprefix("torch.")
            raise CheckpointError(f"'{path}': '{name}' holds {kind} values, expected numbers.")
        if weight.is_floating_point() and weight.layout == torch.strided:
            bad = int((~torch.isfinite(weight)).sum())
            if bad:
                raise CheckpointError(
                    f"'{path}': {bad} of {weight.numel()} values of '{name}' are NaN or infinite. "
                    "The training that wrote it has failed; take an earlier checkpoint."
                )
    return clean


def arguments_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the training that wrote a file, however it keeps them."""
    for key in ("args", "hyper_parameters", "config", "cfg"):
        found = content.get(key)
        if isinstance(found, argparse.Namespace):
            return dict(vars(found))
        if isinstance(found, Mapping):
            return {str(k): v for k, v in found.items()}
    return {}
