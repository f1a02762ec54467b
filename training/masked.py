"""The masked auto-encoder that pre-trains the TPSBT encoder.

Sun et al., "SVFAP: Self-supervised Video Facial Affect Perceiver", IEEE Transactions on
Affective Computing, 2024, after He et al. 2022 (MAE) and Tong et al. 2022 (VideoMAE): the
encoder reads the few visible tubelets, a small decoder predicts the pixels of the others.

State-dict names equal the published ones, so the authors' pre-training checkpoints load by name.
Shapes in comments are as in `model.py`, with V visible and M masked tokens of a clip, V + M = t*s.

>>> config = preset("lite")
>>> model = MaskedAutoencoder(config)
>>> mask = tube_mask(2, config.time_steps, config.positions)
>>> loss = masked_loss(model(clips, mask), pixel_targets(clips, mask, config))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LAYER_NORM_EPS,
    Block,
    Encoder,
    TPSBTConfig,
    sinusoid_table,
)

MASK_RATIO = 0.9  # Tong et al. 2022 and Sun et al. 2024
TARGET_EPS = 1e-6  # added to a patch's deviation (Tong et al. 2022)
MASK_TOKEN_STD = 0.02  # truncated at one deviation, as published
FUSIONS = ("published", "aligned")


@dataclass(frozen=True)
class DecoderConfig:
    """The pre-training decoder, a plain transformer; the defaults are the published ones.

    Attributes:
        width: Width of a token.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of a block's MLP, as a multiple of `width`.
        fusion: How the shorter outputs of later stages are stretched before the stages are
            summed. "published" repeats each token along the flat token axis, as the authors' code
            does: with more than one visible position, tokens of other positions are summed.
            "aligned" repeats whole time steps, so that position meets position. The weights have
            the same names and shapes either way; fine-tuning uses the last stage alone.
    """

    width: int = 384
    depth: int = 4
    heads: int = 6
    mlp_ratio: int = 4
    fusion: str = "published"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"DecoderConfig: width must be a multiple of heads. Got {self}.")
        if self.depth < 1:
            raise ValueError(f"DecoderConfig: at least one block is needed. Got {self}.")
        if self.fusion not in FUSIONS:
            raise ValueError(f"DecoderConfig: fusion is one of {', '.join(FUSIONS)}. Got {self}.")


def tube_mask(
    batch: int,
    time_steps: int,
    positions: int,
    ratio: float = MASK_RATIO,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random masks (B, t*s) bool, True = masked (Tong et al. 2022, tube masking).

    Each clip hides its own int(ratio * positions) positions, at all of its time steps. The masks
    are made on the generator's device, or on the CPU. A ratio that masks no position or leaves
    none visible is a ValueError.
    """
    masked = int(ratio * positions)
    if not 0 < masked < positions:
        raise ValueError(
            f"A mask ratio of {ratio} hides {masked} of {positions} positions; at least one must "
            "be hidden and one visible."
        )
    device = generator.device if generator is not None else None
    noise = torch.rand(batch, positions, generator=generator, device=device)
    tube = noise.argsort(dim=1).argsort(dim=1) < masked  # (B, s): the rank of each position
    return tube.repeat(1, time_steps)


def token_order(mask: Tensor, config: TPSBTConfig) -> tuple[Tensor, Tensor]:
    """Indices of the visible (B, V) and of the masked tokens (B, M), each ascending."""
    tokens = config.time_steps * config.positions
    if mask.dtype != torch.bool or mask.ndim != 2 or mask.shape[1] != tokens:
        raise ValueError(
            f"A mask must be (B, {tokens}) bool; got {tuple(mask.shape)} {mask.dtype}."
        )
    tube = mask.unflatten(1, (config.time_steps, -1))
    counts = mask.sum(dim=1)
    if bool((tube != tube[:, :1]).any() | (counts != counts[0]).any() | (counts == tokens).any()):
        raise ValueError(
            "A mask must hide the same positions at all time steps, as many in every clip, and "
            "leave some visible. Make it with tube_mask."
        )
    order = mask.byte().argsort(dim=1, stable=True)
    visible = tokens - int(counts[0])
    return order[:, :visible], order[:, visible:]


def select(x: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, ...) at `index` (B, K): (B, K, ...)."""
    return x[torch.arange(len(index), device=index.device)[:, None], index]


class MaskedEncoder(Encoder):
    """The encoder on visible tokens; its output is the normed sum of all stages."""

    def __init__(self, config: TPSBTConfig, fusion: str) -> None:
        super().__init__(config)
        self.fusion = fusion
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    def embed(self, clips: Tensor, mask: Tensor, visible: Tensor) -> Tensor:
        """Visible tokens (B, V, C) with their position codes.

        The convolutions of a stem reach over patch borders, so masked pixels are set to the mean
        colour before it; without a stem a token sees its own pixels only.
        """
        if self.config.stem:
            clips = clips.masked_fill(pixel_mask(mask, self.config), 0)
        return select(self.patch_embed(clips) + self.position_code, visible)

    def fuse(self, outputs: list[Tensor]) -> Tensor:
        """The sum of all stages (B, t_i*V/t, C), later ones stretched to the first's length."""
        fused = outputs[0]
        length = fused.shape[1]
        group = 1 if self.fusion == "published" else length // self.config.time_steps
        for x in outputs[1:]:
            groups = x.unflatten(1, (-1, group))
            fused = fused + groups.repeat_interleave(length // x.shape[1], dim=1).flatten(1, 2)
        return fused

    def forward(self, clips: Tensor, mask: Tensor, visible: Tensor) -> Tensor:
        return self.norm(self.fuse(self.stages(self.embed(clips, mask, visible))))


class Decoder(nn.Module):
    """Blocks over visible and then masked tokens, to the pixel values of the masked ones."""

    position_code: Tensor

    def __init__(self, config: DecoderConfig, tokens: int, values: int) -> None:
        super().__init__()
        table = sinusoid_table(tokens, config.width)
        self.register_buffer("position_code", table, persistent=False)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, drop_path=0.0)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(config.width, values)

    def forward(self, x: Tensor, visible: int) -> Tensor:
        """Tokens (B, V + M, C) to the values of the last M tokens (B, M, values)."""
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, visible:]))


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder of pre-training; fine-tuning keeps the encoder without its last norm."""

    def __init__(self, config: TPSBTConfig, decoder: DecoderConfig | None = None) -> None:
        super().__init__()
        decoder = decoder or DecoderConfig()
        self.config = config
        self.decoder_config = decoder
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.encoder = MaskedEncoder(config, decoder.fusion)
        self.encoder_to_decoder = nn.Linear(config.width, decoder.width, bias=False)
        tokens = config.time_steps * config.positions
        self.decoder = Decoder(decoder, tokens, 3 * config.tubelet * config.patch**2)
        self.apply(_initialize)
        limit = MASK_TOKEN_STD
        nn.init.trunc_normal_(self.mask_token, std=MASK_TOKEN_STD, a=-limit, b=limit)
        if not config.stem:
            nn.init.xavier_uniform_(self.encoder.patch_embed.proj.weight.data.flatten(1))

    def forward(self, clips: Tensor, mask: Tensor) -> Tensor:
        """Predict the normalized pixels of masked tokens, in the layout of `pixel_targets`.

        Args:
            clips: (B, 3, T, H, W) normalized RGB.
            mask: (B, t*s) bool, True = masked, from `tube_mask`; others are a ValueError.

        Returns:
            (B, M, tubelet * patch * patch * 3), masked tokens in ascending order.
        """
        visible, masked = token_order(mask, self.config)
        code = self.decoder.position_code.expand(len(clips), -1, -1)
        known = self.encoder_to_decoder(self.encoder(clips, mask, visible))
        known = known + select(code, visible)
        hidden = self.mask_token + select(code, masked)
        return self.decoder(torch.cat((known, hidden), dim=1), visible.shape[1])


def _initialize(module: nn.Module) -> None:
    """Initialize linear layers by Xavier uniform, as MAE does (He et al. 2022).

    Convolutions of a stem and along time keep PyTorch's default.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def pixel_mask(mask: Tensor, config: TPSBTConfig) -> Tensor:
    """Token masks (B, t*s) as masks of pixels (B, 1, T, H, W)."""
    side = config.size // config.patch
    mask = mask.view(-1, 1, config.time_steps, side, side)
    for dim, repeats in ((2, config.tubelet), (3, config.patch), (4, config.patch)):
        mask = mask.repeat_interleave(repeats, dim=dim)
    return mask


def to_pixels(clips: Tensor) -> Tensor:
    """Normalized RGB clips (B, 3, T, H, W) to RGB in 0..1, float32."""
    shape = (1, 3, 1, 1, 1)
    std, mean = clips.new_tensor(IMAGENET_STD).float(), clips.new_tensor(IMAGENET_MEAN).float()
    return clips.float() * std.view(shape) + mean.view(shape)


def patches_of(clips: Tensor, config: TPSBTConfig) -> Tensor:
    """Clips (B, 3, T, H, W) cut into tubelet patches (B, t*s, tubelet * patch * patch, 3)."""
    batch, side, patch = len(clips), config.size // config.patch, config.patch
    x = clips.reshape(batch, 3, config.time_steps, config.tubelet, side, patch, side, patch)
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, -1, config.tubelet * patch**2, 3)


def clips_of(patches: Tensor, config: TPSBTConfig) -> Tensor:
    """The inverse of `patches_of`."""
    batch, side, patch = len(patches), config.size // config.patch, config.patch
    x = patches.reshape(batch, config.time_steps, side, side, config.tubelet, patch, patch, 3)
    shape = (batch, 3, config.frames, config.size, config.size)
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(shape)


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Each patch's mean and deviation per colour channel, (B, N, 1, 3) each."""
    return patches.mean(2, keepdim=True), patches.std(2, keepdim=True) + TARGET_EPS


def pixel_targets(clips: Tensor, mask: Tensor, config: TPSBTConfig) -> Tensor:
    """What the model is to predict: masked patches (B, M, tubelet * patch * patch * 3), float32.

    From the pixels in 0..1 the mean of their own patch and colour channel is subtracted, and they
    are divided by its unbiased deviation (He et al. 2022; per channel: Tong et al. 2022). The
    colour varies fastest, then the column, the row, the frame.
    """
    _, masked = token_order(mask, config)
    patches = select(patches_of(to_pixels(clips), config), masked)
    mean, deviation = _moments(patches)
    return ((patches - mean) / deviation).flatten(2)


def masked_loss(prediction: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over all masked pixels, in float32 whatever the prediction's type."""
    return F.mse_loss(prediction.float(), targets)


@torch.no_grad()
def reconstruct(clips: Tensor, mask: Tensor, prediction: Tensor, config: TPSBTConfig) -> Tensor:
    """A prediction as a clip: RGB (B, 3, T, H, W) in 0..1, float32.

    Visible patches come from the clip. Mean and deviation of the masked ones come from it, too,
    because the model predicts pixels relative to them: only structure within a patch is predicted.
    """
    _, masked = token_order(mask, config)
    patches = patches_of(to_pixels(clips), config)
    mean, deviation = _moments(select(patches, masked))
    pixels = prediction.float().unflatten(2, (-1, 3)) * deviation + mean
    patches.scatter_(1, masked[..., None, None].expand_as(pixels), pixels)
    return clips_of(patches, config).clamp(0, 1)
