"""The PyTorch model of a checkpoint, timed beside the artifacts: what they gain on it.

The reference is eager fp32 with the attention's three products written out, as in the published
code; beside it stands bf16 with fused attention.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NAME = "pytorch"
"""Stands where an artifact's row has its engine."""

REFERENCE = "fp32, attention written out"
FUSED = "bf16, attention fused"
VARIANTS = {REFERENCE: "f32", FUSED: "bf16"}
"""What is timed of a checkpoint, with the precision it computes in."""


def write_attention_out() -> None:
    """Let all models of this process compute attention in three steps, as the published code."""
    import torch

    torch.nn.functional.scaled_dot_product_attention = written_out  # type: ignore[assignment]


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in three steps. All tensors are (..., tokens, width)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    attended: Tensor = scores.softmax(dim=-1) @ v
    return attended


def open_model(
    checkpoint: Path, variant: str, threads: int | None
) -> Callable[[int], Callable[[], object]]:
    """Load a variant of a model into this process, whose PyTorch is set up for it.

    Returns:
        A function from a number of clips to the call that infers that many random ones.
    """
    import torch

    from svfap_edge.training.checkpoint import load_checkpoint

    if threads is not None:
        torch.set_num_threads(threads)
    model = load_checkpoint(checkpoint).model
    if variant == REFERENCE:
        write_attention_out()
    kind = torch.bfloat16 if VARIANTS[variant] == "bf16" else torch.float32
    model, config = model.to(kind), model.config

    def call_of(batch: int) -> Callable[[], object]:
        clips = torch.randn(batch, 3, config.frames, config.size, config.size, dtype=kind)
        return torch.inference_mode()(lambda: model(clips))

    return call_of
