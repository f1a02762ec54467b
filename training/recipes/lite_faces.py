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

Faces are learned in grey, because in the photographs this was written for, colour gives away the
source and thereby the label. Afterwards the weights are folded so that RGB input is read as
luminance, and the last layer is scaled so that the probabilities fit `val`.

Each phase leaves its weights beside the output (`lite-faces.stem` and so on); a run that was
stopped goes on after the last finished phase.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

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
from .phases import PHOTOGRAPHS, Phase, Teaching, fit, predict
from .photographs import LABELS, Faces, load_faces

MINUTES = {"stem": 28, "tubelets": 32, "clips": 12}  # of training, by the name of the phase


def kept(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The weights that an earlier run left at a path; if it left none, they are made and saved."""
    if not path.exists():
        weights = make()
        with written_whole(path) as part:
            torch.save(weights, part)
    found: dict[str, Tensor] = torch.load(path, weights_only=True)
    return found


def make(
    config: TPSBTConfig,
    train: Faces,
    val: Faces,
    minutes: Mapping[str, float],
    output: Path,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Train all phases that have not been finished before, and return weights for RGB input.

    The probabilities are fitted to `val`. Each phase trains for the minutes of its name, and its
    weights are saved beside `output`. The model must have a stem.
    """
    size = config.size

    def new(weights: dict[str, Tensor] | None = None) -> TPSBT:
        model = TPSBT(config)
        stem_of(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if weights is not None:
            model.load_state_dict(weights)
        return model

    def phase(name: str, frames: int, batch: int, rate: float) -> Phase:
        return Phase(name, minutes[name], frames, batch, rate, seed + list(MINUTES).index(name))

    def stem_weights() -> dict[str, Tensor]:
        model = StemClassifier(new())
        return fit(model, train, val, size, phase("stem", 1, 128, 2e-3)).state_dict()

    stem = StemClassifier(new())
    stem.load_state_dict(kept(output.with_suffix(".stem"), stem_weights))

    def tubelet_weights() -> dict[str, Tensor]:
        model = new()
        stem_of(model).load_state_dict(stem.stem.state_dict())
        tubelets = TubeletClassifier(model)
        now = phase("tubelets", 1, 128, 7e-4)
        teaching = Teaching(stem, 0.5, borders=True)
        return fit(tubelets, train, val, size, now, teaching).model.state_dict()

    tubelets = kept(output.with_suffix(".tubelets"), tubelet_weights)

    def clip_weights() -> dict[str, Tensor]:
        model = new(tubelets)
        start_later_stages_as_identity(model)
        now = phase("clips", config.frames, 24, 3e-4)
        now = replace(now, augment=replace(PHOTOGRAPHS, motion=1.0))
        teaching = Teaching(TubeletClassifier(new(tubelets)), 0.7, borders=False)
        clips = fit(ClipClassifier(model), train, val, size, now, teaching)
        return clips.model.state_dict()

    whole = new(kept(output.with_suffix(".clips"), clip_weights))
    logits = predict(ClipClassifier(whole), val.images, config.frames, size)
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
