"""The task table."""

from __future__ import annotations

import pytest

from svfap_edge.errors import TaskError
from svfap_edge.tasks import TASKS, Task, find_task


def test_the_nine_benchmarks() -> None:
    counts = {name: len(task.labels) for name, task in TASKS.items()}
    assert counts == {
        "dfew": 7, "ferv39k": 7, "mafw": 11, "ravdess": 8, "crema-d": 6, "enterface05": 6,
        "werewolf-xl": 3, "avcaffe": 2, "first-impressions": 5,
    }  # fmt: skip
    assert TASKS["dfew"].labels[:3] == ("happy", "sad", "neutral")
    assert TASKS["mafw"].labels[-1] == "disappointment"


def test_strides() -> None:
    assert TASKS["ferv39k"].stride == 1
    assert {t.stride for n, t in TASKS.items() if n != "ferv39k"} == {4}
    assert TASKS["dfew"].spacing_s == pytest.approx(0.16)


def test_uncertain_orders_say_so() -> None:
    certain = {name for name, task in TASKS.items() if task.order_certain}
    assert certain == {"dfew", "ferv39k", "mafw"}
    assert all(task.note for task in TASKS.values())


def test_override_labels() -> None:
    task = find_task("CREMA-D", ["a", "b", "c", "d", "e", "f"])
    assert task.labels == ("a", "b", "c", "d", "e", "f")
    assert task.order_certain
    with pytest.raises(TaskError, match="has 6 outputs"):
        find_task("crema-d", ["a"])


def test_own_task() -> None:
    task = find_task("my-moods", ["x", "y"])
    assert (task.kind, task.labels) == ("classes", ("x", "y"))
    with pytest.raises(TaskError, match=r"Known tasks: dfew.*--labels"):
        find_task("my-moods")


@pytest.mark.parametrize("labels", [(), ("a", "a"), ("a", ""), (" a",)])
def test_bad_labels(labels: tuple[str, ...]) -> None:
    with pytest.raises(TaskError):
        Task("t", "classes", labels)
