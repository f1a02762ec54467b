"""What can be set for pre-training and fine-tuning, with the published values as defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from msgspec import Meta

from svfap_edge.training.checkpoint_file import Weights
from svfap_edge.training.clips.augment import AugmentSettings
from svfap_edge.training.clips.mixing import FramingSettings, MixSettings
from svfap_edge.training.config import (
    BelowOne,
    Count,
    NotNegative,
    NotNegativeWhole,
    Positive,
    PositiveShare,
    Share,
)


@dataclass(frozen=True)
class ModelSettings:
    """The network. A field that is None has the value of the preset.

    Attributes:
        preset: "base" (as published) or "lite".
        start: Checkpoint to start from, pre-trained or fine-tuned, or a bundle that holds its
            weights, such as lite-faces, the model in the package; None for fresh weights.
        weights: Which weights of `start`: "auto", "model", or "ema" for the moving average.
        drop_path: Stochastic depth at the last block (0.1 as published; 0 in pre-training).
    """

    preset: str = "lite"
    start: str | None = None
    weights: Weights = "auto"
    size: int | None = None
    frames: int | None = None
    patch: int | None = None
    width: int | None = None
    heads: int | None = None
    depths: tuple[int, ...] | None = None
    stem: tuple[int, ...] | None = None
    drop_path: BelowOne = 0.1

    def changes(self) -> dict[str, Any]:
        """The fields that replace those of the preset's configuration."""
        names = ("size", "frames", "patch", "width", "heads", "depths", "stem")
        return {n: v for n in names if (v := getattr(self, n)) is not None}


@dataclass(frozen=True)
class DataSettings:
    """The data that are read, and how.

    Attributes:
        train, val: List in the published format, or a folder of labelled images or videos.
        test: List or folder that is evaluated once, at the end, with the best weights; None for
            none.
        task: Name of a task, see `svfap_edge.tasks`; one of your own needs `labels` and
            may go without a name.
        labels: Output order; None for the one of the task.
        kind: Kind of a task of your own: "classes", "values" or "traits"; None for classes.
        range: Lowest and highest value of a task of your own; None for 0 and 1.
        ignore: Labels whose files are left out, each a name or an index.
        stride: Frames between sampled frames at 25 fps; None for the one of the task.
        views: Temporal views averaged in evaluation; 2 as published.
        repeats: Augmented copies of a clip in a batch (Hoffer et al. 2020; VideoMAE takes 2).
        balance: Exponent: a class is drawn in proportion to its count ** balance. With 1 classes
            come as often as they are in the list, with 0 all equally often.
        workers: Loader processes of each training process.
        unreadable: Share of the files of a list that may be unreadable before training stops.
            With 0 none may be; above 0 always 10 files, or half of a list of fewer than 20.
    """

    train: str = ""
    val: str = ""
    test: str | None = None
    task: str = ""
    labels: tuple[str, ...] | None = None
    kind: str | None = None
    range: tuple[float, float] | None = None
    ignore: tuple[str, ...] = ()
    stride: Count | None = None
    views: Count = 2
    repeats: Count = 1
    balance: Share = 1.0
    workers: NotNegativeWhole = 0
    unreadable: Share = 0.01


@dataclass(frozen=True)
class OptimSettings:
    """AdamW (Loshchilov and Hutter 2019) with warm-up and a cosine.

    Attributes:
        epochs: Times that the training list is gone through.
        batch: Clips that a process takes at once.
        accumulate: Batches whose gradients are summed before a step.
        rate: Learning rate for `rate_batch` clips, scaled linearly to the global batch
            (Goyal et al. 2017).
        rate_batch: Clips of a global batch for which `rate` and `least_rate` are given.
        least_rate: Learning rate at the end of the cosine, scaled like `rate`.
        warmup_epochs: Epochs in which the rate rises to its peak, fewer than `epochs`; None for 5,
            as published, but a quarter of `epochs` at most.
        weight_decay: Decay of the weights, as in AdamW.
        beta1, beta2: Momenta of AdamW's two averages.
        layer_decay: Factor on the rate from each layer to the one below (Bao et al. 2022).
        clip_norm: Largest norm of the gradient; 0 for no limit.
        average: Momentum of a moving average of the weights; the average is then evaluated and
            saved instead of the weights. 0 for none.
    """

    epochs: Count = 100
    batch: Count = 32
    accumulate: Count = 1
    rate: Positive = 1e-3
    rate_batch: Count = 256
    least_rate: NotNegative = 1e-6
    warmup_epochs: NotNegative | None = None
    weight_decay: NotNegative = 0.05
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    layer_decay: PositiveShare = 0.75
    clip_norm: NotNegative = 0.0
    average: BelowOne = 0.0

    def __post_init__(self) -> None:
        if self.least_rate > self.rate:
            raise ValueError(f"least_rate must be in 0..rate; got {self.rate}, {self.least_rate}")
        if self.warmup >= self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup:g}) must be less than epochs ({self.epochs})"
            )

    @property
    def warmup(self) -> float:
        """Epochs in which the rate rises."""
        return min(5.0, self.epochs / 4) if self.warmup_epochs is None else self.warmup_epochs


@dataclass(frozen=True)
class RunSettings:
    """Where and how training runs. Lightning Fabric explains accelerator, devices and precision.

    Attributes:
        output: Folder of checkpoints, logs and the report.
        seed: Seed; all randomness is a function of it and of the position in training.
        strategy: "fsdp" shards weights, gradients and optimizer; see `train.strategy_of`.
        threads: Threads of each process on the CPU; None leaves the number to PyTorch.
        validate_every: Epochs between evaluations; the last epoch always has one.
        save_every: Seconds between resume checkpoints inside an epoch.
        tensorboard: Whether figures are also written for TensorBoard.
    """

    output: str = ""
    seed: NotNegativeWhole = 0
    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    nodes: Count = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    threads: Count | None = None
    validate_every: Count = 1
    save_every: NotNegative = 300.0
    tensorboard: bool = True


@dataclass(frozen=True)
class LossSettings:
    """The loss that is minimized.

    Attributes:
        kind: Name of the loss; "auto" is cross-entropy for classes, CCC for values, MSE for
            traits.
        smoothing: Share of the target that is spread over all classes (Szegedy et al. 2016).
    """

    kind: Literal["auto", "cross-entropy", "ccc", "mse"] = "auto"
    smoothing: BelowOne = 0.1


@dataclass(frozen=True)
class FinetuneConfig:
    """All settings of `svfap-edge finetune`."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    mixing: MixSettings = field(default_factory=MixSettings)
    framing: FramingSettings = field(default_factory=FramingSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    run: RunSettings = field(default_factory=RunSettings)


@dataclass(frozen=True)
class MaskingSettings:
    """Masked auto-encoding; the decoder as published (Sun et al. 2024).

    Attributes:
        ratio: Share of the positions that are hidden, the same ones at every time step.
        decoder_width, decoder_depth, decoder_heads: Size of the decoder, of its blocks and heads.
        picture_every: Epochs between pictures of input, mask and reconstruction.
        fusion: How the decoder joins stages; see `svfap_edge.training.masked.DecoderConfig`.
    """

    ratio: Annotated[float, Meta(gt=0, lt=1, description="a number between 0 and 1")] = 0.9
    decoder_width: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    picture_every: Count = 1
    fusion: Literal["published", "aligned"] = "published"


PUBLISHED_OPTIM = OptimSettings(rate=3e-4, beta2=0.95, layer_decay=1.0)
LITTLE = replace(AugmentSettings.none(), crop_area=0.5, crop_ratio=4 / 3, flip=0.5, motion=1.0)
"""A crop and a mirror image, as published, and motion for photographs."""


@dataclass(frozen=True)
class PretrainConfig:
    """All settings of `svfap-edge pretrain`. Labels in the lists are not read."""

    model: ModelSettings = field(default_factory=lambda: ModelSettings(drop_path=0.0))
    data: DataSettings = field(default_factory=DataSettings)
    masking: MaskingSettings = field(default_factory=MaskingSettings)
    augment: AugmentSettings = LITTLE
    optim: OptimSettings = PUBLISHED_OPTIM
    run: RunSettings = field(default_factory=RunSettings)
