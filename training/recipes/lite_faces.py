"""Train the default `lite` model on two collections of labelled face photographs.

    python -m svfap_edge.training.recipes.lite_faces FACES FERPLUS \\
        -o lite-faces.safetensors --device cuda

FACES holds `train/`, with one folder of images per label; FERPLUS holds `train.npz`, see
`photographs.load_ferplus`, and `val.npz`, of which no copy is learned. A tenth of both is put
apart: the log's figures are of it, and the probabilities are made to fit it. Five phases, each with
a moving average of the weights:

1. `teacher-1`, `teacher-2`: two residual networks of four times the work learn photographs.
2. `stem`: the residual stem of the model alone, pooled, learns from people and from the teachers:
   part of each target is the teachers' answer to the same augmented and mixed view ("function
   matching": Beyer et al., "Knowledge distillation: A good teacher is patient and consistent",
   2022), because many of the labels are doubtful.
3. `tubelets`: stem and stage 1 go on so with single tubelets (both frames the same photograph) at
   random time steps of the position code.
4. `clips`: the whole model learns photographs in smooth motion; the teachers see the middle frame,
   without the borders that are put around faces. The later stages start as the identity on a
   temporal average; the stem is not trained any more.

Faces are learned in grey. Afterwards the weights are folded so that RGB input is read as luminance.

Each phase leaves its weights beside the output (`lite-faces.stem` and so on); a run that was
stopped goes on after the last finished phase.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn

from svfap_edge.atomic import written_whole
from svfap_edge.tasks import Task
from svfap_edge.training.checkpoint_file import write_safetensors
from svfap_edge.training.clips.epochs import generator
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
from .phases import CPU, PHOTOGRAPHS, Machine, Model, Phase, fit, predict
from .photographs import LABELS, Faces, divided, load_faces, load_ferplus, together, without_copies

MINUTES = {"teacher-1": 1.9, "teacher-2": 1.9, "stem": 0.8, "tubelets": 1.5, "clips": 1.9}
"""Of training on an NVIDIA H200, by the name of the phase."""

TEACHER = (64, 128, 256, 512)
"""Channels of a teacher: those of an 18-layer residual network (He et al. 2016)."""

APART = 0.1


def make(
    config: TPSBTConfig,
    train: Faces,
    apart: Faces,
    minutes: Mapping[str, float],
    output: Path,
    seed: int = 0,
    machine: Machine = CPU,
    teacher: tuple[int, ...] = TEACHER,
) -> dict[str, Tensor]:
    """Train all phases that have not been finished before, and return weights for RGB input.

    Each phase trains for the minutes of its name. The model must have a stem.
    """
    size = config.size

    def trained(
        model: Model, name: str, frames: int, batch: int, rate: float, **more: Any
    ) -> Model:
        """The model with the weights of a phase, which an earlier run may have left."""
        path = output.with_suffix(f".{name}")
        if not path.exists():
            phase_seed = seed + list(MINUTES).index(name)
            phase = Phase(name, minutes[name], frames, batch, rate, phase_seed, **more)
            weights = fit(model, train, apart, size, phase, machine).state_dict()
            with written_whole(path) as part:
                torch.save(weights, part)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model

    teachers: tuple[nn.Module, ...] = tuple(
        trained(StemClassifier(teacher, config.outputs), name, 1, 256, 2e-3)
        for name in ("teacher-1", "teacher-2")
    )
    taught = {"teachers": teachers, "share": 0.6}
    stem = trained(
        StemClassifier(config.stem, config.outputs), "stem", 1, 256, 2e-3, **taught, borders=True
    )
    model = TPSBT(config)
    stem_of(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stem_of(model).load_state_dict(stem.stem.state_dict())
    tubelets = trained(TubeletClassifier(model), "tubelets", 1, 256, 7e-4, **taught, borders=True)
    whole = tubelets.model
    start_later_stages_as_identity(whole)
    clips = trained(
        ClipClassifier(whole), "clips", config.frames, 64, 4e-4,
        augment=replace(PHOTOGRAPHS, motion=1.0), teachers=teachers, share=0.7,
    )  # fmt: skip
    logits = predict(clips.to(machine.device), apart.images, config.frames, size, machine)
    clips.cpu()
    fold_temperature(whole, logits, apart.labels)
    fold_luminance(whole)
    return whole.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("faces", type=Path, help="Folder with train/.")
    parser.add_argument("ferplus", type=Path, help="Folder with train.npz and val.npz.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="Device of PyTorch (cpu).")
    parser.add_argument(
        "--minutes",
        type=float,
        nargs=len(MINUTES),
        default=MINUTES.values(),
        help="Minutes of each phase; a CPU needs some fifty times the default.",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    cv2.setNumThreads(1)  # photographs are small: more threads only wait for each other
    machine = Machine(args.device, 0 if args.device == "cpu" else max(1, (os.cpu_count() or 2) - 1))
    faces, ferplus = load_faces(args.faces / "train"), load_ferplus(args.ferplus / "train.npz")
    ferplus = without_copies(ferplus, load_ferplus(args.ferplus / "val.npz"))
    rng = generator("put apart", args.seed)
    parts = [divided(found, APART, rng) for found in (faces, ferplus)]
    train, apart = together([part[0] for part in parts]), together([part[1] for part in parts])
    config = preset("lite", outputs=len(LABELS), drop_path=0.05)
    minutes = dict(zip(MINUTES, args.minutes, strict=True))
    weights = make(config, train, apart, minutes, args.output, args.seed, machine)
    task = Task("faces", "classes", LABELS, stride=2)
    about = {"config": config.to_dict(), "task": task.to_dict()}
    with written_whole(args.output) as path:
        write_safetensors(path, weights, about)


if __name__ == "__main__":
    main()
