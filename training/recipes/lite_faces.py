"""Train the default `lite` model on a folder of labelled face photographs.

    python -m svfap_edge.training.recipes.lite_faces FACES -o lite-faces.pth

FACES holds `train/` and `val/`, each with one folder of images per label. Three phases, each with a
moving average of the weights:

1. `stem`: the residual stem alone, pooled, learns photographs; convolutions learn soonest.
2. `tubelets`: stem and stage 1 go on with single tubelets (both frames the same photograph) at
   random time steps of the position code. Half of each target is the answer of the model of phase 1
   to the same augmented and mixed view ("function matching": Beyer et al., "Knowledge distillation:
   A good teacher is patient and consistent", 2022), because many of the labels are doubtful.
3. `clips`: the whole model learns photographs in smooth motion. 0.7 of each target is the answer of
   the model of phase 2 to the middle frame, without the borders that are put around faces. The
   later stages start as the identity on a temporal average; the stem is not trained any more.

Faces are learned in grey. Afterwards the weights are folded so that RGB input is read as luminance,
and the last layer is scaled so that the probabilities fit `val`.

Each phase leaves its weights beside the output (`lite-faces.stem` and so on); a run that was
stopped goes on after the last finished phase.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from svfap_edge.atomic import written_whole
from svfap_edge.training.model import TPSBT, TPSBTConfig, preset

from .classifiers import (
    ClipClassifier,
    StemClassifier,
    TubeletClassifier,
    fold_luminance,
    fold_temperature,
    start_later_stages_as_identity,
    stem_of,
)
from .phases import PHOTOGRAPHS, Model, Phase, fit, predict
from .photographs import LABELS, Faces, load_faces

MINUTES = {"stem": 28, "tubelets": 32, "clips": 12}  # of training, by the name of the phase


def make(
    config: TPSBTConfig,
    train: Faces,
    val: Faces,
    minutes: Mapping[str, float],
    output: Path,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Train all phases that have not been finished before, and return weights for RGB input.

    Each phase trains for the minutes of its name. The model must have a stem.
    """
    size = config.size

    def new() -> TPSBT:
        model = TPSBT(config)
        stem_of(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def trained(
        model: Model, name: str, frames: int, batch: int, rate: float, **more: Any
    ) -> Model:
        """The model with the weights of a phase, which an earlier run may have left."""
        path = output.with_suffix(f".{name}")
        if not path.exists():
            phase_seed = seed + list(MINUTES).index(name)
            phase = Phase(name, minutes[name], frames, batch, rate, phase_seed, **more)
            weights = fit(model, train, val, size, phase).state_dict()
            with written_whole(path) as part:
                torch.save(weights, part)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model

    stem = trained(StemClassifier(new()), "stem", 1, 128, 2e-3)
    model = new()
    stem_of(model).load_state_dict(stem.stem.state_dict())
    tubelets = trained(
        TubeletClassifier(model), "tubelets", 1, 128, 7e-4, teacher=stem, share=0.5, borders=True
    )
    whole = new()
    whole.load_state_dict(tubelets.model.state_dict())
    start_later_stages_as_identity(whole)
    clips = trained(
        ClipClassifier(whole), "clips", config.frames, 24, 3e-4,
        augment=replace(PHOTOGRAPHS, motion=1.0), teacher=tubelets, share=0.7, borders=False,
    )  # fmt: skip
    logits = predict(clips, val.images, config.frames, size)
    fold_temperature(whole, logits, val.labels)
    fold_luminance(whole)
    return whole.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("faces", type=Path, help="Folder with train/ and val/.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--minutes",
        type=float,
        nargs=len(MINUTES),
        default=MINUTES.values(),
        help="Minutes of each phase.",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    cv2.setNumThreads(1)  # photographs are small: more threads only wait for each other
    train, val = load_faces(args.faces / "train"), load_faces(args.faces / "val")
    config = preset("lite", outputs=len(LABELS), drop_path=0.05)
    minutes = dict(zip(MINUTES, args.minutes, strict=True))
    weights = make(config, train, val, minutes, args.output, args.seed)
    torch.save({"model": weights, "config": config.to_dict()}, args.output)


if __name__ == "__main__":
    main()
