"""Odd settings and times are refused alike by a stream and by a perceiver, and change nothing."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svfap_edge.clip import ClipSpec
from svfap_edge.errors import ConfigError, TimestampError
from svfap_edge.perception.cameras import Cameras
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.runtimes import Engine
from svfap_edge.sources.live import LiveSettings
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

CLIP = ClipSpec(8, 0.8, 8)
IMAGE = np.full((40, 40, 3), 120, np.uint8)

NO_NUMBERS: list[Any] = [
    "0.5", "x", b"1", None, [1], {}, 1j, np.ones(2), 10**400, math.nan, -1, -math.inf
]  # fmt: skip
STREAM = ("hop_s", "min_coverage", "smoothing_s")
VIEW = (*STREAM, "hold_s", "forget_s", "predict_s", "budget_s", "detect_every", "max_people")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder: Path = tmp_path_factory.mktemp("odd") / "brightness"
    with Engine.load(
        bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP).path
    ) as loaded:
        yield loaded


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:20])
def test_what_is_no_number_of_its_range_is_refused_by_name(engine: Engine, value: Any) -> None:
    for name in STREAM:
        with pytest.raises(ConfigError, match=name):
            engine.open_stream("a", **{name: value})
    for name in VIEW:
        if name == "budget_s" and value is None:
            continue
        with pytest.raises(ConfigError, match=name):
            Perceiver(engine, detector="none", **{name: value})
        with pytest.raises(ConfigError, match=name):
            Cameras(engine, ["a", "b"], detector="none", **{name: value})
    with pytest.raises(ConfigError, match="missing_s"):
        LiveSettings(missing_s=value)


@pytest.mark.parametrize("value", [None, 3, b"yunet"])
def test_what_is_no_detector_is_refused(engine: Engine, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"detector.*haar"):
        Perceiver(engine, detector=value)


@pytest.mark.parametrize("hop_s", [5e-324, 1e-9, 0, math.inf])
def test_a_hop_that_is_no_hop_is_refused(engine: Engine, hop_s: float) -> None:
    with pytest.raises(ConfigError, match="hop_s must be"):
        engine.open_stream("a", hop_s=hop_s)
    with pytest.raises(ConfigError, match="hop_s must be"):
        Perceiver(engine, detector="none", hop_s=hop_s)
    with (
        closing(engine.open_stream("odd")) as stream,
        pytest.raises(ConfigError, match="hop_s must be"),
    ):
        stream.set_hop(hop_s)


@pytest.mark.parametrize(
    "time_s",
    ["1", None, 1j, np.zeros(1), math.nan, math.inf, 10**400, 1e308, -1e308, 1.7e18],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_time_is_refused_and_the_next_frame_goes_on(engine: Engine, time_s: Any) -> None:
    with (
        closing(engine.open_stream("odd")) as stream,
        Perceiver(engine, detector="none") as perceiver,
    ):
        for frame in range(3):
            stream.push(IMAGE, frame)
            perceiver.process(IMAGE, frame)
        with pytest.raises(TimestampError):
            stream.push(IMAGE, time_s)
        with pytest.raises(TimestampError):
            perceiver.process(IMAGE, time_s)
        with pytest.raises(TimestampError):
            perceiver.missing(time_s)
        stream.push(IMAGE, 3)
        perceiver.process(IMAGE, 3)


@pytest.mark.parametrize("name", ["predict_s", "budget_s", "smoothing_s", "hold_s", "forget_s"])
@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e300])
def test_extreme_seconds_do_no_harm(engine: Engine, name: str, value: float) -> None:
    times = (0.0, 5e-324, 1e-300, *(0.1 * number for number in range(1, 12)), 9e14)
    with Perceiver(engine, detector="none", **{name: value}) as perceiver:  # type: ignore[arg-type]
        found = [perceiver.process(IMAGE, time_s) for time_s in times]
    assert len(found) == len(times)


def test_eight_threads_may_call_one_perceiver(engine: Engine) -> None:
    """All but one of them are late, and are told so."""
    outcomes: Counter[str] = Counter()

    def call(number: int) -> None:
        for frame in range(200):
            try:
                perceiver.process(IMAGE, (8 * frame + 5 * number % 8) / 80)
                perceiver.missing(frame / 10)
                outcomes["good"] += 1
            except Exception as error:
                outcomes[type(error).__name__] += 1

    with Perceiver(engine, detector="none", budget_s=0.01, smoothing_s=1.0) as perceiver:
        threads = [threading.Thread(target=call, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(outcomes) <= {"good", "TimestampError"} and outcomes["good"] > 0
