"""Classifiers on parts of a model, trained one after another, and what is folded into the whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svfap_edge.training.model import (
    IMAGENET_STD,
    TPSBT,
    CrossSelfBlock,
    TemporalDownsample,
    conv_stem,
)

from .photographs import GREY_STD, LUMA


def stem_of(model: TPSBT) -> nn.Sequential:
    """The stem of a model that has one, as `lite` does."""
    assert model.patch_embed.stem is not None
    return model.patch_embed.stem


@torch.no_grad()
def fold_luminance(model: TPSBT) -> None:
    """Make the first convolution read normalized RGB exactly as the luminance it learned from."""
    first = stem_of(model)[0]
    assert isinstance(first, nn.Conv2d)
    channels = (LUMA * torch.tensor(IMAGENET_STD) / GREY_STD).view(1, 3, 1, 1)
    first.weight.copy_(first.weight.sum(1, keepdim=True) * channels)


@torch.no_grad()
def fold_temperature(model: TPSBT, logits: Tensor, labels: Tensor) -> None:
    """Scale the last layer so that the model's probabilities fit labels best; its answers stay.

    A model that learns from other models' answers and from mixed photographs gives too even
    probabilities (Guo et al., "On calibration of modern neural networks", 2017).

    Args:
        logits: Logits (n, L) of the model for photographs that it was not trained on.
        labels: Label indices (n,) of these photographs.
    """
    scales = torch.logspace(-1, 1, 401)
    losses = torch.stack([F.cross_entropy(logits * scale, labels) for scale in scales])
    best = scales[losses.argmin()]
    model.head.weight.mul_(best)
    model.head.bias.mul_(best)


class StemClassifier(nn.Module):
    """A pooled stem of some channels: single frames (B, 3, 1, H, W) to logits (B, L)."""

    def __init__(self, channels: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.stem = conv_stem(channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(channels[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.stem(images[:, :, 0]).mean((2, 3))))


class TubeletClassifier(nn.Module):
    """Stem and stage 1 of a model on single tubelets; the repeated frame is not computed twice."""

    def __init__(self, model: TPSBT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 1, H, W)
        model, config = self.model, self.model.config
        maps = stem_of(model)(images[:, :, 0])
        proj = model.patch_embed.proj
        weight = proj.weight.sum(2)
        tokens = F.conv2d(maps, weight, proj.bias, stride=weight.shape[-1])
        tokens = tokens.flatten(2).transpose(1, 2)
        code = model.position_code.view(config.time_steps, config.positions, -1)
        steps = torch.zeros(len(images), dtype=torch.long, device=tokens.device)
        if self.training:
            steps.random_(config.time_steps)
        tokens = tokens + code[steps]
        for block in model.blocks[: config.depths[0]]:
            tokens = block(tokens)
        return model.classify(model.fc_norm(tokens.mean(1)))


class ClipClassifier(nn.Module):
    """The whole model, with a stem that is not trained: (B, 3, T, H, W) to logits (B, L)."""

    def __init__(self, model: TPSBT) -> None:
        super().__init__()
        self.model = model
        stem_of(model).requires_grad_(False)

    def train(self, mode: bool = True) -> ClipClassifier:
        super().train(mode)
        stem_of(self.model).eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(clips)


@torch.no_grad()
def start_later_stages_as_identity(model: TPSBT) -> None:
    """Make the stages after the first average over time and change their tokens very little."""
    for downsample in model.temporal_downsamples:
        assert isinstance(downsample, TemporalDownsample) and downsample.bias is not None
        eye = torch.eye(downsample.weight.shape[0]) / downsample.weight.shape[2]
        downsample.weight.copy_(eye[..., None].expand_as(downsample.weight))
        downsample.bias.zero_()
    for block in model.blocks:
        if isinstance(block, CrossSelfBlock):
            for last in (block.cross_attn.proj, block.attn.proj, block.mlp.fc2):
                last.weight.mul_(0.05)
                last.bias.zero_()
