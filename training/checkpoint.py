"""Opening checkpoints, ours and the authors', without running code that a pickle may hold."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svfap_edge.errors import CheckpointError

from .model import BASE, TPSBT, TPSBTConfig

PREFIXES = re.compile(r"^((module|encoder|backbone)\.)+")
STATE_KEYS = ("model", "module")
PRETRAINING_ONLY = ("decoder.", "mask_token", "encoder_to_decoder.", "norm.")
"""Weights of a pre-training checkpoint that fine-tuning drops, by the start of their names.

`norm.` is the encoder's last norm, which mean pooling replaces by `fc_norm`."""

FRESH = ("fc_norm.", "head.")
"""Weights that a pre-training checkpoint lacks and that start fresh in fine-tuning."""


def _allowed_types() -> list[Any]:
    """Types that a checkpoint may hold beside tensors and plain containers; none runs code."""
    scalar = np.float64(0).__reduce__()[0]  # moved between numpy versions
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, bool)]
    return [argparse.Namespace, scalar, np.dtype, *dtypes]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, opened and checked.

    Attributes:
        model: The model with its weights, in evaluation mode.
        kind: "fine-tuned", or "pre-trained" (head and final norm start fresh).
        info: What else the file holds: "epoch", "args" (the training arguments), and "labels" in
            output order.
    """

    model: TPSBT
    kind: str
    info: dict[str, Any]

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def load_checkpoint(path: Path, *, outputs: int | None = None, **changes: Any) -> Checkpoint:
    """Open a checkpoint and rebuild its model.

    The configuration is read from the file if it holds one, as ours does. Otherwise it is deduced
    from the shapes of the weights, the training arguments and the published values.

    Args:
        path: A `.pth` file of the authors or of this project.
        outputs: Width of the fresh head of a pre-training checkpoint.
        changes: Fields of `TPSBTConfig` that overrule the file, such as `heads=4`.

    Raises:
        CheckpointError: the file is not a checkpoint, would run code, or belongs to another model;
            the message lists every weight missing, left over or of another shape.
    """
    content = _open(path)
    state, info = _find_state(content, path)
    state = {PREFIXES.sub("", name): value for name, value in state.items()}
    pretrained = any(name.startswith(("decoder.", "mask_token")) for name in state)
    if pretrained:
        state = {n: w for n, w in state.items() if not n.startswith(PRETRAINING_ONLY)}
    config = _configuration(state, content, info, path, changes)
    if pretrained and outputs:
        config = replace(config, outputs=outputs)
    started_anew = FRESH if pretrained else ()
    # Without memory at first: a damaged configuration can ask for any amount of it.
    wanted = _build(config, len(state), path, device="meta").state_dict()
    _compare(state, {n: w for n, w in wanted.items() if not n.startswith(started_anew)}, path)
    model = _build(config, len(state), path, device="cpu")
    fresh = {n: w for n, w in model.state_dict().items() if n.startswith(started_anew)}
    try:
        model.load_state_dict({**fresh, **state})
    except RuntimeError as error:  # tensors that are sparse, quantized, complex
        raise CheckpointError(f"'{path}' does not fit TPSBT: {str(error)[:400]}") from error
    return Checkpoint(model.eval(), "pre-trained" if pretrained else "fine-tuned", info)


def _build(config: TPSBTConfig, weights: int, path: Path, device: str) -> TPSBT:
    try:
        if sum(config.depths) + len(config.stem) > weights:
            raise ValueError(f"{config} has more blocks than the file has weights ({weights})")
        with torch.device(device):
            return TPSBT(config)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        why = str(error)[:400]
        raise CheckpointError(f"'{path}' describes no possible TPSBT: {why}") from error


def _open(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at '{path}'.")
    try:
        with torch.serialization.safe_globals(_allowed_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:operand|class):? ([\w.]+)", str(error))
        what = f"'{next(filter(None, found.groups()))}'" if found else "an unknown instruction"
        if found is None and "magic" in str(error).lower():
            raise CheckpointError(f"'{path}' is not a PyTorch checkpoint.") from error
        raise CheckpointError(
            f"'{path}' was not opened: it asks for {what}, which is more than weights and plain "
            "values. Such a pickle can run any program on your computer. Get the checkpoint from "
            "its authors, or save only its state dict on a machine that you can lose."
        ) from error
    except Exception as error:  # damaged bytes make its readers raise nearly anything
        raise CheckpointError(
            f"'{path}' is not a PyTorch checkpoint, or is cut short: {str(error)[:200]}"
        ) from error


def _find_state(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of a file, and `Checkpoint.info`."""
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"'{path}' holds a {type(content).__name__}, expected a dict of weights."
        )
    nested = (content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping))
    state: Any = next(nested, content)
    named = all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not state or not named:
        raise CheckpointError(
            f"'{path}' holds no state dict: expected weights under 'model', under 'module', or at "
            f"the top; found the keys {', '.join(map(str, list(content)[:8])) or '(none)'}."
        )
    info: dict[str, Any] = {}
    if state is not content:
        args = content.get("args")
        info["args"] = vars(args) if isinstance(args, argparse.Namespace) else {}
        if isinstance(content.get("epoch"), int):
            info["epoch"] = content["epoch"]
        task = content.get("task")
        labels = task.get("labels") if isinstance(task, Mapping) else None
        if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
            info["labels"] = tuple(labels)
    return dict(state), info


def _configuration(
    state: dict[str, Tensor],
    content: Any,
    info: dict[str, Any],
    path: Path,
    changes: dict[str, Any],
) -> TPSBTConfig:
    known = {f.name for f in fields(TPSBTConfig)}
    saved = content.get("config")
    try:
        if isinstance(saved, Mapping) and set(saved) <= known:
            return TPSBTConfig.from_dict({**saved, **changes})
        deduced = _deduce(state, info.get("args", {}), path)
        unknown = [name for name, value in {**deduced, **changes}.items() if value is None]
        if unknown:
            raise CheckpointError(
                f"'{path}': the weights do not determine {' and '.join(unknown)} "
                f"(width {deduced['width']}). Give {' '.join(f'--{name}' for name in unknown)}."
            )
        return TPSBTConfig.from_dict({**deduced, **changes})
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise CheckpointError(f"'{path}': {error}") from error


def _deduce(state: dict[str, Tensor], args: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Configuration from the shapes of the weights, the training arguments, and `BASE`.

    A value is None where none of them determines it: with a wrongly guessed number of heads the
    checkpoint would load and predict nonsense.
    """
    projection = state.get("patch_embed.proj.weight")
    if projection is None or projection.ndim != 5:
        raise CheckpointError(
            f"'{path}' is a checkpoint of another model: it has no 3D patch projection "
            f"('patch_embed.proj.weight'). Its first weights: {', '.join(list(state)[:4])}. "
            "Expected TPSBT, the encoder of SVFAP."
        )
    width = projection.shape[0]
    blocks = {int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))}
    crossing = {
        int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.cross_attn\.", name))
    }
    stages = 1 + sum(bool(re.fullmatch(r"temporal_downsamples\.\d+\.weight", n)) for n in state)
    first, later = len(blocks - crossing), len(crossing)
    likely = tuple(args.get("stage_depths") or BASE.depths)
    depths: tuple[int, ...] | None = likely
    if sum(likely) != len(blocks) or len(likely) != stages or likely[0] != first:
        depths = (first, later) if stages == 2 else (first,) if stages == 1 else None
    tokens = [
        state[f"spatial_downsamples.{i}.mlp.fc2.weight"].shape[0]
        for i in range(stages - 1)
        if f"spatial_downsamples.{i}.mlp.fc2.weight" in state
    ]
    kernel = state.get("temporal_downsamples.0.weight")
    head = state.get("head.weight")
    return {
        "size": int(args.get("input_size") or BASE.size),
        "frames": int(args.get("num_frames") or BASE.frames),
        "patch": projection.shape[-1],
        "tubelet": projection.shape[2],
        "width": width,
        "heads": width // 64 if width % 64 == 0 else None,  # 64 wide in the published models
        "depths": depths,
        "bottleneck_tokens": tuple(tokens) or BASE.bottleneck_tokens[: stages - 1],
        "temporal_kernel": BASE.temporal_kernel if kernel is None else kernel.shape[2],
        "outputs": BASE.outputs if head is None else head.shape[0],
    }


def _compare(found: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    reshaped = [
        f"{name} {tuple(found[name].shape)}, expected {tuple(weight.shape)}"
        for name, weight in wanted.items()
        if name in found and found[name].shape != weight.shape
    ]
    if not (missing or extra or reshaped):
        return
    lines = [f"'{path}' does not fit TPSBT; nothing was loaded."]
    for title, names in (
        ("Missing", missing), ("Left over", extra), ("Of another shape", reshaped)
    ):  # fmt: skip
        if names:
            lines.append(f"{title} ({len(names)}): {', '.join(names)}")
    raise CheckpointError("\n".join(lines))
