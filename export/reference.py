"""What PyTorch answers: the truth that an export is held to."""

from __future__ import annotations

import numpy as np
import torch

from svfap_edge.training.model import TPSBT

from .onnx_from_model import IMAGENET_MEAN, IMAGENET_STD


@torch.no_grad()
def torch_logits(model: TPSBT, clips: np.ndarray) -> np.ndarray:
    """The reference: (N, T, H, W, 3) uint8 through the PyTorch model in float32, one at a time."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    rows = []
    for clip in clips:
        pixels = (torch.from_numpy(np.array(clip)).double() / 255 - mean) / std  # (T, H, W, 3)
        rows.append(model(pixels.float().permute(3, 0, 1, 2)[None]))
    return torch.cat(rows).numpy()
