"""Clips a second of a training step, beside the same step written plainly.

    python -m svfap_edge.training.benchmark [--preset lite base] [--batch 8] [--rounds 3]

Plainly is as the published code is: fp32, the attention's three products written out, one weight
decay group after the other (AdamW's plain loop). Every variant runs in a fresh process of its own,
the processes alternate; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import torch
from torch import Tensor

from .model import TPSBT, preset

VARIANTS = ("plain fp32", "fused fp32", "fused bf16")
WARM_UP = 2


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in three steps, as in the published code."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v


def steps_of(variant: str, name: str, batch: int, steps: int) -> list[float]:
    """Clips a second of each step, in this process."""
    if variant == "plain fp32":
        torch.nn.functional.scaled_dot_product_attention = written_out  # type: ignore[assignment]
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
        loss.backward()
        optimizer.step()
        found.append(batch / (time.perf_counter() - start))
    return found[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", nargs="+", default=["lite", "base"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(steps_of(args.variant, args.preset[0], args.batch, args.steps)))
        return
    print("| model | step | clips/s | x plain |\n|---|---|---:|---:|")
    for name in args.preset:
        rows: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for _ in range(args.rounds):
            for variant, row in rows.items():
                options = ["--preset", name, "--variant", variant]
                options += ["--batch", str(args.batch), "--steps", str(args.steps)]
                module = "svfap_edge.training.benchmark"
                result = subprocess.run(
                    [sys.executable, "-m", module, *options],
                    stdout=subprocess.PIPE, text=True, check=True,
                )  # fmt: skip
                row += json.loads(result.stdout.splitlines()[-1])
        medians = {variant: float(np.median(row)) for variant, row in rows.items()}
        for variant, value in medians.items():
            ratio = value / medians["plain fp32"]
            print(f"| {name} | {variant} | {value:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
