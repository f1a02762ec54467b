"""Many cameras, one engine: the ready clips of all of them in one batch."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from svfap_edge.errors import ConfigError, InferenceError, require_number
from svfap_edge.runtimes import Engine, Prediction, Stream
from svfap_edge.runtimes.engine import MAX_BATCH

from .detectors import DETECT_SIZE, Detector, open_detector
from .results import Perception, StateChange
from .view import View, ViewSettings


class Cameras:
    """The people before several cameras, and one engine for all.

        with Engine.load(mode="throughput") as engine, Cameras(engine, ["door", "desk"]) as cameras:
            for frames in grabbed:         # {"door": (image, timestamp_s), "desk": ...}
                for name, perception in cameras.process(frames).items():
                    print(name, perception.people)

    Where cameras run at their own pace, each has a thread that calls `look` with its frames, and
    one thread calls `step` in a loop. Any thread may call anything.

    People are named after their camera: "door-1". Each camera has its own clock.

    Attributes:
        views: What each camera sees, by its name, with `statistics`, `seconds` and `warnings`.
    """

    def __init__(
        self,
        engine: Engine,
        names: Iterable[str],
        *,
        detector: str | Detector = "auto",
        face_model: str | os.PathLike[str] | None = None,
        detect_size: int | str = DETECT_SIZE,
        most: int = MAX_BATCH,
        workers: int = 1,
        budget_s: float | None = None,
        **settings: Any,
    ) -> None:
        """
        Args:
            engine: Closed by the caller.
            names: A name for each camera. People of a camera named "" are "person-1" and so on.
            detector: The face detector by name, see `Perceiver`: each camera has its own. For one
                camera also a detector of your own.
            face_model: YuNet's ONNX file; by default it is looked for, see `open_detector`.
            detect_size: Pixels of the longer side that frames are shrunk to before the search.
            most: Clips in a batch. If more are ready, cameras take turns, and the next batch begins
                with the camera after the last one served.
            workers: Threads in which `process` looks at frames of different cameras.
            budget_s: Seconds that a frame of every camera together may take on average; each
                camera gets an equal share. See `Perceiver`.
            settings: Settings of every camera, as `Perceiver` takes them: hop_s, min_coverage,
                hold_s, forget_s, detect_every, predict_s, smoothing_s, max_people.

        Raises:
            ConfigError: no names, the same one twice, a value out of its range, or the engine is
                closed.
            SourceError: the face model is missing or wrong.
        """
        engine.check_open()
        listed = list(names)
        if not listed or len(set(listed)) < len(listed):
            raise ConfigError(f"Every camera needs a name of its own; got {listed}.")
        require_number(lambda x: x >= 1, "most", "1 or more", most)
        require_number(lambda x: x >= 1, "workers", "1 or more", workers)
        if not isinstance(detector, str) and len(listed) > 1:
            raise ConfigError("Name the detector: one object cannot serve several cameras at once.")
        common = ViewSettings(budget_s=budget_s, **settings)
        if budget_s is not None:
            common = replace(common, budget_s=budget_s / len(listed))
        self.views = {
            name: View(
                engine, open_detector(detector, face_model, detect_size), common, name or "person"
            )
            for name in listed
        }
        self._engine = engine
        self._most = most
        self._order = listed
        self._next = 0  # whose turn it is to be served first
        self._locks = {name: threading.Lock() for name in listed}
        self._looking = {name: threading.Lock() for name in listed}  # taken before the other one
        self._looked: dict[str, bool] = dict.fromkeys(listed, False)
        self._stepping = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(workers, "svfap-edge-camera") if workers > 1 else None

    def process(self, frames: Mapping[str, tuple[np.ndarray, float]]) -> dict[str, Perception]:
        """Take at most one frame of each camera, and run what is ready.

        Args:
            frames: (image, timestamp_s) by camera; see `Perceiver.process`.

        Returns:
            For each camera that gave a frame, or that a prediction came for.

        Raises:
            FrameError, TimestampError: of any frame. Nothing was changed.
            InferenceError: as `step`.
            ConfigError: an unknown camera.
        """
        for name, (image, timestamp_s) in frames.items():
            with self._lock(name):
                self.views[name].check(image, timestamp_s)
        look_at_all = map if self._pool is None else self._pool.map
        list(look_at_all(lambda item: self.look(item[0], *item[1]), frames.items()))
        return self.step()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("These cameras are closed. Make new ones for more frames.")

    def look(self, name: str, image: np.ndarray, timestamp_s: float) -> bool:
        """Take a frame without running the model.

        Returns:
            Whether a clip of this camera is ready for `step`.

        Raises:
            FrameError, TimestampError: as `Perceiver.process`.
            ConfigError: an unknown camera.
        """
        self._check_open()
        lock, view = self._lock(name), self.views[name]
        with self._looking[name]:
            boxes = view.search(image, timestamp_s)  # `step` does not wait for this
            with lock:
                view.follow(image, timestamp_s, boxes)
                self._looked[name] = True
                return bool(view.waiting())

    def wants(self, name: str, timestamp_s: float) -> bool:
        """Whether the picture of a camera's frame is looked at; see `Perceiver.wants`. ConfigError
        for an unknown camera."""
        with self._lock(name):
            return self.views[name].wants(timestamp_s)

    def step(self) -> dict[str, Perception]:
        """Run ready clips of all cameras in one batch.

        Returns:
            For each camera that gave frames since the last step, or that a prediction came for.

        Raises:
            InferenceError: the engine failed; the clips of this batch are dropped. What else the
                frames brought is returned by the next step.
        """
        self._check_open()
        with self._stepping:
            chosen = self._take_turns()
            owner = {stream.name: name for name, stream in chosen}
            started = time.perf_counter()
            try:
                predictions = self._engine.step([stream for _, stream in chosen])
            except InferenceError:
                for name in set(owner.values()):
                    with self._locks[name]:
                        self.views[name].people.forget_predictions()
                raise
            spent = time.perf_counter() - started
            found: dict[str, list[Prediction]] = {name: [] for name in self._order}
            for prediction in predictions:
                found[owner[prediction.stream]].append(prediction)
            return {
                name: self._conclude(name, mine, spent * len(mine) / max(1, len(predictions)))
                for name, mine in found.items()
                if mine or self._looked[name]
            }

    def missing(self, name: str, timestamp_s: float) -> list[StateChange]:
        """A camera gives no frames; see `Perceiver.missing`."""
        with self._stepping, self._lock_all(name):
            return self.views[name].missing(timestamp_s)

    def reset(self, name: str) -> None:
        """The next frame of a camera comes after a gap; see `Perceiver.reset`."""
        with self._stepping, self._lock_all(name):
            self.views[name].people.reset()

    def restart_clock(self, name: str) -> list[StateChange]:
        """After a jump of a camera's clock; see `Perceiver.restart_clock`."""
        with self._stepping, self._lock_all(name):
            self._looked[name] = False
            return self.views[name].restart_clock()

    def end(self, name: str) -> list[StateChange]:
        """End the streams of a camera that gives no more frames; the others go on."""
        with self._stepping, self._lock_all(name):
            view = self.views[name]
            last = view.conclude([]) if self._looked[name] else None
            self._looked[name] = False
            return [*(last.changes if last else ()), *view.finish()]

    def finish(self) -> dict[str, list[StateChange]]:
        """End all streams of all cameras."""
        return {name: self.end(name) for name in self._order}

    def close(self) -> None:
        """End all streams and threads. Idempotent."""
        self._closed = True
        self.finish()
        if self._pool is not None:
            self._pool.shutdown()

    def _lock(self, name: str) -> threading.Lock:
        if name not in self._locks:
            raise ConfigError(f"No camera '{name}'; there are: {', '.join(self._order)}.")
        return self._locks[name]

    @contextmanager
    def _lock_all(self, name: str) -> Iterator[None]:
        """No frame of this camera is being looked at, either."""
        lock = self._lock(name)
        with self._looking[name], lock:
            yield

    def _take_turns(self) -> list[tuple[str, Stream]]:
        """Ready streams, one of each camera in turn until the batch is full."""
        queues = []
        for name in self._order[self._next :] + self._order[: self._next]:
            with self._locks[name]:
                queues.append((name, self.views[name].waiting()))
        chosen: list[tuple[str, Stream]] = []
        for turn in range(max(len(streams) for _, streams in queues)):
            for name, streams in queues:
                if turn < len(streams) and len(chosen) < self._most:
                    chosen.append((name, streams[turn]))
        if chosen:
            self._next = (self._order.index(chosen[-1][0]) + 1) % len(self._order)
        return chosen

    def _conclude(self, name: str, predictions: list[Prediction], model_s: float) -> Perception:
        with self._locks[name]:
            self._looked[name] = False
            return self.views[name].conclude(predictions, model_s)

    def __enter__(self) -> Cameras:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
