"""What an evaluation reports, and each rule of the verdict."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from svfap_edge.errors import SourceError, TaskError
from svfap_edge.evaluation.analysis import analyse
from svfap_edge.evaluation.analysis_types import ArtifactPredictions, Drop, Evaluation
from svfap_edge.evaluation.verdict import judge, signed
from svfap_edge.tasks import TASKS, Task

MOODS = Task("moods", "classes", ("calm", "cross", "glad"))


def result(name: str, scores: np.ndarray, ms: float = 0, size: int = 1000) -> ArtifactPredictions:
    precision, _, engine = name.partition(".")
    latency = np.full(20, ms) if ms else np.array([])
    return ArtifactPredictions(
        name, "moods-v1", "out/moods-v1", engine, precision, size, scores, latency
    )


def one_hot(labels: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[labels]


def evaluation(
    changed: int = 0,
    *,
    n: int = 1200,
    repaired: int = 0,
    ms: tuple[float, float] = (50, 25),
    sizes: tuple[int, int] = (4000, 1000),
    names: tuple[str, str] = ("fp32.onnx", "int8.openvino"),
    **fields: Any,
) -> Evaluation:
    """A baseline right on 2 of 3 files; a candidate with some right answers lost, some gained."""
    rng = np.random.default_rng(0)
    targets = np.arange(n) % 3
    right = rng.random(n) < 2 / 3
    ours = np.where(right, targets, (targets + 1) % 3)
    theirs = ours.copy()
    lost, won = rng.permutation(np.flatnonzero(right)), rng.permutation(np.flatnonzero(~right))
    theirs[lost[:changed]] = (targets[lost[:changed]] + 2) % 3
    theirs[won[:repaired]] = targets[won[:repaired]]
    return Evaluation(
        **{
            "task": MOODS,
            "data": "test.txt",
            "data_sha256": "0" * 64,
            "files": tuple(f"{i:04d}.mp4" for i in range(n)),
            "targets": targets,
            "missing": ("dark.mp4",),
            "baseline": result(names[0], one_hot(ours), ms[0], sizes[0]),
            "candidates": (result(names[1], one_hot(theirs), ms[1], sizes[1]),),
            "machine": {"processor": "x"},
            "created": "2025-01-01T00:00:00+00:00",
            **fields,
        }
    )


def verdict(case: Evaluation) -> tuple[str, str]:
    candidate = analyse(case).candidates[0]
    return candidate.outcome, candidate.verdict


def test_numbers_of_classes() -> None:
    case = evaluation(changed=12, repaired=5)
    analysis = analyse(case)
    base, candidate = analysis.baseline, analysis.candidates[0]
    assert [m.name for m in base.metrics] == ["UAR", "WAR", "macro F1", "weighted F1", "ECE"]
    correct = np.argmax(case.baseline.scores, axis=1) == case.targets
    war = base.metrics[1]
    assert war.value == pytest.approx(correct.mean())
    assert war.low is not None and war.high is not None and war.low < war.value < war.high
    assert war.high - war.low == pytest.approx(2 * 1.96 * math.sqrt(2 / 9 / 1200), rel=0.1)
    assert np.sum(base.confusion) == 1200 and [c.count for c in base.classes] == [400] * 3
    assert candidate.mcnemar is not None
    assert (candidate.mcnemar.only_baseline, candidate.mcnemar.only_candidate) == (12, 5)
    assert candidate.mcnemar.p == pytest.approx(0.1435, abs=1e-4)
    assert candidate.agreement == pytest.approx(1 - 17 / 1200)
    assert [f.right for f in candidate.flips].count("baseline") == 12
    assert [f.right for f in candidate.flips].count("candidate") == 5
    assert candidate.drops[1].points == pytest.approx(100 * 7 / 1200)
    assert candidate.drops[1].low < candidate.drops[1].points < candidate.drops[1].high
    assert candidate.speedup == 2 and base.latency is not None and base.latency.p95_ms == 50
    assert analysis.coverage == 1200 / 1201


def test_a_flip_between_two_wrong_labels_has_neither_right() -> None:
    case = evaluation()
    wrong = int(np.flatnonzero(np.argmax(case.baseline.scores, axis=1) != case.targets)[0])
    scores = case.candidates[0].scores.copy()
    scores[wrong] = one_hot((case.targets[[wrong]] + 2) % 3)[0]
    changed = replace(case, candidates=(replace(case.candidates[0], scores=scores),))
    (flip,) = analyse(changed).candidates[0].flips
    assert flip.right == "neither" and flip.file == case.files[wrong]
    assert len({flip.target, flip.baseline, flip.candidate}) == 3


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_an_artifact_against_itself_drops_exactly_zero(kind: str) -> None:
    case = evaluation() if kind == "classes" else continuous("werewolf-xl", 0)
    same = replace(case, candidates=(case.baseline,), max_drop=0.0)
    (candidate,) = analyse(same).candidates
    assert all((d.points, d.low, d.high) == (0, 0, 0) for d in candidate.drops)
    assert candidate.agreement == 1 and candidate.flips == () and candidate.passed is True


def continuous(task: str, noise: float, **fields: Any) -> Evaluation:
    known = TASKS[task]
    rng = np.random.default_rng(0)
    targets = rng.uniform(known.low, known.high, (400, len(known.labels)))
    ours = 0.8 * targets + 0.1 * rng.normal(size=targets.shape)
    theirs = ours + noise * rng.normal(size=targets.shape)
    base = evaluation(n=400, task=MOODS)
    return replace(
        base,
        task=known,
        targets=targets,
        baseline=replace(base.baseline, scores=ours),
        candidates=(replace(base.candidates[0], scores=theirs),),
        **fields,
    )


@pytest.mark.parametrize(
    ("task", "order"),
    [("werewolf-xl", ["PCC", "CCC", "1-MAE"]), ("first-impressions", ["1-MAE", "CCC", "PCC"])],
)
def test_numbers_of_continuous_outputs(task: str, order: list[str]) -> None:
    case = continuous(task, 0.3, max_drop=1.0)
    analysis = analyse(case)
    assert [m.name for m in analysis.baseline.metrics] == order
    outputs = analysis.baseline.outputs
    assert [o.label for o in outputs] == list(case.task.labels)
    first = np.corrcoef(case.targets[:, 0], case.baseline.scores[:, 0])[0, 1]
    assert outputs[0].pcc == pytest.approx(first)
    mean = {m.name: m.value for m in analysis.baseline.metrics}
    assert mean["CCC"] == pytest.approx(np.mean([o.ccc for o in outputs]))
    error = np.abs(case.targets - case.baseline.scores).mean() / (case.task.high - case.task.low)
    assert mean["1-MAE"] == pytest.approx(1 - error)
    (candidate,) = analysis.candidates
    assert candidate.mcnemar is None and candidate.flips == () and candidate.passed is False
    assert 0.5 < candidate.agreement < 0.99
    assert all(d.low < d.points < d.high for d in candidate.drops)
    assert candidate.outcome == "drop"


def test_json_is_plain_and_has_no_nan() -> None:
    task = Task("four", "classes", ("a", "b", "c", "never"))
    base = evaluation(changed=3, ms=(0, 0))
    padded = [
        replace(r, scores=np.pad(r.scores, ((0, 0), (0, 1))))
        for r in (base.baseline, *base.candidates)
    ]
    analysis = analyse(replace(base, task=task, baseline=padded[0], candidates=(padded[1],)))
    assert math.isnan(analysis.baseline.classes[3].recall)
    text = json.dumps(analysis.to_json(), allow_nan=False)
    loaded = json.loads(text)
    assert loaded["baseline"]["classes"][3]["recall"] is None
    assert loaded["baseline"]["latency"] is None and loaded["candidates"][0]["speedup"] is None
    assert loaded["passed"] is None and loaded["candidates"][0]["flips"][0]["right"] == "baseline"
    assert text == json.dumps(analysis.to_json())


def test_same_names_of_two_bundles_are_told_apart() -> None:
    case = evaluation(names=("int8.onnx", "int8.onnx"))
    other = replace(case.candidates[0], bundle="moods-v2", path="out/moods-v2")
    analysis = analyse(replace(case, candidates=(other,)))
    assert analysis.baseline.name == "moods-v1/int8.onnx"
    artifact = analysis.candidates[0].artifact
    assert artifact.name == "moods-v2/int8.onnx"
    assert (artifact.artifact, artifact.path) == ("int8.onnx", "out/moods-v2")


def test_ship_it() -> None:
    outcome, text = verdict(evaluation(changed=9, repaired=5))
    assert outcome == "ship"
    assert text.startswith("int8.openvino: UAR -0.3 points (95 % -0.9 to +0.")
    assert text.endswith(", 2.0x faster than fp32.onnx: ship it")


def test_as_fast_and_smaller_ships() -> None:
    outcome, text = verdict(evaluation(ms=(50, 51)))
    assert outcome == "ship"
    assert text == (
        "int8.openvino: UAR 0.0 points (95 % 0.0 to 0.0), as fast as fp32.onnx, 4.0x smaller: "
        "ship it"
    )


def test_as_fast_and_as_large_gains_nothing() -> None:
    outcome, text = verdict(evaluation(ms=(50, 51), sizes=(1000, 1000)))
    assert outcome == "no gain" and text.endswith(": nothing gained, keep fp32.onnx")


def test_slower() -> None:
    outcome, text = verdict(evaluation(changed=1, ms=(40, 50)))
    assert outcome == "slower"
    assert text.endswith("0.8x the speed of fp32.onnx: INT8 is slower than fp32 here, do not")
    same = verdict(evaluation(ms=(40, 50), names=("fp32.onnx", "fp32.openvino")))[1]
    assert same.endswith(": it is slower than fp32.onnx here, do not")


def test_real_drop_beats_speed() -> None:
    outcome, text = verdict(evaluation(changed=40, repaired=3))
    assert outcome == "drop"
    assert text.startswith("int8.openvino: UAR -3.1 points (95 % -4.")
    assert text.endswith("): the drop is real, do not")


def test_over_the_limit_by_chance() -> None:
    outcome, text = verdict(evaluation(changed=115, repaired=100))
    assert outcome == "over limit"
    assert text.endswith(": over the limit of 1, but it may be chance: evaluate on more")


def test_too_few_files() -> None:
    outcome, text = verdict(evaluation(changed=30, repaired=28, n=200))
    assert outcome == "too few"
    assert "too few files to tell (95 % -" in text and text.endswith("): evaluate on more")
    outcome, text = verdict(evaluation(n=60))
    assert outcome == "too few" and "too few files to tell (60, and below 100" in text


def test_accuracy_holds_but_speed_was_not_measured() -> None:
    outcome, text = verdict(evaluation(ms=(50, 0)))
    assert outcome == "unmeasured" and text.endswith("the accuracy holds, measure the speed")


def drop(points: float, low: float, high: float, metric: str = "UAR") -> Drop:
    return Drop(metric, 0.5, 0.5 - points / 100, points, low, high)


@pytest.mark.parametrize(
    ("drops", "files", "limit", "speedup", "shrink", "expected"),
    [
        ((drop(0.4, -0.3, 1.1),), 900, 1.0, 1.9, 4, ("ship", 0)),
        ((drop(0.1, -0.3, 0.5),), 900, 1.0, 0.8, 4, ("slower", 0)),
        ((drop(3.1, 1.2, 5.0),), 900, 1.0, 0.8, 4, ("drop", 0)),
        ((drop(3.1, 1.2, 5.0),), 900, 4.0, 1.9, 4, ("ship", 0)),
        ((drop(0.5, -3.0, 4.0),), 900, 1.0, 1.9, 4, ("too few", 0)),
        ((drop(-4.5, -8.0, -1.0),), 900, 1.0, 1.9, 4, ("ship", 0)),
        ((drop(9.0, 2.0, 15.0),), 50, 1.0, 1.9, 4, ("drop", 0)),
        ((drop(0.0, 0.0, 0.0),), 99, 1.0, 1.9, 4, ("too few", 0)),
        ((drop(1.5, -0.2, 3.2),), 900, 1.0, 1.9, 4, ("over limit", 0)),
        ((drop(1.0, 0.2, 1.8),), 900, 1.0, 1.9, 4, ("ship", 0)),
        ((drop(0.5, -3.0, 4.0), drop(1.5, 0.5, 2.5, "WAR")), 900, 1.0, 1.9, 4, ("drop", 1)),
        ((drop(0.5, -1.0, 2.0), drop(1.5, -0.5, 3.5, "WAR")), 900, 1.0, 1, 4, ("over limit", 1)),
        ((drop(0.0, 0.0, 0.0),), 900, 1.0, None, 4, ("unmeasured", 0)),
        ((drop(0.0, 0.0, 0.0),), 900, 1.0, 1.04, 1, ("no gain", 0)),
        ((drop(0.0, 0.0, 0.0),), 900, 1.0, 0.96, 4, ("ship", 0)),
    ],
)
def test_rules(
    drops: tuple[Drop, ...],
    files: int,
    limit: float,
    speedup: float | None,
    shrink: float,
    expected: tuple[str, int],
) -> None:
    outcome, shown = judge(drops, files, limit, speedup, shrink)
    assert (outcome, drops.index(shown)) == expected


def test_gate() -> None:
    lost = evaluation(changed=12)  # 1.0 points exactly
    assert analyse(lost).candidates[0].passed is None and analyse(lost).passed is None
    assert analyse(replace(lost, max_drop=1.0)).passed is True
    assert analyse(replace(lost, max_drop=0.9)).passed is False
    gain = evaluation(repaired=50, max_drop=0.0)
    assert analyse(gain).passed is True


def test_a_second_decimal_where_one_would_hide_the_excess() -> None:
    text = verdict(evaluation(changed=13, n=1290))[1]  # 1.008 points
    assert "-1.01 points" in text and "the drop is real" in text


def test_signed() -> None:
    assert [signed(v) for v in (0.31, -0.31, 0.0, -0.0, -0.04)] == [
        "+0.3", "-0.3", "0.0", "0.0", "0.0",
    ]  # fmt: skip


def test_the_same_evaluation_gives_the_same_numbers() -> None:
    case = evaluation(changed=20, repaired=9)
    assert analyse(case).to_json() == analyse(case).to_json()


def test_misuse() -> None:
    case = evaluation(n=9)
    with pytest.raises(SourceError, match=r"No file of .* could be evaluated"):
        replace(case, files=())
    for limit in (-1.0, math.nan, math.inf):
        with pytest.raises(TaskError, match="allowed drop"):
            replace(case, max_drop=limit)
