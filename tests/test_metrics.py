"""Metrics against scikit-learn and exact arithmetic; intervals against simulated truth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from svfap_edge.evaluation.analysis_types import Drop
from svfap_edge.evaluation.intervals import (
    RESAMPLES,
    interval,
    resampled_agreement,
    resampled_uar_war,
)
from svfap_edge.metrics import (
    ccc,
    confusion_matrix,
    ece,
    f1,
    macro_f1,
    mcnemar_exact,
    one_minus_mae,
    pcc,
    recalls,
    uar,
    war,
    weighted_f1,
)


def noisy_labels(seed: int, n: int = 300, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = np.minimum(rng.geometric(0.3, n) - 1, classes - 1)
    noise = rng.integers(0, classes, n)
    return targets, np.where(rng.random(n) < 0.6, targets, noise)


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed: int) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    t, p = noisy_labels(seed)
    matrix = confusion_matrix(t, p, 7)
    assert np.array_equal(matrix, sk.confusion_matrix(t, p, labels=range(7)))
    assert recalls(matrix) == pytest.approx(sk.recall_score(t, p, average=None))
    assert uar(matrix) == pytest.approx(sk.balanced_accuracy_score(t, p))
    assert war(matrix) == pytest.approx(sk.accuracy_score(t, p))
    assert f1(matrix) == pytest.approx(sk.f1_score(t, p, average=None))
    assert macro_f1(matrix) == pytest.approx(sk.f1_score(t, p, average="macro"))
    assert weighted_f1(matrix) == pytest.approx(sk.f1_score(t, p, average="weighted"))


def test_a_class_without_items_is_nan_and_left_out_of_means() -> None:
    matrix = confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 2]), 4)
    assert recalls(matrix) == pytest.approx([0.5, math.nan, 1, math.nan], nan_ok=True)
    assert uar(matrix) == 0.75
    assert np.isnan(f1(matrix)).tolist() == [False, True, False, True]
    assert macro_f1(matrix) == pytest.approx((2 / 3 + 1) / 2)
    assert math.isnan(uar(np.zeros((3, 3), int))) and math.isnan(war(np.zeros((3, 3), int)))


def test_a_class_that_is_never_predicted_counts_as_zero() -> None:
    matrix = confusion_matrix(np.array([0, 1]), np.array([0, 0]), 2)
    assert f1(matrix) == pytest.approx([2 / 3, 0])


@pytest.mark.parametrize(
    ("targets", "predicted"), [([0, 1], [0]), ([0, 3], [0, 0]), ([0, 0], [0, -1]), ([[0]], [[0]])]
)
def test_labels_that_do_not_fit(targets: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match=r"Class indexes|one length"):
        confusion_matrix(np.array(targets), np.array(predicted), 3)


def test_correlations() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = 0.5 * x + rng.normal(size=200) + 3
    assert pcc(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    expected = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert ccc(x, y) == pytest.approx(expected)
    assert ccc(x, x) == pytest.approx(1) and ccc(x, -x) < -0.9
    assert ccc(x, x + 1) < pcc(x, x + 1) == pytest.approx(1)
    assert one_minus_mae(x, x + 0.5) == pytest.approx(0.5)
    assert one_minus_mae(x, x + 0.5, span=2) == pytest.approx(0.75)


def test_constant_input_has_correlation_zero() -> None:
    x, flat = np.arange(10.0), np.full(10, 0.1)
    for metric in (pcc, ccc):
        assert metric(x, flat) == metric(flat, x) == metric(flat, flat) == 0
        assert metric(np.array([]), np.array([])) == 0
    with pytest.raises(ValueError, match="one length"):
        pcc(x, x[:5])


def test_ece_by_hand() -> None:
    two = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    # bin of 0.9: accuracy 1/2, gap 0.4; bin of 0.6: accuracy 1/2, gap 0.1
    assert ece(two, np.array([0, 1, 0, 0])) == pytest.approx((0.4 + 0.1) / 2)
    assert ece(np.eye(3), np.arange(3)) == 0
    assert ece(np.eye(3), np.array([1, 2, 0])) == 1


def test_ece_of_a_calibrated_model_is_small() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.5, 1, 20_000)
    targets = (rng.random(p.size) > p).astype(int)
    assert ece(np.stack((p, 1 - p), axis=1), targets) < 0.02


def discordant(only_a: int, only_b: int, both: int = 5) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([True] * only_a + [False] * only_b + [True] * both)
    b = np.array([False] * only_a + [True] * only_b + [True] * both)
    return a, b


def exact_p(a: int, b: int) -> float:
    n, tail, ways = a + b, 0, 1
    for k in range(min(a, b) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


@pytest.mark.parametrize(("a", "b"), [(10, 2), (2, 10), (5, 4), (1, 0), (900, 1100), (3000, 2900)])
def test_mcnemar_is_exact(a: int, b: int) -> None:
    assert mcnemar_exact(*discordant(a, b)) == (a, b, pytest.approx(exact_p(a, b), rel=1e-9))


def test_mcnemar_known_values() -> None:
    assert mcnemar_exact(*discordant(10, 2))[2] == pytest.approx(0.0385742, abs=1e-7)
    assert mcnemar_exact(*discordant(0, 0)) == (0, 0, 1.0)
    assert mcnemar_exact(*discordant(7, 7)) == (7, 7, 1.0)
    assert mcnemar_exact(*discordant(5000, 0))[2] == 0  # 2^-4999: smaller than any float


def bootstrap(statistic: Callable[[np.ndarray], float], n: int) -> tuple[float, float]:
    """The plain way, item by item; what the package does is faster and has to agree with it."""
    rng = np.random.default_rng(0)
    return interval(np.array([statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)]))


def test_bootstrap_of_a_mean_matches_the_normal_interval() -> None:
    x = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda i: float(x[i].mean()), len(x))
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.15 * half)
    assert (low, high) == bootstrap(lambda i: float(x[i].mean()), len(x))


def test_resampled_uar_war_agrees_with_drawing_items() -> None:
    targets, predicted = noisy_labels(3)
    correct = predicted == targets
    fast = resampled_uar_war(targets, correct[:, None], 7)[:, :, 0]
    for column, metric in enumerate((uar, war)):
        slow = bootstrap(
            lambda i, metric=metric: metric(confusion_matrix(targets[i], predicted[i], 7)), 300
        )
        assert interval(fast[:, column]) == pytest.approx(slow, abs=0.01)


def test_resampled_agreement_agrees_with_drawing_items() -> None:
    rng = np.random.default_rng(0)
    targets = rng.uniform(-1, 1, (150, 2))
    scores = 0.5 * targets + 0.3 * rng.normal(size=(150, 2)) + 5
    fast = resampled_agreement(targets, scores, span=2)
    metrics = (pcc, ccc, lambda x, y: one_minus_mae(x, y, span=2))
    for column, metric in enumerate(metrics):
        low, high = bootstrap(
            lambda i, metric=metric: float(
                np.mean([metric(targets[i, k], scores[i, k]) for k in range(2)])
            ),
            150,
        )
        assert interval(fast[:, column]) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_resampled_agreement_of_constants_is_zero() -> None:
    targets, scores = np.random.default_rng(0).normal(size=(30, 2)), np.full((30, 2), 0.1)
    assert np.all(resampled_agreement(targets, scores)[:, :2] == 0)
    one = resampled_agreement(targets[:1], targets[:1] + 1)
    assert np.all(one == [0, 0, 0])
    with pytest.raises(ValueError, match="Expected two equal"):
        resampled_agreement(targets, scores[:5])


def test_interval_of_a_paired_difference_covers_the_truth() -> None:
    """200 simulated test sets of 400 items; the true accuracies differ by 3 points."""
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        u = rng.random(400)
        a = u < 0.70
        b = np.where(u < 0.70, rng.random(400) < 0.90, rng.random(400) < 0.1333333)
        draws = resampled_uar_war(np.zeros(400, int), np.stack((a, b), 1), 1, 1000, seed)
        low, high = interval(draws[:, 1, 0] - draws[:, 1, 1])
        covered += low <= 0.70 - (0.63 + 0.04) <= high
    assert 0.91 <= covered / 200 <= 0.99


def test_a_single_item_of_a_class_leaves_uar_uncertain() -> None:
    """One flip in a class of one item moves UAR by half; the interval must still include none."""
    targets = np.array([0] * 50 + [1])
    correct = np.ones((51, 2), bool)
    correct[50, 1] = False
    draws = resampled_uar_war(targets, correct, 2)[:, 0]
    low, high = interval(draws[:, 0] - draws[:, 1])
    assert (low, high) == pytest.approx((0, 0.5))


def test_drop_of_a_system_from_itself_is_exactly_zero() -> None:
    targets, predicted = noisy_labels(4)
    correct = np.stack((predicted == targets,) * 2, axis=1)
    draws = resampled_uar_war(targets, correct, 7)
    for m in range(2):
        drop = Drop.from_resamples("UAR", 0.6, 0.6, draws[:, m, 0] - draws[:, m, 1])
        assert (drop.points, drop.low, drop.high) == (0, 0, 0)


def test_thousands_of_items_are_fast() -> None:
    targets, predicted = noisy_labels(0, n=1258)
    correct = np.stack((predicted == targets, targets == 0), axis=1)
    start = time.process_time()
    resampled_uar_war(targets, correct, 7)
    resampled_agreement(correct.astype(float), correct.astype(float) + 0.1)
    assert time.process_time() - start < 2  # about 0.1 s; far below the seconds of a plain loop
