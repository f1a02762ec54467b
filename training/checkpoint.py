"""Checkpoints, ours and the authors', as models: the configuration found, the weights compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svfap_edge.bundle import Bundle, find_bundle
from svfap_edge.errors import CheckpointError, SvfapError
from svfap_edge.manifest import MANIFEST
from svfap_edge.schema import fitted
from svfap_edge.tasks import Task

from .checkpoint_file import Weights, arguments_of, find_state, read_content
from .model import BASE, TPSBT, TPSBTConfig

PRETRAINING_ONLY = ("decoder.", "mask_token", "encoder_to_decoder.", "norm.")
"""Weights of a pre-training checkpoint that fine-tuning drops, by the start of their names.

`norm.` is the encoder's last norm, which mean pooling replaces by `fc_norm`."""

FRESH = ("fc_norm.", "head.")
"""Weights that a pre-training checkpoint lacks and that start fresh in fine-tuning."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, opened and checked.

    Attributes:
        model: The model with its weights, in evaluation mode.
        kind: "fine-tuned", or "pre-trained" (head and final norm start fresh).
        info: What else the file holds: "epoch", "args" (the training arguments), "labels" in
            output order, "task", a `Task`, and "weights", the key that these were under.
        assumed: A sentence about what neither the weights nor the arguments tell, or None.
    """

    model: TPSBT
    kind: str
    info: dict[str, Any]
    assumed: str | None = None

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def load_checkpoint(
    path: Path, *, outputs: int | None = None, weights: Weights = "auto", **changes: Any
) -> Checkpoint:
    """Open a checkpoint and rebuild its model.

    The configuration is read from the file if it holds one, as ours does. Otherwise it is deduced
    from the shapes of the weights, the training arguments and the published values.

    Args:
        path: A `.pth` or `.safetensors` file of the authors, of this project or of other trainers;
            or a bundle that holds its weights, "lite-faces" among them.
        outputs: Width of the fresh head of a pre-training checkpoint.
        weights: "ema" for the moving average in the file, "model" for the weights themselves;
            "auto" for these, or else the average.
        changes: Fields of `TPSBTConfig` that overrule the file, such as `heads=4`.

    Raises:
        CheckpointError: the file is not a checkpoint, would run code, or belongs to another model;
            the message lists every weight missing, left over or of another shape.
        BundleError: the bundle is damaged.
    """
    path = weights_file(path)
    content = read_content(path)
    state, key = find_state(content, path, weights)
    info = _info(content, key)
    pretrained = any(name.startswith(("decoder.", "mask_token")) for name in state)
    if pretrained:
        state = {n: w for n, w in state.items() if not n.startswith(PRETRAINING_ONLY)}
    config, assumed = _configuration(state, content, info, path, changes)
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
    kind = "pre-trained" if pretrained else "fine-tuned"
    return Checkpoint(model.eval(), kind, info, assumed)


def weights_file(path: Path) -> Path:
    """The file of a checkpoint; of a bundle that of its weights. CheckpointError if it has none."""
    if path.is_file():
        return path
    folder = find_bundle(path)
    if not (folder / MANIFEST).is_file():
        return path
    weights = Bundle.open(folder).weights()
    if weights is None:
        raise CheckpointError(
            f"The bundle '{folder}' holds no weights. Give the checkpoint that it was made of, or "
            "a bundle that was exported with --keep-weights."
        )
    return weights


def _build(config: TPSBTConfig, weights: int, path: Path, device: str) -> TPSBT:
    try:
        if sum(config.depths) + len(config.stem) > weights:
            raise ValueError(f"{config} has more blocks than the file has weights ({weights})")
        with torch.device(device):
            return TPSBT(config)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        why = str(error)[:400]
        raise CheckpointError(f"'{path}' describes no possible TPSBT: {why}") from error


def _info(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """`Checkpoint.info` of a file whose weights are under a key."""
    info: dict[str, Any] = {"args": arguments_of(content) if key else {}, "weights": key}
    if key and isinstance(content.get("epoch"), int):
        info["epoch"] = content["epoch"]
    task = content.get("task") if key else None
    labels = task.get("labels") if isinstance(task, Mapping) else None
    if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
        info["labels"] = tuple(labels)
        with suppress(SvfapError):
            info["task"] = fitted(task, Task, CheckpointError)
    return info


def _configuration(
    state: dict[str, Tensor],
    content: Any,
    info: dict[str, Any],
    path: Path,
    changes: dict[str, Any],
) -> tuple[TPSBTConfig, str | None]:
    known = {f.name for f in fields(TPSBTConfig)}
    saved = content.get("config")
    try:
        if isinstance(saved, Mapping) and set(saved) <= known:
            return TPSBTConfig.from_dict({**saved, **changes}), None
        deduced = _deduce(state, info["args"], path)
        unknown = [name for name, value in {**deduced, **changes}.items() if value is None]
        if unknown:
            raise CheckpointError(
                f"'{path}': the weights do not determine {' and '.join(unknown)} "
                f"(width {deduced['width']}). Give {' '.join(f'--{name}' for name in unknown)}."
            )
        config = TPSBTConfig.from_dict({**deduced, **changes})
        _check_positions(state.pop("pos_embed", None), config, path)
        return config, _assumed(config, info["args"], changes)
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise CheckpointError(f"'{path}': {error}") from error


GEOMETRY = {"size": "input_size", "frames": "num_frames"}
"""What the weights do not tell, and the training arguments that do."""


def _assumed(
    config: TPSBTConfig, args: Mapping[str, Any], changes: Mapping[str, Any]
) -> str | None:
    names = [name for name, arg in GEOMETRY.items() if name not in changes and arg not in args]
    if not names:
        return None
    values = " and ".join(f"{name} {getattr(config, name)}" for name in names)
    options = " and ".join(f"--{name}" for name in names)
    return (
        f"Assumed: {values}, as published. The checkpoint does not tell; if it was trained "
        f"otherwise, its predictions are wrong without {options}."
    )


def _check_positions(table: Tensor | None, config: TPSBTConfig, path: Path) -> None:
    """CheckpointError if a table of positions, which some trainers save, has another length than
    the size and the number of frames give; its values follow from its length."""
    cells = (config.frames // config.tubelet) * (config.size // config.patch) ** 2
    if table is not None and table.ndim == 3 and table.shape[1] != cells:
        raise CheckpointError(
            f"'{path}' has positions for {table.shape[1]} tubelets; {config.frames} frames of "
            f"{config.size} px have {cells}. Give the --size and --frames that it was trained with."
        )


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
