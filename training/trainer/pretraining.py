"""Pre-training as a masked auto-encoder on lists of clips; labels are not read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from svfap_edge.errors import ConfigError, UnreadableClip
from svfap_edge.training.clips.augment import centre
from svfap_edge.training.clips.reading import Sampling
from svfap_edge.training.masked import (
    DecoderConfig,
    MaskedAutoencoder,
    masked_loss,
    pixel_mask,
    pixel_targets,
    reconstruct,
    to_pixels,
    tube_mask,
)
from svfap_edge.training.model import preset
from svfap_edge.training.protocols import normalize, sum_of_all
from svfap_edge.training.settings import PretrainConfig

from .curves import reconstruction_picture
from .objective import Objective, open_lists

STRIDE = 4  # frames between sampled frames at 25 fps, as published for VoxCeleb2
SHOWN = 4  # clips in a picture of reconstructions
VALIDATED = 512  # greatest number of clips of the validation list whose loss is computed


@dataclass(kw_only=True)
class Pretraining(Objective):
    """The objective of `svfap-edge pretrain`."""

    settings: PretrainConfig
    model: MaskedAutoencoder
    prefix = "encoder."
    sign = -1
    monitor = "val_loss"

    @classmethod
    def prepare(cls, settings: PretrainConfig) -> Pretraining:
        """Open the lists and the model; without `data.val`, clips of `data.train` are validated."""
        data = settings.data
        torch.manual_seed(settings.run.seed)
        model = _open_autoencoder(settings)
        stride = data.stride or STRIDE
        sampling = Sampling(model.config.frames, stride / 25, stride, 1)
        lists = open_lists(data, None, sampling, ("train",), ("val",))
        if data.balance != 1:
            raise ConfigError("Pre-training reads no labels; leave data.balance at 1.")
        return cls(settings=settings, model=model, config=model.config, lists=lists)

    @property
    def content(self) -> dict[str, Any]:
        return {**super().content, "decoder": asdict(self.model.decoder_config)}

    def clip_loss(
        self, model: nn.Module, clips: Tensor, items: Tensor, rng: np.random.Generator
    ) -> Tensor:
        mask = self._masks(len(clips)).to(clips.device)
        return masked_loss(model(clips, mask), pixel_targets(clips, mask, self.config))

    def _masks(self, count: int, seed: int | None = None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        steps, positions = self.config.time_steps, self.config.positions
        return tube_mask(count, steps, positions, self.settings.masking.ratio, generator)

    @torch.no_grad()
    def validate(self, fabric: Fabric, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Mean loss of validation clips, under masks that are the same in every epoch.

        It is NaN where no clip could be read.
        """
        model.eval()
        indices = self.val.spread(VALIDATED)
        size = self.settings.optim.batch
        total, seen = 0.0, 0
        for first in range(0, len(indices), fabric.world_size * size):
            start = first + fabric.global_rank * size
            clips = self._clips(indices[start : start + size]).to(fabric.device)
            if len(clips) == 0:
                continue
            mask = self._masks(len(clips), seed=start).to(fabric.device)
            with fabric.autocast():
                prediction = model(clips, mask)
            loss = masked_loss(prediction, pixel_targets(clips, mask, self.config))
            total, seen = total + float(loss) * len(clips), seen + len(clips)
        if fabric.world_size > 1:
            sums = torch.tensor([total, seen], dtype=torch.float64, device=fabric.device)
            total, seen = sum_of_all(fabric, sums).tolist()
        every = self.settings.masking.picture_every
        due = epoch % every == 0 or epoch == self.settings.optim.epochs
        if due and fabric.is_global_zero:
            chosen = indices[np.linspace(0, len(indices) - 1, SHOWN).round().astype(int)]
            clips = self._clips(chosen).to(fabric.device)
            if len(clips) > 0:
                self._picture(fabric, model, epoch, clips)
        return {"val_loss": total / seen if seen else math.nan}

    def _picture(self, fabric: Fabric, model: nn.Module, epoch: int, clips: Tensor) -> None:
        """Write `reconstruction-EPOCH.png`."""
        mask = self._masks(len(clips), seed=0).to(fabric.device)
        with fabric.autocast():
            prediction = model(clips, mask)
        rebuilt = reconstruct(clips, mask, prediction, self.config)
        shown = (to_pixels(clips), pixel_mask(mask, self.config), rebuilt)
        picture = reconstruction_picture(*(each.cpu().numpy() for each in shown))
        path = Path(self.settings.run.output) / f"reconstruction-{epoch:04d}.png"
        path.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())

    def _clips(self, indices: np.ndarray) -> Tensor:
        """Normalized validation clips (B, 3, T, S, S), without those that cannot be read."""
        found = []
        for index in indices:
            try:
                found.append(centre(self.val.read(int(index)), self.config.size))
            except UnreadableClip as error:
                self.log_of(self.val).add(error)
        return normalize(torch.from_numpy(np.stack(found))) if found else torch.empty(0)


def _open_autoencoder(settings: PretrainConfig) -> MaskedAutoencoder:
    model, masking = settings.model, settings.masking
    if model.start is not None:
        raise ConfigError(
            "model.start is for fine-tuning. To go on with an earlier pre-training use --resume."
        )
    try:
        config = preset(model.preset, **model.changes(), drop_path=model.drop_path)
        decoder = DecoderConfig(
            masking.decoder_width, masking.decoder_depth, masking.decoder_heads,
            fusion=masking.fusion,
        )  # fmt: skip
        return MaskedAutoencoder(config, decoder)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model or masking: {error}") from error
