"""The order of the items in an epoch, and the seeds of all random choices.

Both are functions of the run's seed and the place in training alone, so that a run can resume: each
random choice has a generator of its own, made from its purpose and its place (`generator`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def generator(purpose: str, *place: int) -> np.random.Generator:
    """The generator for one choice, such as `generator("clip", seed, epoch, position)`.

    Each purpose has independent numbers; the numbers of a place are not negative.
    """
    # The length sets (1, 2) apart from (1, 2, 0), which SeedSequence would not.
    return np.random.default_rng([zlib.crc32(purpose.encode()), len(place), *place])


def epoch_order(
    labels: Sequence[int] | np.ndarray,
    seed: int,
    epoch: int,
    *,
    balance: float = 1.0,
    repeats: int = 1,
    shard: tuple[int, int] = (0, 1),
) -> np.ndarray:
    """Indices (m,) of the items that one process reads in one epoch, in order.

    The epoch of all processes is one sequence of n items drawn, each `repeats` times in
    succession (Hoffer et al., "Augment your batch", 2020), padded from its own beginning to a
    multiple of the processes. Process r of w takes places r, r + w, r + 2w, ... of it, so the
    global batches are the same whatever w is, and m is the same for every process.

    Args:
        labels: Class index of each item; if balance is 1, only their number matters.
        balance: Each class is drawn in proportion to count**balance: 1 takes every item once,
            0 takes every class equally often. A class drawn more often than it has items goes
            through them in turn; one drawn less often loses a random part, another in every epoch.
        repeats: Number of times that each drawn item is seen, in different augmentations.
        shard: Rank r of the process and number w of processes.
    """
    rank, world = shard
    if not 0.0 <= balance <= 1.0 or repeats < 1 or not 0 <= rank < world or len(labels) == 0:
        raise ValueError(
            "epoch_order: labels must not be empty, balance is in 0..1, repeats starts at 1, and "
            f"a rank is below the number of processes. Got {len(labels)} labels, "
            f"{balance=}, {repeats=}, {shard=}."
        )
    rng = generator("order", seed, epoch)
    if balance == 1.0:
        drawn = rng.permutation(len(labels))
    else:
        drawn = _draw(np.asarray(labels), balance, rng)
    order = np.repeat(drawn, repeats)
    length = -(-len(order) // world) * world
    return np.resize(order, length)[rank::world]


def class_shares(labels: np.ndarray, balance: float) -> np.ndarray:
    """Shares of the classes 0, 1, ... in an epoch; they add up to 1."""
    counts = np.bincount(labels).astype(float)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** balance, 0.0)
    shares: np.ndarray = weights / weights.sum()
    return shares


def _draw(labels: np.ndarray, balance: float, rng: np.random.Generator) -> np.ndarray:
    """Indices (n,) that hold the classes in their shares, in random order."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError("epoch_order: only class labels can be balanced; set balance to 1.")
    # Systematic sampling: whole numbers that add up to n, right on average.
    ends = np.floor(np.cumsum(class_shares(labels, balance)) * len(labels) + rng.random())
    ends[-1] = len(labels)
    quotas = np.diff(ends.astype(int), prepend=0)
    parts = []
    for label, quota in enumerate(quotas):
        members = np.flatnonzero(labels == label)
        rounds = -(-quota // len(members)) if len(members) else 0
        turns = [rng.permutation(members) for _ in range(rounds)]
        parts.append(np.concatenate([members[:0], *turns])[:quota])
    return rng.permutation(np.concatenate(parts))
