"""The field's metrics, and how sure they are: recall, F1, CCC, calibration, McNemar, bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
AGREEMENT = ("PCC", "CCC", "1-MAE")
"""Metrics of continuous outputs, in the order `resampled_agreement` returns them."""

_CHUNK_ITEMS = 2_000_000
_CONSTANT = 1e-12  # of the variance of the whole sample: rounding, not variation


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64 counts: row the true class, column the predicted one.

    Args:
        targets: (n,) int in 0..classes-1.
        predicted: (n,) int in 0..classes-1.
        classes: C.

    Raises:
        ValueError: the lengths differ, or an index is out of range.
    """
    targets, predicted = np.asarray(targets, np.int64), np.asarray(predicted, np.int64)
    _check_vectors(targets, predicted)
    both = np.concatenate((targets, predicted))
    if both.size and (both.min() < 0 or both.max() >= classes):
        raise ValueError(
            f"Class indexes must be in 0..{classes - 1}; got {both.min()}..{both.max()}."
        )
    counts = np.bincount(targets * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def recalls(matrix: np.ndarray) -> np.ndarray:
    """(C,) share of each true class that was recognised; nan for a class without items."""
    return _share(np.diagonal(matrix), matrix.sum(axis=1))


def uar(matrix: np.ndarray) -> float:
    """Unweighted average recall: the mean recall of the classes that have items."""
    return _mean(recalls(matrix))


def war(matrix: np.ndarray) -> float:
    """Weighted average recall, which is the accuracy; nan without items."""
    total = int(matrix.sum())
    return float(np.trace(matrix) / total) if total else math.nan


def f1(matrix: np.ndarray) -> np.ndarray:
    """(C,) harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN).

    nan for a class without items, so that every artifact is averaged over the same classes.
    """
    items = matrix.sum(axis=1)
    values = _share(2 * np.diagonal(matrix), items + matrix.sum(axis=0))
    return np.where(items > 0, values, np.nan)


def macro_f1(matrix: np.ndarray) -> float:
    """Mean F1 of the classes that have items."""
    return _mean(f1(matrix))


def weighted_f1(matrix: np.ndarray) -> float:
    """Mean F1 weighted by the number of items of each class."""
    items = matrix.sum(axis=1)
    total = int(items.sum())
    return float(np.nansum(f1(matrix) * items) / total) if total else math.nan


def pcc(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Pearson's correlation of two (n,) vectors; 0 when either is constant.

    Raises:
        ValueError: the lengths differ.
    """
    x, y = _vectors(targets, predicted)
    if _is_constant(x) or _is_constant(y):
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / math.sqrt(float(x @ x) * float(y @ y)))


def ccc(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Concordance correlation of two (n,) vectors; 0 when either is constant.

    2 cov(x, y) / (var x + var y + (mean x - mean y)^2), population moments: L. Lin, "A concordance
    correlation coefficient to evaluate reproducibility", Biometrics 45, 1989.

    Raises:
        ValueError: the lengths differ.
    """
    x, y = _vectors(targets, predicted)
    if _is_constant(x) or _is_constant(y):
        return 0.0
    covariance = float(np.mean((x - x.mean()) * (y - y.mean())))
    return float(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def one_minus_mae(targets: np.ndarray, predicted: np.ndarray, span: float = 1.0) -> float:
    """1 - mean absolute error of two (n,) vectors, the error as a share of `span`.

    With the range of the task as span it is bounded whatever the unit; for traits in 0..1 it is
    the accuracy that the First Impressions challenge defines.

    Raises:
        ValueError: the lengths differ.
    """
    x, y = _vectors(targets, predicted)
    return float(1 - np.mean(np.abs(x - y)) / span) if x.size else math.nan


def ece(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, 0..1: how far confidence is from accuracy, on average.

    Bins of equal width ((m-1)/M, m/M] over the largest probability; the gap between accuracy and
    mean confidence of each bin, weighted by its items: C. Guo et al., "On calibration of modern
    neural networks", ICML 2017, equation 3.

    Args:
        probabilities: (n, C) softmax.
        targets: (n,) int.
        bins: M.

    Raises:
        ValueError: the lengths differ.
    """
    confidence = np.asarray(probabilities, np.float64).max(axis=1)
    _check_vectors(confidence, np.asarray(targets))
    correct = np.argmax(probabilities, axis=1) == targets
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence)) if len(confidence) else math.nan


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test: do two systems err equally often on the same items?

    Under the null hypothesis the items that only one of them gets right fall to either like a fair
    coin: p = 2 P(X <= min(a, b)), X ~ binomial(a + b, 1/2), at most 1. Summed in log space, so it
    is right for thousands of such items.

    Args:
        correct_a, correct_b: (n,) bool.

    Returns:
        Items only a gets right, items only b gets right, p (1 when there are neither).

    Raises:
        ValueError: the lengths differ.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    _check_vectors(a, b)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(~a & b))
    n = only_a + only_b
    if only_a == only_b:
        return only_a, only_b, 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        for k in range(min(only_a, only_b) + 1)
    ]
    top = max(logs)
    log_tail = top + math.log(math.fsum(math.exp(v - top) for v in logs)) - n * math.log(2)
    return only_a, only_b, min(1.0, 2 * math.exp(log_tail))


@dataclass(frozen=True)
class Drop:
    """How much a metric fell from the baseline. Positive is worse.

    Attributes:
        metric: Its name, like "UAR".
        baseline, value: The metric of both, bounded by 1.
        points: 100 * (baseline - value).
        low, high: 95 % interval of `points`, from resampling the items of both together.
    """

    metric: str
    baseline: float
    value: float
    points: float
    low: float
    high: float

    @classmethod
    def from_resamples(
        cls, metric: str, baseline: float, value: float, differences: np.ndarray
    ) -> Drop:
        """From (R,) resampled differences baseline - value."""
        low, high = interval(100 * differences)
        return cls(metric, baseline, value, 100 * (baseline - value), low, high)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of (R,) resampled values (percentile method; Efron 1979)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> tuple[float, float]:
    """95 % percentile interval of any statistic of n items.

    For a paired comparison let the statistic use the same indexes for both systems. UAR, WAR and
    the agreement metrics have faster ways: `resampled_uar_war`, `resampled_agreement`.

    Args:
        statistic: Takes (n,) item indexes, returns a number.
        n: Number of items.
        resamples: Times the items are drawn.
        seed: The same seed gives the same draws.
        strata: (n,) class of each item, to draw within each class and keep their sizes.

    Raises:
        ValueError: `strata` has another length than n.
    """
    rng = np.random.default_rng(seed)
    groups = np.zeros(n, np.int64) if strata is None else np.asarray(strata)
    if len(groups) != n:
        raise ValueError(f"strata names the class of {len(groups)} items; expected {n}.")
    order = np.argsort(groups, kind="stable")
    _, first, inverse, sizes = np.unique(
        groups[order], return_index=True, return_inverse=True, return_counts=True
    )
    start, size = first[inverse], sizes[inverse]
    draws = (order[start + (rng.random(n) * size).astype(np.int64)] for _ in range(resamples))
    return interval(np.array([statistic(indexes) for indexes in draws]))


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

    Args:
        targets: (n,) int.
        correct: (n, S) bool, a column for each system.
        classes: C.
        resamples: R.
        seed: The same seed gives the same draws.

    Returns:
        (R, 2, S): UAR, WAR.

    Raises:
        ValueError: the lengths differ, or there are no items.
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


def resampled_agreement(
    targets: np.ndarray,
    scores: np.ndarray,
    span: float = 1.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """PCC, CCC and 1-MAE, each the mean of the outputs, on resampled items.

    All three follow from six moments, so a resample costs one row of a matrix product. The same n
    and seed give the same items: call it once for each system and subtract to compare in pairs.

    Args:
        targets: (n, L).
        scores: (n, L).
        span: Of `one_minus_mae`.
        resamples: R.
        seed: The same seed gives the same draws.

    Returns:
        (R, 3) in the order of `AGREEMENT`.

    Raises:
        ValueError: the shapes differ, or there are no items.
    """
    if targets.shape != scores.shape or targets.ndim != 2 or not len(targets):
        raise ValueError(f"Expected two equal (n, L); got {targets.shape} and {scores.shape}.")
    x, y = _centred(targets), _centred(scores)
    bias = scores.mean(axis=0, dtype=np.float64) - targets.mean(axis=0, dtype=np.float64)
    error = np.abs(np.asarray(scores, np.float64) - targets)
    features = np.concatenate((x, y, x * x, y * y, x * y, error), axis=1)  # (n, 6 L)
    rows = [w @ features / len(x) for w in _weights(len(x), resamples, seed)]
    mx, my, xx, yy, xy, mae = np.moveaxis(np.concatenate(rows).reshape(resamples, 6, -1), 1, 0)
    vx, vy, cov = xx - mx**2, yy - my**2, xy - mx * my
    varies = (vx > _CONSTANT * x.var(axis=0)) & (vy > _CONSTANT * y.var(axis=0))
    vx, vy, cov = (np.where(varies, v, d) for v, d in ((vx, 1), (vy, 1), (cov, 0)))
    r = cov / np.sqrt(vx * vy)
    concordance = 2 * cov / (vx + vy + (bias + my - mx) ** 2)
    return np.stack([m.mean(axis=1) for m in (r, concordance, 1 - mae / span)], axis=1)


def _weights(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """(r, n) float64: how often each item is in each resample, a few resamples at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_ITEMS // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * n)
        yield counts.reshape(rows, n).astype(np.float64)


def _centred(values: np.ndarray) -> np.ndarray:
    """(n, L) float64 minus the mean of each column; exactly 0 in a constant column."""
    values = np.asarray(values, np.float64)
    return np.where(np.ptp(values, axis=0) > 0, values - values.mean(axis=0), 0.0)


def _is_constant(x: np.ndarray) -> bool:
    return x.size == 0 or bool(np.ptp(x) == 0)


def _vectors(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    _check_vectors(x, y)
    return x, y


def _check_vectors(x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"Expected two vectors of one length; got {x.shape} and {y.shape}.")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
