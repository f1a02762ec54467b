"""TPSBT, the SVFAP encoder: temporal pyramid and spatial bottleneck transformer.

Sun et al., "SVFAP: Self-supervised Video Facial Affect Perceiver", IEEE Transactions on
Affective Computing, 2024. Stage 1 is a plain transformer over all tubelet tokens. Every later
stage halves the time axis with a strided convolution, pools each time step into a few
bottleneck tokens, lets these attend to the full tokens and to each other, and in its last
("reverse") block lets the full tokens read the bottleneck.

State-dict names equal the published ones, so the authors' checkpoints load by name. Letters in the
shapes of comments: B clips, T frames, N tokens, C width, h heads, d head width, t time steps,
s spatial positions, K bottleneck tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of RGB in 0..1; "normalized RGB" means these two, as in the published code."""

MAX_TOKENS = 1 << 16
"""Greatest number of tokens in a clip; the published model has 800.

The limit keeps a damaged checkpoint from asking for all memory."""

BOTTLENECK_HIDDEN = 128
"""Hidden width of the MLP that scores positions for the bottleneck, as in the published code."""


@dataclass(frozen=True)
class TPSBTConfig:
    """The configuration from which a model is rebuilt; our own checkpoints hold it.

    Attributes:
        size: Side of the square input in pixels.
        frames: Number of frames T in a clip.
        patch: Side of a patch in pixels.
        tubelet: Number of frames in a tubelet, which is one token.
        width: Width C of a token.
        heads: Number of attention heads.
        depths: Number of blocks of each stage; the last block of stages 2, 3, ... is the reverse
            block.
        bottleneck_tokens: Number of bottleneck tokens in a time step, for each stage after the
            first.
        temporal_kernel: Number of time steps that the downsampling between two stages joins.
        mlp_ratio: Hidden width of a block's MLP, as a multiple of `width`.
        outputs: Number of classes, or of values of a regression task.
        activation: What follows the head: "none", or "sigmoid" for traits in 0..1.
        stem: Channels of a residual network before the patch projection, see `conv_stem`; empty
            in the published model. Each entry halves the side, so the projection covers
            patch / 2**len(stem) pixels.
        drop_path: Probability of dropping the last block (stochastic depth); it grows linearly
            from 0 at the first.
    """

    size: int = 160
    frames: int = 16
    patch: int = 16
    tubelet: int = 2
    width: int = 512
    heads: int = 8
    depths: tuple[int, ...] = (12, 6, 3)
    bottleneck_tokens: tuple[int, ...] = (8, 8)
    temporal_kernel: int = 2
    mlp_ratio: int = 4
    outputs: int = 7
    activation: str = "none"
    stem: tuple[int, ...] = ()
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        def require(good: bool, what: str) -> None:
            if not good:
                raise ValueError(f"TPSBTConfig: {what}. Got {self}.")

        sides = (self.size, self.frames, self.patch, self.tubelet, self.width, self.heads)
        counts = (*sides, self.temporal_kernel, self.mlp_ratio, self.outputs)
        require(
            all(
                type(n) is int and n > 0
                for n in (*counts, *self.depths, *self.bottleneck_tokens, *self.stem)
            ),
            "sizes and counts are positive whole numbers",
        )
        stages = len(self.depths)
        require(self.size % self.patch == 0, "size must be a multiple of patch")
        require(self.frames % self.tubelet == 0, "frames must be a multiple of tubelet")
        require(self.width % self.heads == 0, "width must be a multiple of heads")
        require(stages > 0, "there must be at least one stage")
        require(
            self.time_steps * self.positions <= MAX_TOKENS,
            f"a clip has at most {MAX_TOKENS} tokens",
        )
        require(
            len(self.bottleneck_tokens) == stages - 1,
            "bottleneck_tokens needs one entry for each stage after the first",
        )
        require(
            (self.frames // self.tubelet) % self.temporal_kernel ** (stages - 1) == 0,
            "the time steps must divide evenly through every stage",
        )
        require(self.patch % 2 ** len(self.stem) == 0, "patch must be a multiple of 2**len(stem)")
        require(self.activation in ("none", "sigmoid"), "activation is 'none' or 'sigmoid'")

    @property
    def time_steps(self) -> int:
        """Time steps of stage 1."""
        return self.frames // self.tubelet

    @property
    def positions(self) -> int:
        """Spatial positions of one time step."""
        return (self.size // self.patch) ** 2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TPSBTConfig:
        """Rebuild a configuration from `to_dict`, whose tuples may have become lists in a file."""
        found: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**found)


BASE = TPSBTConfig()
"""The published model: 160 px, 77.6 M parameters, 43.5 G multiply-adds a clip."""

LITE = TPSBTConfig(
    size=96,
    width=160,
    heads=5,
    depths=(3, 2, 2),
    bottleneck_tokens=(8, 8),
    stem=(32, 64, 128, 224),
)
"""For small computers: 96 px, 5.3 M parameters; its convolutions learn from few faces."""

PRESETS = {"base": BASE, "lite": LITE}


def preset(name: str, **changes: Any) -> TPSBTConfig:
    """A named configuration, with fields changed.

    Raises:
        ValueError: there is no preset of that name, or the changed configuration is inconsistent.
    """
    if name not in PRESETS:
        raise ValueError(f"No model preset '{name}'. Presets: {', '.join(PRESETS)}.")
    return replace(PRESETS[name], **changes)


def sinusoid_table(positions: int, width: int) -> Tensor:
    """Fixed sine-cosine position code, (1, positions, width): Vaswani et al. 2017, eq. in 3.5."""
    channel = torch.arange(width, dtype=torch.float64)
    rate = 10000 ** (-2 * torch.div(channel, 2, rounding_mode="floor") / width)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * rate
    table = torch.where(channel % 2 == 0, angle.sin(), angle.cos())
    return table.float()[None]


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole samples (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of (B, N, C) to (B, M, C) by every head."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, h, N, d)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, N, C)


class Attention(nn.Module):
    """Self-attention. Queries and values have a bias, keys have none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        before, after = (0, 2 * len(self.q_bias)), (2 * len(self.v_bias), 0)
        bias = F.pad(self.q_bias, before) + F.pad(self.v_bias, after)  # (q, 0, v)
        q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)  # (B, N, C) each
        return self.proj(attend(q, k, v, self.heads))


class CrossAttention(nn.Module):
    """Attention of `x` to `context`; biases as in `Attention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = F.linear(x, self.q.weight, self.q_bias)  # (B, N, C)
        kv_bias = F.pad(self.v_bias, (len(self.v_bias), 0))  # (0, v)
        k, v = F.linear(context, self.kv.weight, kv_bias).chunk(2, dim=-1)  # (B, M, C) each
        return self.proj(attend(q, k, v, self.heads))


class Block(nn.Module):
    """A pre-norm transformer block, as in stage 1."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, mlp_ratio * width, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CrossSelfBlock(Block):
    """A block of stages 2, 3, ...: attention to the context, then a transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__(width, heads, mlp_ratio, drop_path)
        self.cross_norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.cross_norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.cross_attn = CrossAttention(width, heads)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        read = self.cross_attn(self.cross_norm1(x), self.cross_norm2(context))
        return super().forward(x + self.drop_path(read))


class SpatialBottleneck(nn.Module):
    """Pools the s positions of each time step into K tokens by learned soft assignment."""

    def __init__(self, width: int, tokens: int, time_steps: int) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, BOTTLENECK_HIDDEN, tokens)

    def forward(self, x: Tensor) -> Tensor:
        steps = (self.time_steps, -1)
        scores = self.mlp(self.norm(x)).unflatten(1, steps)  # (B, t, s, K)
        weights = scores.transpose(2, 3).softmax(dim=-1)  # (B, t, K, s)
        return (weights @ x.unflatten(1, steps)).flatten(1, 2)  # (B, t*K, C)


class TemporalDownsample(nn.Conv1d):
    """Strided convolution along time at every spatial position: (B, t*s, C) -> (B, t/k*s, C)."""

    def __init__(self, width: int, kernel: int, time_steps: int) -> None:
        super().__init__(width, width, kernel, stride=kernel)
        self.time_steps = time_steps  # t/k

    def forward(self, x: Tensor) -> Tensor:
        # The stride equals the kernel, so the convolution is one matrix product over k time steps.
        x = x.unflatten(1, (self.time_steps, self.kernel_size[0], -1))  # (B, t/k, k, s, C)
        x = x.transpose(2, 3)
        weight = self.weight.transpose(1, 2).flatten(1)  # (C, k*C)
        return F.linear(x.flatten(3), weight, self.bias).flatten(1, 2)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a skip (He et al. 2016): (B, c, H, W) to (B, c', H/s, W/s).

    If channels or size change, the skip is a convolution as wide as its stride.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.skip: nn.Conv2d | None = None
        if before != after or stride > 1:
            self.skip = nn.Conv2d(before, after, stride, stride=stride, bias=False)
            self.skip_norm = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.skip is not None:
            x = self.skip_norm(self.skip(x))
        return F.relu(x + y)


def conv_stem(channels: tuple[int, ...]) -> nn.Sequential:
    """A small residual network before the tokens (hybrid as in Dosovitskiy et al. 2021).

    A convolution of stride 2, then two residual units for each entry of `channels`, the first of
    which halves the side, except for the first entry.
    """
    first = channels[0]
    layers: list[nn.Module] = [
        nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
    ]
    for index, (before, after) in enumerate(zip((first, *channels), channels, strict=False)):
        layers += [Residual(before, after, 2 if index else 1), Residual(after, after, 1)]
    return nn.Sequential(*layers)


class PatchEmbed(nn.Module):
    """Clip to tubelet tokens: (B, 3, T, H, W) -> (B, t*s, C)."""

    def __init__(self, config: TPSBTConfig) -> None:
        super().__init__()
        side = config.patch // 2 ** len(config.stem)
        channels = config.stem[-1] if config.stem else 3
        kernel = (config.tubelet, side, side)
        self.stem = conv_stem(config.stem) if config.stem else None
        self.proj = nn.Conv3d(channels, config.width, kernel, stride=kernel)

    def forward(self, clips: Tensor) -> Tensor:
        if self.stem is not None:
            frames = self.stem(clips.transpose(1, 2).flatten(0, 1))  # (B*T, c, H', W')
            clips = frames.unflatten(0, (clips.shape[0], -1)).transpose(1, 2)
        return self.proj(clips).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """What pre-training and fine-tuning share: patch embedding, position code, stages."""

    position_code: Tensor

    def __init__(self, config: TPSBTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        table = sinusoid_table(config.time_steps * config.positions, config.width)
        self.register_buffer("position_code", table, persistent=False)

        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist()
        shape = (config.width, config.heads, config.mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(*shape, rate) if index < config.depths[0] else CrossSelfBlock(*shape, rate)
            for index, rate in enumerate(rates)
        )
        self.temporal_downsamples = nn.ModuleList()
        self.spatial_downsamples = nn.ModuleList()
        steps = config.time_steps
        for tokens in config.bottleneck_tokens:
            steps //= config.temporal_kernel
            self.temporal_downsamples.append(
                TemporalDownsample(config.width, config.temporal_kernel, steps)
            )
            self.spatial_downsamples.append(SpatialBottleneck(config.width, tokens, steps))

    def stages(self, x: Tensor) -> list[Tensor]:
        """Tokens (B, t*s, C) with position code, to the full tokens (B, t_i*s, C) of each stage.

        s may be a part of all positions, the same ones at every time step (tube masking).
        """
        blocks = iter(self.blocks)
        for _ in range(self.config.depths[0]):
            x = next(blocks)(x)
        outputs = [x]
        for stage, depth in enumerate(self.config.depths[1:]):
            full = self.temporal_downsamples[stage](outputs[-1])
            bottleneck = self.spatial_downsamples[stage](full)
            for _ in range(depth - 1):
                bottleneck = next(blocks)(bottleneck, full)
            # Reverse block: the full tokens read the bottleneck.
            outputs.append(next(blocks)(full, bottleneck))
        return outputs


class TPSBT(Encoder):
    """The fine-tuning model: encoder, mean pooling, norm, head.

    >>> model = TPSBT(preset("lite", outputs=7))
    >>> model(torch.zeros(1, 3, 16, 96, 96)).shape
    torch.Size([1, 7])
    """

    def __init__(self, config: TPSBTConfig) -> None:
        super().__init__(config)
        self.fc_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(config.width, config.outputs)
        self.apply(_initialize)

    def features(self, clips: Tensor) -> Tensor:
        """Normalized RGB clips (B, 3, T, H, W) to the pooled, normed feature (B, C)."""
        tokens = self.stages(self.patch_embed(clips) + self.position_code)[-1]
        return self.fc_norm(tokens.mean(dim=1))

    def forward(self, clips: Tensor) -> Tensor:
        """Normalized RGB clips (B, 3, T, H, W) to outputs (B, L)."""
        return self.classify(self.features(clips))

    def classify(self, features: Tensor) -> Tensor:
        """Feature (B, C) to outputs (B, L): logits, or values after the activation."""
        outputs = self.head(features)
        return outputs.sigmoid() if self.config.activation == "sigmoid" else outputs


QUANTIZERS = "__nncf_hooks"
"""What the names that quantization-aware training adds to a state dict begin with."""


def is_plain(name: str, value: Any = None) -> bool:
    """Whether an entry of a state dict belongs to the model itself, not to quantizers in it."""
    return not name.startswith(QUANTIZERS)


def _initialize(module: nn.Module) -> None:
    """Initialize linear layers by a truncated normal of deviation 0.02, as published."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
