"""Streams: hops, coverage, states, gaps, disorder, and many at once."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from svfap_edge.clip import ClipSpec
from svfap_edge.errors import ConfigError, FrameError, InferenceError, TimestampError
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.runtimes import Engine, Outputs, Prediction
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

CLIP = ClipSpec(8, 0.8, 8)  # a slot every 0.1 s


@pytest.fixture(scope="module")
def engine_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s") / "brightness"
    return bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP).path


@pytest.fixture
def engine(engine_path: Path) -> Iterator[Engine]:
    with Engine.load(engine_path) as loaded:
        yield loaded


def grey(value: int, size: int = 8) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def feed(stream, times, value: int = 100) -> list[Prediction]:  # type: ignore[no-untyped-def]
    return [p for t in times for p in stream.push(grey(value), float(t))]


@pytest.mark.parametrize("fps", [12, 25, 30, 59.94, 240])
def test_hops_do_not_drift_at_any_frame_rate(engine: Engine, fps: float) -> None:
    stream = engine.open_stream("s", hop_s=0.2, min_coverage=0.5)
    found = feed(stream, np.arange(0, 10, 1 / fps))
    ends = np.array([p.end_s for p in found])
    # One prediction for every tubelet from the first on, each on the first frame of its last slot.
    slots = np.floor((ends + 0.005) / 0.1).astype(int)
    assert (np.diff(slots) == 2).all() and (slots % 2 == 1).all()
    assert slots[-1] >= 99
    assert (ends - slots * 0.1 < 1 / fps).all()


def test_a_long_run_keeps_its_hops(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.6)
    start = 1e6  # a clock that has run for days
    found = feed(stream, start + np.arange(0, 60, 1 / 30))
    assert len(found) == pytest.approx(100, abs=1)
    later = found[1:]
    assert later[-1].end_s - later[0].end_s == pytest.approx(0.6 * (len(later) - 1), abs=0.04)


def test_warming_then_valid(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.1, min_coverage=1.0)
    assert stream.state == "warming"
    assert feed(stream, np.arange(0, 0.69, 0.1)) == []
    assert stream.state == "warming"
    (first,) = feed(stream, [0.7])
    assert stream.state == "valid"
    assert (first.start_s, first.end_s) == (pytest.approx(0.0), pytest.approx(0.7))
    assert first.coverage == 1


def test_the_first_prediction_does_not_wait_for_its_hop(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=2.0, min_coverage=0.5)
    found = feed(stream, np.arange(0, 6.5, 0.1))
    assert [round(p.end_s, 3) for p in found] == [0.3, 1.9, 3.9, 5.9]
    assert found[0].coverage == 0.5


def test_a_hop_right_after_the_first_prediction_is_skipped(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.6, min_coverage=0.5)
    found = feed(stream, np.arange(0, 1.8, 0.1))
    assert [round(p.end_s, 3) for p in found] == [0.3, 1.1, 1.7]


def test_partial_coverage_is_told(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.2, min_coverage=0.5)
    found = feed(stream, np.arange(0, 0.75, 0.1))
    assert [round(p.coverage * 8) for p in found] == [4, 6, 8]


def test_slots_take_the_first_frame_at_or_after_their_time(engine: Engine) -> None:
    """Brightness tells which frames went in; the others need not be given."""
    stream = engine.open_stream("s", hop_s=0.2, min_coverage=1.0)
    times = np.arange(40) * 0.025
    wanted = [stream.wants(float(times[0]))]
    found = []
    for i, t in enumerate(times):
        wanted.append(stream.wants(float(t)))
        found += stream.push(grey(i * 4), float(t))
    assert [i for i, w in enumerate(wanted[1:]) if w] == list(range(0, 40, 4))
    for prediction in found:
        slots = np.linspace(prediction.start_s, prediction.end_s, 8)
        want = np.mean([np.searchsorted(times, slot - 1e-6) * 4 for slot in slots]) / 255
        assert prediction.logits[0] == pytest.approx(want, abs=1e-5)
    assert len(found) == 2


def test_a_gap_lowers_coverage_then_makes_the_stream_stale(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.1, min_coverage=0.75)
    feed(stream, np.arange(0, 1.95, 0.05))
    assert stream.state == "valid"
    assert feed(stream, [2.5]) == []  # six slots of eight are empty but for the newest
    assert stream.state == "stale"
    again = feed(stream, np.arange(2.55, 4, 0.05))
    assert again
    assert stream.state == "valid"
    assert all(p.coverage >= 0.75 for p in again)


@pytest.mark.parametrize(("fps", "late_s"), [(30, 1.3), (120, 0.2)])
def test_a_late_step_predicts_the_clip_that_was_due(
    engine: Engine, fps: float, late_s: float
) -> None:
    """Not its frames' successors, however many came meanwhile."""
    stream = engine.open_stream("s", hop_s=100, min_coverage=1.0)
    times = np.arange(0, 4, 1 / fps)
    due_s = next(t for t in times if stream.add(grey(40), float(t)))
    for time_s in times[(times > due_s) & (times < due_s + late_s)]:
        stream.add(grey(200), float(time_s))
    (prediction,) = engine.step([stream])
    assert prediction.end_s == due_s
    assert prediction.coverage == 1
    assert prediction.logits[0] == pytest.approx(40 / 255, abs=1e-5)


def test_a_step_too_late_for_the_memory_predicts_nothing(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=100, min_coverage=0.5)
    for time_s in np.arange(0, 6, 1 / 240):
        stream.add(grey(40), float(time_s))
    assert len(stream._buffer) <= 3 * 8
    assert engine.step([stream]) == []
    assert stream.missed == 1
    assert not stream.ready


def test_frames_are_not_invented_across_a_gap(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.1, min_coverage=0.1)
    feed(stream, np.arange(0, 1, 0.1))
    (p,) = feed(stream, [1.5])
    assert p.coverage == 3 / 8  # the slots at 0.8 and 0.9, none from 1.0 to 1.4, and 1.5


def test_irregular_camera_keeps_the_models_spacing(engine: Engine) -> None:
    random = np.random.default_rng(0)
    stream = engine.open_stream("s", hop_s=0.2)
    times = np.cumsum(random.uniform(0.02, 0.08, 200))
    for prediction in feed(stream, times):
        assert prediction.end_s - prediction.start_s == pytest.approx(0.7)


@pytest.mark.parametrize("bad_s", [1.0, 0.5, float("nan"), float("inf")])
def test_time_must_advance_and_a_refusal_changes_nothing(engine: Engine, bad_s: float) -> None:
    one, two = engine.open_stream("one", hop_s=0.1), engine.open_stream("two", hop_s=0.1)
    for stream in (one, two):
        feed(stream, np.arange(0, 1.01, 0.1))
    with pytest.raises(TimestampError):
        one.push(grey(255), bad_s)
    after = [feed(stream, [1.1])[0] for stream in (one, two)]
    assert after[0].logits.tolist() == after[1].logits.tolist()
    assert after[0].coverage == after[1].coverage


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        [[1, 2, 3]],
    ],
    ids=["float", "grey", "rgba", "empty", "list"],
)
def test_wrong_frames_are_refused_and_change_nothing(engine: Engine, frame: object) -> None:
    stream = engine.open_stream("s", hop_s=0.1)
    feed(stream, [0.0])
    with pytest.raises(FrameError, match=r"\(H, W, 3\) uint8 RGB"):
        stream.push(frame, 0.1)  # type: ignore[arg-type]
    feed(stream, [0.1])  # 0.1 was not taken


def test_any_face_size_is_resized(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.1)
    found = []
    for i, size in enumerate([5, 8, 64, 301] * 5):
        found += stream.push(grey(100, size), i * 0.1)
    assert found[-1].logits[0] == pytest.approx(100 / 255, abs=1e-5)


def test_the_callers_frame_may_be_reused(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.1, min_coverage=1.0)
    buffer = grey(100)
    found = []
    for i in range(8):
        buffer[:] = 100
        found += stream.push(buffer, i * 0.1)
        buffer[:] = 0
    assert found[-1].logits[0] == pytest.approx(100 / 255, abs=1e-5)


def test_streams_fed_together_share_batches(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    inner = engine.backend.run

    def counting(clips: np.ndarray) -> Outputs:
        sizes.append(len(clips))
        return inner(clips)

    monkeypatch.setattr(engine.backend, "run", counting)
    streams = [engine.open_stream(f"s{i}", hop_s=0.5) for i in range(3)]
    found: list[Prediction] = []
    for i in range(90):
        for k, stream in enumerate(streams):
            if i >= 10 * k:  # they start at different times
                stream.add(grey(50 * k), i / 30)
        found += engine.step()
    assert sizes[-1] == 3
    assert {p.stream for p in found} == {"s0", "s1", "s2"}
    last = {p.stream: p for p in found}
    assert [round(float(last[f"s{k}"].logits[0]) * 255) for k in range(3)] == [0, 50, 100]


def test_more_streams_than_a_batch(engine: Engine) -> None:
    streams = [engine.open_stream(f"s{i}", hop_s=0.1) for i in range(37)]
    for t in np.arange(0, 0.75, 0.1):
        for i, stream in enumerate(streams):
            stream.add(grey(i), float(t))
    found = engine.step()
    assert [round(float(p.logits[0]) * 255) for p in found] == list(range(37))


def test_interleaved_streams_equal_separate_ones(engine_path: Path) -> None:
    random = np.random.default_rng(1)
    frames = random.integers(0, 255, (2, 60, 8, 8, 3), dtype=np.uint8)
    times = np.arange(60) / 30

    def alone(k: int) -> list[list[float]]:
        with Engine.load(engine_path) as engine:
            stream = engine.open_stream("x", hop_s=0.2)
            found = [p for f, t in zip(frames[k], times, strict=True) for p in stream.push(f, t)]
            return [p.logits.tolist() for p in found]

    with Engine.load(engine_path) as engine:
        streams = [engine.open_stream(name, hop_s=0.2) for name in "ab"]
        mixed: dict[str, list[list[float]]] = {"a": [], "b": []}
        for i, t in enumerate(times):
            for k, stream in enumerate(streams):
                for p in stream.push(frames[k][i], t):
                    mixed[p.stream].append(p.logits.tolist())
    np.testing.assert_allclose(mixed["a"], alone(0), atol=1e-6)
    np.testing.assert_allclose(mixed["b"], alone(1), atol=1e-6)


def test_a_missed_clip_is_replaced_by_the_newer_one(engine: Engine) -> None:
    """A consumer that is slow to call step gets the newest clip, not a queue."""
    stream = engine.open_stream("s", hop_s=0.1)
    for i in range(20):
        stream.add(grey(10), i * 0.1)
    found = engine.step()
    assert [p.end_s for p in found] == [pytest.approx(1.9)]
    assert engine.step() == []


def test_memory_is_bounded_for_fast_cameras(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.5)
    for i in range(5000):
        stream.add(grey(1), i / 1000)
    assert len(stream._buffer) <= 3 * 8


def test_mark_stale_and_reset(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.1)
    feed(stream, np.arange(0, 1, 0.1))
    stream.mark_stale()
    assert stream.state == "stale"
    assert engine.step() == []
    stream.reset()
    assert stream.state == "warming"
    with pytest.raises(TimestampError):
        feed(stream, [0.2])
    assert len(feed(stream, np.arange(1, 2, 0.1))) > 0


def test_closed_streams_and_engines_refuse(engine_path: Path) -> None:
    engine = Engine.load(engine_path)
    stream = engine.open_stream("s")
    stream.close()
    stream.close()
    assert stream.state == "ended"
    with pytest.raises(ConfigError, match="'s' has ended"):
        stream.push(grey(1), 0.0)
    other = engine.open_stream("s")  # the name is free again
    engine.close()
    engine.close()
    assert other.state == "ended"
    with pytest.raises(ConfigError, match=r"fp32\.onnx.* closed.*Engine\.load"):
        engine.open_stream("t")
    with pytest.raises(ConfigError, match="closed"):
        engine.infer(np.zeros((1, *CLIP.shape), np.uint8))


@pytest.mark.parametrize(
    "bad",
    [
        {"hop_s": 0},
        {"hop_s": -1},
        {"hop_s": float("nan")},
        {"hop_s": float("inf")},
        {"min_coverage": 0},
        {"min_coverage": 1.1},
        {"smoothing_s": -1},
        {"smoothing_s": float("nan")},
    ],
    ids=str,
)
def test_bad_stream_options(engine: Engine, bad: dict[str, float]) -> None:
    ((name, value),) = bad.items()
    with pytest.raises(ConfigError, match=rf"{name} must be .*; got {value}\.") as caught:
        engine.open_stream("s", **bad)
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2
    assert engine.streams == ()
    if name == "hop_s":
        with pytest.raises(ConfigError, match="hop_s"):
            engine.open_stream("s").set_hop(value)


def test_names_are_unique(engine: Engine) -> None:
    driver = engine.open_stream("driver")
    with pytest.raises(ConfigError, match=r"'driver' is open already.*Perceiver.*prefix"):
        engine.open_stream("driver")
    assert engine.streams == (driver,)
    del driver  # a stream that nobody holds cannot be pushed to: its name is free
    engine.open_stream("driver").close()


def test_prediction_content(engine: Engine) -> None:
    stream = engine.open_stream("s", hop_s=0.1)
    p = feed(stream, np.arange(0, 1, 0.1), value=255)[-1]
    assert p.label == "bright"
    assert p.score == p.scores["bright"] == max(p.scores.values())
    assert sum(p.scores.values()) == pytest.approx(1)
    assert p.latency_ms > 0
    line = p.to_json()
    assert line["type"] == "prediction"
    assert line["label"] == "bright"


def test_predictions_can_be_counted_and_looked_up(engine: Engine) -> None:
    found = feed(engine.open_stream("s", hop_s=0.1), np.arange(0, 1, 0.1))
    assert len({*found, *found}) == len(found)
    assert dict(zip(found, range(len(found)), strict=True))[replace(found[1])] == 1


def test_what_is_open_can_be_read(engine: Engine) -> None:
    assert repr(engine) == (
        f"<Engine fp32.onnx on {engine.spec.engine} in {engine.spec.precision}, 0 open streams>"
    )
    stream = engine.open_stream("driver", hop_s=0.25)
    assert repr(stream) == "<Stream 'driver': warming, a prediction every 0.2 s>"
    assert "1 open streams: driver>" in repr(engine)
    engine.close()
    assert "'driver': ended" in repr(stream)
    assert "closed>" in repr(engine)


def test_times_in_milliseconds_bring_one_warning(engine: Engine) -> None:
    stream = engine.open_stream("driver")
    with pytest.warns(UserWarning, match=r"'driver'.*milliseconds") as caught:
        assert feed(stream, np.arange(0, 3000, 33.3)) == []
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feed(engine.open_stream("other"), np.arange(0, 3, 0.0333))


def test_smoothed_scores_follow_a_step_to_63_percent(engine: Engine) -> None:
    """By the share 1 - exp(-elapsed / smoothing_s), and anew after a reset."""
    stream = engine.open_stream("s", hop_s=0.1, min_coverage=0.1, smoothing_s=0.5)
    found = feed(stream, np.arange(0, 2, 0.1), value=0) + feed(stream, np.arange(2, 3, 0.1), 255)
    expected: dict[str, float] = dict(found[0].scores)
    assert found[0].smoothed == expected
    for before, now in itertools.pairwise(found):
        share = 1 - np.exp(-(now.end_s - before.end_s) / 0.5)
        expected = {k: v + share * (now.scores[k] - v) for k, v in expected.items()}
        assert now.smoothed == pytest.approx(expected)
    stream.reset()
    again = feed(stream, np.arange(3, 4, 0.1), value=0)[0]
    assert again.smoothed == again.scores


def test_an_engine_that_raises_is_an_inference_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(_: np.ndarray) -> Outputs:
        raise RuntimeError("out of memory")

    stream = engine.open_stream("s", hop_s=0.1)
    feed(stream, np.arange(0, 0.5, 0.1))
    with monkeypatch.context() as patch:
        patch.setattr(engine.backend, "run", boom)
        with pytest.raises(InferenceError, match="out of memory"):
            feed(stream, np.arange(0.5, 1, 0.1))
    assert feed(stream, np.arange(2, 3, 0.1))


def test_threads_with_a_stream_each(engine: Engine) -> None:
    results: dict[int, float] = {}

    def work(k: int) -> None:
        stream = engine.open_stream(f"t{k}", hop_s=0.1)
        results[k] = float(feed(stream, np.arange(0, 3, 0.05), value=30 * k)[-1].logits[0])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {k: round(v * 255) for k, v in results.items()} == {k: 30 * k for k in range(8)}


def test_what_cannot_work_is_refused_at_once(engine_path: Path) -> None:
    with pytest.raises(ConfigError, match="threads must be 1 or more"):
        Engine.load(engine_path, threads=0)
    engine = Engine.load(engine_path)
    engine.close()
    with pytest.raises(ConfigError, match=r"is closed; load the model again"):
        Perceiver(engine)
