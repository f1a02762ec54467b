"""Pictures of training for people to look at; numpy and OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np

ROWS = ("input", "masked", "reconstruction")
CELL = 96  # least side of one frame in pixels
GAP = 4
LABEL_WIDTH = 112
HEADER = 20
MASK_GREY = 128


def reconstruction_picture(
    clip: np.ndarray,
    mask: np.ndarray,
    reconstruction: np.ndarray,
    *,
    tubelet: int = 2,
    columns: int = 4,
) -> np.ndarray:
    """Input, masked input and reconstruction of evenly spaced frames, as RGB (H, W, 3) uint8.

    Args:
        clip: (3, T, S, S) RGB in 0..1, or (B, 3, T, S, S); several clips are stacked.
        mask: (t*s,) bool, True = masked, or (B, t*s).
        reconstruction: Like `clip`.
        tubelet: Frames of one time step of the mask.
        columns: Frames shown of each clip.

    Raises:
        ValueError: the shapes do not belong together.
    """
    clips, rebuilt = (np.asarray(x) for x in (clip, reconstruction))
    masks = np.asarray(mask)
    if clips.ndim == 4:
        clips, rebuilt, masks = clips[None], rebuilt[None], masks[None]
    hidden = _pixel_masks(clips, masks, rebuilt, tubelet)
    shown = np.linspace(0, clips.shape[2] - 1, min(columns, clips.shape[2])).round().astype(int)
    rows = []
    for original, cover, result in zip(clips, hidden, rebuilt, strict=True):
        frames, results = _frames(original, shown), _frames(result, shown)
        covered = np.where(cover[shown][..., None], np.uint8(MASK_GREY), frames)
        rows += [_row(*pair) for pair in zip(ROWS, (frames, covered, results), strict=True)]
    return np.concatenate([_header(shown, rows[0].shape[1]), *rows])


def _pixel_masks(
    clips: np.ndarray, masks: np.ndarray, rebuilt: np.ndarray, tubelet: int
) -> np.ndarray:
    """Masks of pixels (B, T, S, S)."""
    batch, _, frames, size = clips.shape[:4]
    steps = frames // tubelet
    side = round((masks.shape[-1] / steps) ** 0.5)
    fits = masks.shape == (batch, steps * side**2) and frames % tubelet == 0
    if not fits or size % side or clips.shape != rebuilt.shape or clips.shape[1] != 3:
        raise ValueError(
            "A picture needs clips and reconstructions (B, 3, T, S, S) and masks (B, t*s) with "
            f"T = {tubelet} t; got {clips.shape}, {rebuilt.shape} and {masks.shape}."
        )
    grid = masks.reshape(batch, steps, side, side).astype(bool)
    patch = size // side
    return grid.repeat(tubelet, axis=1).repeat(patch, axis=2).repeat(patch, axis=3)


def _frames(clip: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(3, T, S, S) in 0..1 to the shown frames (n, S, S, 3) uint8."""
    frames = clip[:, shown].transpose(1, 2, 3, 0)
    return (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)


def _row(label: str, frames: np.ndarray) -> np.ndarray:
    """A label and the frames beside it, small ones enlarged by a whole factor."""
    factor = -(-CELL // frames.shape[1])
    cells = [
        np.pad(frame.repeat(factor, axis=0).repeat(factor, axis=1), ((0, GAP), (0, GAP), (0, 0)))
        for frame in frames
    ]
    strip = np.zeros((cells[0].shape[0], LABEL_WIDTH, 3), np.uint8)
    _write(strip, label, (GAP, strip.shape[0] // 2))
    return np.concatenate([strip, *cells], axis=1)


def _header(shown: np.ndarray, width: int) -> np.ndarray:
    header = np.zeros((HEADER, width, 3), np.uint8)
    step = (width - LABEL_WIDTH) // len(shown)
    for column, frame in enumerate(shown):
        _write(header, f"frame {frame}", (LABEL_WIDTH + column * step, HEADER - 6))
    return header


def _write(canvas: np.ndarray, text: str, origin: tuple[int, int]) -> None:
    white = (255, 255, 255)
    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, white, 1, cv2.LINE_AA)
