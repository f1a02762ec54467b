"""Parameter groups, learning-rate schedule and losses of training."""

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
    """Depth of a parameter in the network: 0 for the patch embedding, then one a block.

    What stands between two stages belongs to the first block after it, what follows the last
    block (and a decoder) to the last layer, `sum(depths) + 1`.
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
    """(weight decay, factor on the rate) for each trained parameter by name.

    Vectors (biases, norms) have no weight decay. The factor is `layer_decay` to the power of the
    layers above (Clark et al. 2020; Bao et al. 2022).

    Args:
        prefix: Of the encoder's names, where the model holds more than the encoder.
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
    """AdamW over a model that may be wrapped for several devices; groups by the bare names."""
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
    """Learning rate of step 0..steps-1: linear warm-up, then half a cosine (Loshchilov and
    Hutter 2017) down to `least`."""
    if step < warm:
        return peak * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, momentum: float, update: int) -> None:
    """Move averaged weights towards those of a model after its update number `update`."""
    momentum = min(momentum, (update + 1) / (update + 10))  # the first weights count for little
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value.to(mean.dtype), 1 - momentum)
        else:
            mean.copy_(value)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, L) with soft targets (B, L), meaned over the batch."""
    return -(targets * F.log_softmax(outputs, dim=1)).sum(dim=1).mean()


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets)


def ccc_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 - CCC of each column of (B, L), meaned; CCC after Lin (1989), over the batch."""
    centred_x, centred_y = outputs - outputs.mean(0), targets - targets.mean(0)
    covariance = (centred_x * centred_y).mean(0)
    spread = centred_x.square().mean(0) + centred_y.square().mean(0)
    shift = (outputs.mean(0) - targets.mean(0)).square()
    return (1 - 2 * covariance / (spread + shift + 1e-8)).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": cross_entropy,
    "mse": mean_squared_error,
    "ccc": ccc_loss,
}
"""The loss that "auto" means for each kind of task: see `loss_of`."""


def loss_of(kind: str, task_kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of that name; "auto" by kind of task.

    Raises:
        ConfigError: cross-entropy for values, or a regression loss for classes.
    """
    default = {"classes": "cross-entropy", "values": "ccc", "traits": "mse"}[task_kind]
    name = default if kind == "auto" else kind
    if (name == "cross-entropy") != (task_kind == "classes"):
        raise ConfigError(f"loss.kind={name} does not fit {task_kind}; leave it at auto.")
    return LOSSES[name]
