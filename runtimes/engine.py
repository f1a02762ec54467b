"""The engine: one loaded model that serves any number of streams."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable

import numpy as np

from svfap_edge.bundle import Bundle, Manifest
from svfap_edge.clip import SampledClip
from svfap_edge.errors import InferenceError, SvfapError

from .backend import Backend, Mode, ModelSpec, Outputs, check_outputs
from .choice import load_backend
from .prediction import Prediction, interpret
from .stream import Stream

MAX_BATCH = 16
"""Clips given to the engine at once; more are run in turns."""

MIN_COVERAGE = 0.5
"""Default share of a clip's slots that must be real for a prediction."""


class Engine:
    """A loaded model. Holds no state of any stream but the list of open ones.

    >>> with Engine.load() as engine:
    ...     engine.manifest.task.labels[:2]
    ('neutral', 'happiness')
    """

    def __init__(self, backend: Backend, manifest: Manifest) -> None:
        self.backend = backend
        self.manifest = manifest
        self._streams: list[Stream] = []
        self._lock = threading.Lock()
        self._local = threading.local()  # of each thread, memory for the clips of a step
        self._hop_origin_s: float | None = None
        self._closed = False

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        artifact: str | None = None,
        engine: str = "auto",
        threads: int | None = None,
        mode: Mode = "latency",
    ) -> Engine:
        """Verify and load a model.

        Args:
            bundle: Folder of the bundle; None for the model that ships with the package.
            artifact: Name in the bundle, for example "int8.onnx"; None picks the best one that
                an installed engine runs.
            engine: "auto", "openvino", "onnxruntime" or "tensorrt"; or ONNX Runtime with an
                execution provider: "onnxruntime:cuda", "onnxruntime:tensorrt" or
                "onnxruntime:nvtensorrtrtx".
            threads: CPU threads the engine may use; None leaves it to the engine.
            mode: "latency": all threads work on one batch, so that a clip is done as soon as can
                be. "throughput": each thread works on a clip of its own, so that a batch of many
                clips, or many threads that call, get the most clips a second. A GPU takes a batch
                at once in either mode.

        Raises:
            ValueError: no such mode.
            BundleError: missing, damaged, altered or of a newer format.
            BackendUnavailable: the engine is not installed, or has no GPU to run on.
            EngineIncompatible: the plan was built for another GPU or version of TensorRT.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        return cls(load_backend(opened, artifact, engine, threads, mode), opened.manifest)

    @property
    def spec(self) -> ModelSpec:
        """What was loaded: clip geometry, artifact, engine, effective precision."""
        return self.backend.spec

    def open_stream(
        self,
        name: str,
        *,
        hop_s: float = 0.5,
        min_coverage: float = MIN_COVERAGE,
        smoothing_s: float = 0.0,
    ) -> Stream:
        """A new stream for one face.

        Args:
            name: Appears in every prediction; unique among the open streams.
            hop_s: Seconds between predictions.
            min_coverage: Share of a clip's slots that must hold a captured frame, 0..1. Below it
                the stream is "warming" or "stale" and predicts nothing.
            smoothing_s: Time constant of `Prediction.smoothed`, see `Stream.smooth`; 0 for none.

        Raises:
            ValueError: a bad value, a name in use, or the engine is closed.
        """
        if not hop_s > 0 or not np.isfinite(hop_s):
            raise ValueError(f"hop_s must be a positive number of seconds; got {hop_s}.")
        if not 0 < min_coverage <= 1:
            raise ValueError(f"min_coverage must be in (0, 1]; got {min_coverage}.")
        if not 0 <= smoothing_s < np.inf:
            raise ValueError(f"smoothing_s must be 0 or more seconds; got {smoothing_s}.")
        with self._lock:
            self._check_open()
            if any(stream.name == name for stream in self._streams):
                raise ValueError(f"A stream named '{name}' is open already; choose another name.")
            stream = Stream(self, name, hop_s, min_coverage, smoothing_s)
            self._streams.append(stream)
            return stream

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The open streams."""
        with self._lock:
            return tuple(self._streams)

    def step(
        self, streams: Iterable[Stream] | None = None, *, most: int | None = None
    ) -> list[Prediction]:
        """Run all clips that are ready, in one batch; see `Stream.add`.

        Args:
            streams: Which streams to serve, in this order; None for all open ones.
            most: Serve only so many; the other clips wait.

        Returns:
            A prediction for each ready stream, in their order; empty if none was ready.

        Raises:
            InferenceError: the engine failed or returned NaN. The clips of this batch are
                dropped, none is presented as a prediction, and the streams go on.
        """
        chosen = self.streams if streams is None else streams
        ready = [stream for stream in chosen if stream.ready][:most]
        clips = self._memory_for(len(ready))
        taken: list[tuple[Stream, SampledClip, float]] = []
        for stream in ready:
            found = stream.take_clip(clips[len(taken)])
            if found is not None:  # another thread may have taken it
                taken.append((stream, *found))
        if not taken:
            return []
        outputs = self.infer(clips[: len(taken)])
        now = time.perf_counter()
        predictions = []
        for row, (stream, clip, added_at) in enumerate(taken):
            label, score, scores = interpret(outputs.logits[row], self.manifest.task)
            predictions.append(
                Prediction(
                    stream=stream.name,
                    start_s=clip.start_s,
                    end_s=clip.end_s,
                    coverage=clip.coverage,
                    latency_ms=(now - added_at) * 1e3,
                    label=label,
                    score=score,
                    scores=scores,
                    logits=outputs.logits[row],
                    features=None if outputs.features is None else outputs.features[row],
                    smoothed=stream.smooth(scores, clip.end_s),
                )
            )
        return predictions

    def _memory_for(self, count: int) -> np.ndarray:
        """Memory of this thread for (count, T, H, W, 3) clips; new memory would cost more than
        filling it."""
        memory: np.ndarray | None = getattr(self._local, "clips", None)
        if memory is None or len(memory) < count:
            memory = self._local.clips = np.empty((count, *self.spec.clip.shape), np.uint8)
        return memory

    def infer(self, clips: np.ndarray) -> Outputs:
        """Run whole clips, without a stream: (N, T, H, W, 3) uint8 RGB to `Outputs`.

        Raises:
            FrameError: wrong dtype or shape.
            InferenceError: the engine failed, or returned NaN or a wrong shape.
        """
        self._check_open()
        parts = []
        for start in range(0, max(1, len(clips)), MAX_BATCH):
            batch = clips[start : start + MAX_BATCH]
            try:
                outputs = self.backend.run(batch)
            except (SvfapError, ValueError):
                raise
            except Exception as error:  # every engine has exceptions of its own
                raise InferenceError(
                    f"{self.spec.engine} failed on '{self.spec.artifact}': {str(error)[:400]}"
                ) from error
            check_outputs(outputs, len(batch), self.spec)
            parts.append(outputs)
        if len(parts) == 1:
            return parts[0]
        features = [p.features for p in parts if p.features is not None]
        return Outputs(
            np.concatenate([p.logits for p in parts]),
            np.concatenate(features) if features else None,
        )

    def hop_origin(self, timestamp_s: float) -> float:
        """Origin of the hop grid all streams share: the first timestamp the engine saw."""
        with self._lock:
            if self._hop_origin_s is None:
                self._hop_origin_s = timestamp_s
            return self._hop_origin_s

    def forget(self, stream: Stream) -> None:
        """Take a stream off the list; called by `Stream.close`."""
        with self._lock:
            self._streams = [other for other in self._streams if other is not stream]

    def close(self) -> None:
        """End all streams and free the model. Idempotent."""
        for stream in self.streams:
            stream.close()
        if not self._closed:
            self._closed = True
            self._local = threading.local()
            self.backend.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("The engine is closed; load it again.")

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
