"""Engines in many threads: nothing depends on who else runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.runtimes import Engine, available_engines

ENGINES = available_engines("onnx")
THREADS = 8


@pytest.fixture(params=["latency", "throughput"])
def engines(request: pytest.FixtureRequest, tiny: Bundle) -> Iterator[list[Engine]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(Engine.load(tiny, engine=name, mode=request.param))
            for name in ENGINES
        ]


def together(work: Callable[[int], None]) -> None:
    """Run `work` in all threads at once; raise what one raised."""
    barrier, errors = threading.Barrier(THREADS), list[BaseException]()

    def begin(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_whole_clips_in_eight_threads_on_all_engines(
    engines: list[Engine], random: np.random.Generator
) -> None:
    """To the bit: the same calls, whoever else calls meanwhile."""
    shape = engines[0].spec.clip.shape
    calls = [
        random.integers(0, 256, (1 + number % 3, *shape), dtype=np.uint8) for number in range(24)
    ]
    serial = [[engine.infer(clips).logits for clips in calls] for engine in engines]
    found: dict[tuple[int, int], np.ndarray] = {}

    def work(number: int) -> None:
        for index in range(number, len(calls), THREADS):
            for which, engine in enumerate(engines if number % 2 else engines[::-1]):
                place = which if number % 2 else len(engines) - 1 - which
                found[place, index] = engine.infer(calls[index]).logits

    together(work)
    for (which, index), logits in found.items():
        np.testing.assert_array_equal(logits, serial[which][index])
    assert len(found) == len(engines) * len(calls)


def test_a_stream_in_each_of_eight_threads(
    engines: list[Engine], random: np.random.Generator
) -> None:
    side = engines[0].spec.clip.size
    frames = random.integers(0, 256, (THREADS, 40, side, side, 3), dtype=np.uint8)

    def feed(number: int, name: str) -> list[tuple[float, list[float]]]:
        engine = engines[number % len(engines)]
        stream = engine.open_stream(name, hop_s=0.2)
        found = [
            (p.end_s, p.logits.tolist())
            for i, frame in enumerate(frames[number])
            for p in stream.push(frame, i / 30)
        ]
        stream.close()
        return found

    serial = [feed(number, f"serial-{number}") for number in range(THREADS)]
    results: dict[int, list[tuple[float, list[float]]]] = {}

    def work(number: int) -> None:
        results[number] = feed(number, f"thread-{number}")

    together(work)
    assert [results[number] for number in range(THREADS)] == serial
    assert all(serial)


@pytest.mark.parametrize("name", ENGINES)
def test_modes_agree(name: str, tiny: Bundle) -> None:
    found = []
    for mode in ("latency", "throughput"):
        with Engine.load(tiny, engine=name, mode=mode, threads=2) as engine:  # type: ignore[arg-type]
            clips = np.random.default_rng(0).integers(
                0, 256, (19, *engine.spec.clip.shape), dtype=np.uint8
            )
            found.append(engine.infer(clips).logits)
            engine.close()
            with pytest.raises(ValueError, match="closed"):
                engine.infer(clips)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_unknown_mode(tiny: Bundle) -> None:
    with pytest.raises(ValueError, match="latency, throughput; got 'fast'"):
        Engine.load(tiny, mode="fast")  # type: ignore[arg-type]
