"""Order of an epoch: reproducible, fair to classes, the same for any number of processes."""

from __future__ import annotations

import numpy as np
import pytest

from svfap_edge.training.clips.epochs import class_shares, epoch_order, generator

LABELS = np.repeat([0, 1, 2], [80, 15, 5])


def test_natural_order_is_a_new_permutation_each_epoch() -> None:
    first, second = (epoch_order(LABELS, 0, epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(100))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epoch_order(LABELS, 1, 0))
    assert np.array_equal(first, epoch_order(LABELS, 0, 0))


@pytest.mark.parametrize(
    ("balance", "expected"),
    [(0.0, (33.3, 33.3, 33.3)), (0.5, (59.4, 25.7, 14.9)), (1.0, (80.0, 15.0, 5.0))],
)
def test_class_shares(balance: float, expected: tuple[float, ...]) -> None:
    counts = np.zeros(3)
    for epoch in range(60):
        order = epoch_order(LABELS, 3, epoch, balance=balance)
        assert len(order) == 100
        found = np.bincount(LABELS[order], minlength=3)
        assert np.abs(found - expected).max() < 1.1
        counts += found
    assert counts / 60 == pytest.approx(expected, abs=0.35)
    assert 100 * class_shares(LABELS, balance) == pytest.approx(expected, abs=0.06)


def test_rare_classes_take_turns_and_frequent_ones_do_not_repeat() -> None:
    order = epoch_order(LABELS, 0, 0, balance=0.0)
    times = np.bincount(order, minlength=100)
    assert set(times[LABELS == 0]) == {0, 1}
    assert np.ptp(times[LABELS == 2]) <= 1


def test_a_class_without_items_is_no_trouble() -> None:
    labels = np.array([0] * 6 + [3] * 2)
    order = epoch_order(labels, 0, 0, balance=0.0)
    assert np.bincount(labels[order]).tolist() == [4, 0, 0, 4]


def test_repeats_stand_side_by_side() -> None:
    order = epoch_order(LABELS, 0, 0, repeats=3)
    assert np.array_equal(order[::3], order[1::3])
    assert np.array_equal(order[::3], order[2::3])
    assert sorted(order[::3]) == list(range(100))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("balance", [1.0, 0.3])
def test_processes_share_one_epoch(world: int, balance: float) -> None:
    whole = epoch_order(LABELS, 5, 2, balance=balance, repeats=2)
    parts = [
        epoch_order(LABELS, 5, 2, balance=balance, repeats=2, shard=(rank, world))
        for rank in range(world)
    ]
    assert len({len(part) for part in parts}) == 1
    joined = np.stack(parts, 1).ravel()
    assert np.array_equal(joined[: len(whole)], whole)
    assert len(joined) - len(whole) < world


def test_more_processes_than_items() -> None:
    parts = [epoch_order([0, 0], 0, 0, shard=(rank, 5)) for rank in range(5)]
    assert [len(part) for part in parts] == [1] * 5


def test_generators_differ_by_purpose_and_place() -> None:
    places = [("a", 1), ("b", 1), ("a", 2), ("a", 1, 0), ("a", 1, 0, 0), ("a", 0, 1), ("a",)]
    drawn = {float(generator(*place).random()) for place in places}  # type: ignore[arg-type]
    assert len(drawn) == len(places)
    assert generator("a", 1, 2).random() == generator("a", 1, 2).random()


def test_values_cannot_be_balanced() -> None:
    values = np.zeros((4, 2))
    assert sorted(epoch_order(values, 0, 0)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="only class labels"):
        epoch_order(values, 0, 0, balance=0.5)


@pytest.mark.parametrize(
    "options", [{"balance": 1.5}, {"repeats": 0}, {"shard": (2, 2)}, {"labels": []}]
)
def test_impossible_orders_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="epoch_order"):
        epoch_order(**{"labels": [0, 1], "seed": 0, "epoch": 0, **options})  # type: ignore[arg-type]
