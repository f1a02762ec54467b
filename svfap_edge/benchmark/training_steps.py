"""Clips a second of a training step, beside the same step written as in the published code.

Each variant runs in a fresh process, the variants take turns, and a ratio is that of the medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from svfap_edge.errors import ConfigError

from .processes import run_apart
from .pytorch import write_attention_out

PLAIN = "plain fp32"
VARIANTS = (PLAIN, "fused fp32", "fused bf16")
WARM_UP = 2
"""Steps made before those that count."""


@dataclass(frozen=True)
class TrainingSpeed:
    """How fast a model trains in one variant.

    Attributes:
        preset, variant: Out of `PRESETS` of the model, and out of `VARIANTS`.
        clips_per_s: Median over all steps of all rounds.
        ratio: `clips_per_s` divided by that of the plain variant.
    """

    preset: str
    variant: str
    clips_per_s: float
    ratio: float


def time_training(
    presets: Sequence[str],
    *,
    batch: int = 8,
    rounds: int = 3,
    steps: int = 3,
    progress: Callable[[str], None] = lambda message: None,
) -> list[TrainingSpeed]:
    """Time every variant of every preset: `rounds` processes, each of `steps` steps that count.
    ConfigError without a preset of that name; see `run_apart` for other errors."""
    from svfap_edge.training.model import PRESETS

    for preset in presets:
        if preset not in PRESETS:
            raise ConfigError(f"No model preset '{preset}'. Presets: {', '.join(PRESETS)}.")
    found = []
    for preset in presets:
        rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for number in range(rounds):
            for variant, row in rates.items():
                what = f"{preset}, {variant}"
                progress(f"Round {number + 1} of {rounds}: {what}")
                row += run_apart(
                    train,
                    f"Training {what}",
                    name=preset,
                    variant=variant,
                    batch=batch,
                    steps=steps,
                )
        medians = {variant: float(np.median(row)) for variant, row in rates.items()}
        found += [
            TrainingSpeed(preset, variant, median, median / medians[PLAIN])
            for variant, median in medians.items()
        ]
    return found


def train(name: str, variant: str, batch: int, steps: int) -> list[float]:
    """Train in this process; the clips a second of each counted step."""
    import torch

    from svfap_edge.training.model import TPSBT, preset

    if variant == PLAIN:
        write_attention_out()
    torch.manual_seed(0)
    config = preset(name, drop_path=0.1)
    model = TPSBT(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    clips = torch.randn(batch, 3, config.frames, config.size, config.size)
    labels = torch.arange(batch) % config.outputs
    found = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.endswith("bf16")):
            outputs = model(clips)
        loss = torch.nn.functional.cross_entropy(outputs.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found.append(batch / (time.perf_counter() - start))
    return found[WARM_UP:]
