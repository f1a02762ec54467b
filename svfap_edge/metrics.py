"""The field's metrics: recall, F1, correlation and concordance, calibration, McNemar's test.

How certain they are is computed in `evaluation.intervals`. Every function of two vectors raises
ValueError if their lengths differ.
"""

from __future__ import annotations

import math

import numpy as np


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts, (C, C) int64: a row for each true class, a column for each predicted one.

    Args:
        targets: True classes, (n,) int.
        predicted: Predicted classes, (n,) int.
        classes: The number of classes, C. An index that is not below it is a ValueError.
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
    """Share of each true class that was recognised, (C,) float; nan for a class without items."""
    return _share(np.diagonal(matrix), matrix.sum(axis=1))


def uar(matrix: np.ndarray) -> float:
    """Unweighted average recall: the mean recall of the classes that have items."""
    return _mean(recalls(matrix))


def war(matrix: np.ndarray) -> float:
    """Weighted average recall, which is the accuracy; nan without items."""
    total = int(matrix.sum())
    return float(np.trace(matrix) / total) if total else math.nan


def f1(matrix: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall by class, (C,) float: 2 TP / (2 TP + FP + FN).

    It is nan for a class without items, so that every artifact is averaged over the same classes.
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
    """Pearson's correlation of two (n,) vectors; 0 when either is constant."""
    x, y = _vectors(targets, predicted)
    if _is_constant(x) or _is_constant(y):
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / math.sqrt(float(x @ x) * float(y @ y)))


def ccc(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Concordance correlation of two (n,) vectors; 0 when either is constant.

    2 cov(x, y) / (var x + var y + (mean x - mean y)^2), population moments: L. Lin, "A concordance
    correlation coefficient to evaluate reproducibility", Biometrics 45, 1989.
    """
    x, y = _vectors(targets, predicted)
    if _is_constant(x) or _is_constant(y):
        return 0.0
    covariance = float(np.mean((x - x.mean()) * (y - y.mean())))
    return float(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def one_minus_mae(targets: np.ndarray, predicted: np.ndarray, span: float = 1.0) -> float:
    """1 - mean absolute error of two (n,) vectors, the error as a share of `span`.

    For traits in 0..1 it is the accuracy that the First Impressions challenge defines. It is nan
    without items. `span` is the range of the task's values, in their unit, on which the result then
    does not depend.
    """
    x, y = _vectors(targets, predicted)
    return float(1 - np.mean(np.abs(x - y)) / span) if x.size else math.nan


def ece(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, 0..1, of softmax outputs (n, C) for true classes (n,) int.

    It is how far confidence is from accuracy on average, and nan without items. Items are put into
    M = `bins` bins of equal width, ((m-1)/M, m/M], by their largest probability. The gap between
    accuracy and mean confidence of each bin is weighted by its number of items: C. Guo et al., "On
    calibration of modern neural networks", ICML 2017, equation 3.
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
    coin: p = 2 P(X <= min(a, b)), X ~ binomial(a + b, 1/2), at most 1.

    The arguments, (n,) bool, say whether each system gets each item right. Returns the number of
    items that only a gets right, that of those that only b gets right, and p, which is 1 when there
    are neither.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    _check_vectors(a, b)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(~a & b))
    n = only_a + only_b
    ways = tail = 1  # whole numbers of any size, so that nothing overflows or is rounded
    for k in range(min(only_a, only_b)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return only_a, only_b, min(1.0, 2 * tail / 2**n)


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
