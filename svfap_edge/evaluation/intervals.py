"""How sure a metric is: bootstrap intervals, of one system or of the difference of two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

RESAMPLES = 2000
AGREEMENT = ("PCC", "CCC", "1-MAE")
"""Metrics of continuous outputs, in the order `resampled_agreement` returns them."""

_CHUNK_ITEMS = 2_000_000
_CONSTANT = 1e-12  # of the variance of the whole sample: rounding, not variation


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of (R,) resampled values (percentile method; Efron 1979)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def resampled_uar_war(
    targets: np.ndarray,
    correct: np.ndarray,
    classes: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """UAR and WAR of one or more systems on resampled items, the same items for all.

    A resample is drawn as counts of (class, which systems are right), one multinomial draw instead
    of n indexes; the distribution is that of drawing items. Classes are not held to their sizes: a
    class of very few items then widens the interval of UAR as it should, and a resample in which a
    class is missing is averaged over the others.

    `targets` is (n,) int below `classes`, `correct` (n, S) bool with a column for each system. The
    result is (R, 2, S): UAR, WAR of R resamples. ValueError if the lengths differ or are 0.
    """
    n, systems = correct.shape
    if n == 0 or len(targets) != n:
        raise ValueError(f"Got {len(targets)} targets for {n} items; expected as many, at least 1.")
    outcomes = 2**systems
    right = np.arange(outcomes)[:, None] >> np.arange(systems) & 1  # (2^S, S)
    cell = np.asarray(targets) * outcomes + correct @ (1 << np.arange(systems))
    shares = np.bincount(cell, minlength=classes * outcomes) / n
    draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    draws = draws.reshape(resamples, classes, outcomes)
    hits, items = draws @ right, draws.sum(axis=2)  # (R, C, S), (R, C)
    present = np.maximum(np.sum(items > 0, axis=1), 1)
    mean_recall = np.sum(hits / np.maximum(items, 1)[:, :, None], axis=1) / present[:, None]
    return np.stack((mean_recall, hits.sum(axis=1) / n), axis=1)


def resampled_agreement(targets: np.ndarray, scores: np.ndarray, span: float = 1.0) -> np.ndarray:
    """PCC, CCC and 1-MAE, each the mean of the outputs, on resampled items.

    All three follow from six moments, so a resample costs one row of a matrix product. The same n
    gives the same items: call it once for each system and subtract to compare in pairs.

    Targets and scores are (n, L), `span` is as for `metrics.one_minus_mae`. The result is (R, 3) in
    the order of `AGREEMENT`. ValueError if the shapes differ, or there are no items.
    """
    if targets.shape != scores.shape or targets.ndim != 2 or not len(targets):
        raise ValueError(f"Expected two equal (n, L); got {targets.shape} and {scores.shape}.")
    x, y = _centred(targets), _centred(scores)
    bias = scores.mean(axis=0, dtype=np.float64) - targets.mean(axis=0, dtype=np.float64)
    error = np.abs(np.asarray(scores, np.float64) - targets)
    features = np.concatenate((x, y, x * x, y * y, x * y, error), axis=1)  # (n, 6 L)
    rows = [w @ features / len(x) for w in _weights(len(x))]
    mx, my, xx, yy, xy, mae = np.moveaxis(np.concatenate(rows).reshape(RESAMPLES, 6, -1), 1, 0)
    vx, vy, cov = xx - mx**2, yy - my**2, xy - mx * my
    varies = (vx > _CONSTANT * x.var(axis=0)) & (vy > _CONSTANT * y.var(axis=0))
    vx, vy, cov = (np.where(varies, v, d) for v, d in ((vx, 1), (vy, 1), (cov, 0)))
    r = cov / np.sqrt(vx * vy)
    concordance = 2 * cov / (vx + vy + (bias + my - mx) ** 2)
    return np.stack([m.mean(axis=1) for m in (r, concordance, 1 - mae / span)], axis=1)


def _weights(n: int) -> Iterator[np.ndarray]:
    """(r, n) float64: how often each item is in each resample, a few resamples at a time."""
    rng = np.random.default_rng(0)
    step = max(1, _CHUNK_ITEMS // n)
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        draws = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * n)
        yield counts.reshape(rows, n).astype(np.float64)


def _centred(values: np.ndarray) -> np.ndarray:
    """(n, L) float64 minus the mean of each column; exactly 0 in a constant column."""
    values = np.asarray(values, np.float64)
    return np.where(np.ptp(values, axis=0) > 0, values - values.mean(axis=0), 0.0)
