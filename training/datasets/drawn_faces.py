"""A small data set of drawn, moving faces, for tests and for trying the training commands.

    from svfap_edge.training.datasets.drawn_faces import write_faces
    train, val = write_faces(Path("drawn"), people=12, clips_per_label=2)

Every clip shows one person who goes from neutral to the apex of an expression and sways the head.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from svfap_edge.errors import SourceError
from svfap_edge.media import in_utf8
from svfap_edge.training.clips.epochs import generator
from svfap_edge.training.clips.geometry import random_path

from .drawing import EXPRESSIONS, LABELS, Person, Shot, draw_face


def face_clip(
    person: Person,
    label: str,
    rng: np.random.Generator,
    frames: int,
    size: int,
    noise: float = 1.0,
) -> np.ndarray:
    """A clip (frames, size, size, 3) uint8 RGB of a person with an expression.

    It begins neutral, reaches the apex of the expression within the first half, and holds it.
    `noise` is a factor on the noise of the sensor.
    """
    shot = Shot.draw(rng)
    apex = EXPRESSIONS[label].scaled(float(rng.uniform(0.8, 1.1)))
    onset, rise = rng.uniform(0.05, 0.2), rng.uniform(0.15, 0.3)
    shares = ((np.linspace(0, 1, frames) - onset) / rise).clip(0, 1)
    shares = shares**2 * (3 - 2 * shares)  # starts and ends softly
    x, y = (random_path(rng, frames, 0.04, 0.05) for _ in range(2))
    roll, scale = random_path(rng, frames, 0.06, 0.08), random_path(rng, frames, 0.06, 0.02)
    images = [
        draw_face(person, apex.scaled(share), shot, size, (*at, float(np.exp(grown))))
        for share, *at, grown in zip(shares.tolist(), x, y, roll, scale, strict=True)
    ]
    grain = noise * shot.noise * rng.standard_normal((frames, size, size, 1))
    return (np.stack(images) + grain).clip(0, 255).astype(np.uint8)


def write_faces(
    folder: Path,
    *,
    people: int = 12,
    clips_per_label: int = 1,
    seed: int = 0,
    labels: tuple[str, ...] = LABELS,
    val_share: float = 0.25,
    frames: int = 40,
    size: int = 96,
    fps: float = 25.0,
    form: Literal["videos", "frames"] = "videos",
    noise: float = 1.0,
) -> tuple[Path, Path]:
    """Write clips and the lists `train.txt` and `val.txt`, which share no person.

    The files are a function of the arguments. Clips are named `p03_happiness_0`; a label in the
    lists is its place in `labels`.

    Args:
        folder: A new or empty folder.
        people: Number of people, at least 2.
        clips_per_label: Number of clips of each person and label.
        seed: Seed of all people and clips.
        labels: The expressions to draw, in the order of the lists' indices.
        val_share: Share of the people who are in `val.txt`; at least one person is.
        frames: Number of frames in a clip.
        size: Side of the pictures in pixels.
        fps: Frames a second of the videos.
        form: "videos" writes MPEG-4 files, "frames" folders of PNG files.
        noise: Factor on the noise of the sensor. Masked pre-training can never predict noise, and
            is shown better with 0.

    Returns:
        Paths of `train.txt` and `val.txt`.

    Raises:
        SourceError: `folder` is not empty, or a clip cannot be written.
        ValueError: there are fewer than 2 people, or unknown labels.
    """
    if people < 2 or not set(labels) <= set(LABELS):
        raise ValueError(
            f"write_faces: at least 2 people, and labels among {', '.join(LABELS)}. "
            f"Got {people} and {', '.join(labels)}."
        )
    if folder.exists() and any(folder.iterdir()):
        raise SourceError(f"'{folder}' is not empty. Name a new folder for the drawn faces.")
    (folder / "clips").mkdir(parents=True)
    val_people = min(people - 1, max(1, round(val_share * people)))
    lines: dict[str, list[str]] = {"train": [], "val": []}
    takes = itertools.product(range(people), labels, range(clips_per_label))
    for number, label, take in takes:
        person = Person.draw(generator("person", seed, number))
        rng = generator("take", seed, number, LABELS.index(label), take)
        clip = face_clip(person, label, rng, frames, size, noise)
        relative = f"clips/p{number:02d}_{label}_{take}" + (".mp4" if form == "videos" else "")
        if form == "videos":
            _write_video(folder / relative, clip, fps)
        else:
            _write_frames(folder / relative, clip)
        part = "val" if number >= people - val_people else "train"
        lines[part].append(f"{relative} {labels.index(label)}\n")
    for part, text in lines.items():
        (folder / f"{part}.txt").write_text("".join(text), encoding="utf-8")
    return folder / "train.txt", folder / "val.txt"


def _write_video(path: Path, clip: np.ndarray, fps: float) -> None:
    height, width = clip.shape[1:3]
    with in_utf8(path) as name:
        writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        raise SourceError(f"OpenCV cannot write '{path}'. Write frames: form='frames'.")
    for frame in clip:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()


def _write_frames(folder: Path, clip: np.ndarray) -> None:
    folder.mkdir()
    for number, frame in enumerate(clip):
        path = folder / f"{number:04d}.png"
        png = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1]
        try:
            path.write_bytes(png.tobytes())
        except OSError as error:
            raise SourceError(f"'{path}' cannot be written: {error.strerror}.") from error
