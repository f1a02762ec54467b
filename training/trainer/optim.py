"""Parameter groups, learning-rate schedule, averaged weights and losses of training."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svfap_edge.errors import ConfigError
from svfap_edge.training.model import TPSBTConfig
from svfap_edge.training.settings import OptimSettings


def layer_of(name: str, depths: tuple[int, ...]) -> int:
    """Layer that a parameter belongs to: 0 for the patch embedding, then one for each block.

    A downsampling between two stages belongs to the first block after it. Everything after the last
    block, a decoder included, belongs to layer `sum(depths) + 1`.
    """
    last = sum(depths) + 1
    if name.startswith("patch_embed."):
        return 0
    if found := re.match(r"blocks\.(\d+)\.", name):
        return int(found[1]) + 1
    if found := re.match(r"(?:temporal|spatial)_downsamples\.(\d+)\.", name):
        return sum(depths[: int(found[1]) + 1]) + 1
    return last


def parameter_groups(
    model: nn.Module, config: TPSBTConfig, settings: OptimSettings, prefix: str = ""
) -> dict[str, tuple[float, float]]:
    """Name of each trained parameter to its weight decay and its factor on the rate.

    Vectors (biases, norms) have no weight decay. The factor is `layer_decay` to the power of the
    number of layers above (Clark et al. 2020; Bao et al. 2022). If the model holds more than the
    encoder, the names of the encoder's weights begin with `prefix`.
    """
    last = sum(config.depths) + 1
    found = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        inside = name.removeprefix(prefix) if name.startswith(prefix) else "head."
        factor = settings.layer_decay ** (last - layer_of(inside, config.depths))
        found[name] = (settings.weight_decay if weight.ndim > 1 else 0.0, factor)
    return found


def build_optimizer(
    model: nn.Module, groups: dict[str, tuple[float, float]], settings: OptimSettings
) -> torch.optim.AdamW:
    """AdamW over a model that a strategy may have wrapped; `groups` has the names without that."""
    rows: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        bare = re.sub(r"(?:_forward_module|_orig_mod|module)\.", "", name)
        if bare in groups:
            rows.setdefault(groups[bare], []).append(weight)
    return torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": decay, "factor": factor}
            for (decay, factor), weights in rows.items()
        ],
        lr=settings.rate,
        betas=(settings.beta1, settings.beta2),
    )


def rate_at(step: int, steps: int, warm: int, peak: float, least: float) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine (Loshchilov and Hutter 2017).

    Steps count from 0 to `steps` - 1. In the first `warm` of them the rate rises to its peak.
    """
    if step < warm:
        return peak * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of each group: `rate` times the factor of the group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, momentum: float, update: int) -> None:
    """Move averaged weights towards those of a model.

    The momentum is the share of the average that is kept; after few updates less of it is.
    """
    momentum = min(momentum, (update + 1) / (update + 10))
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value.to(mean.dtype), 1 - momentum)
        else:
            mean.copy_(value)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, L) with soft targets (B, L), averaged over the batch."""
    return -(targets * F.log_softmax(outputs, dim=1)).sum(dim=1).mean()


def ccc_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 - CCC (Lin 1989) of each column of (B, L) over the batch, averaged over the columns."""
    centred_x, centred_y = outputs - outputs.mean(0), targets - targets.mean(0)
    covariance = (centred_x * centred_y).mean(0)
    spread = centred_x.square().mean(0) + centred_y.square().mean(0)
    shift = (outputs.mean(0) - targets.mean(0)).square()
    return (1 - 2 * covariance / (spread + shift + 1e-8)).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": cross_entropy,
    "mse": F.mse_loss,
    "ccc": ccc_loss,
}
"""Losses by the name that `loss.kind` has for them."""


def loss_of(kind: str, task_kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a name; "auto" chooses it by the kind of the task."""
    default = {"classes": "cross-entropy", "values": "ccc", "traits": "mse"}[task_kind]
    name = default if kind == "auto" else kind
    if (name == "cross-entropy") != (task_kind == "classes"):
        raise ConfigError(f"loss.kind={name} does not fit {task_kind}; leave it at auto.")
    return LOSSES[name]
