"""The engine: one loaded model that serves any number of streams."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from weakref import WeakValueDictionary

import numpy as np

from svfap_edge.bundle import Bundle, Manifest
from svfap_edge.clip import SampledClip, SlotGrid
from svfap_edge.ending import native
from svfap_edge.errors import (
    BundleError,
    ConfigError,
    InferenceError,
    SvfapError,
    require_number,
)
from svfap_edge.schedule import HOP_S, MIN_COVERAGE

from .backend import Backend, Mode, ModelSpec, Outputs, check_finite, joined, wrong_shape
from .choice import load_backend
from .prediction import Prediction, interpret
from .stream import Stream

READINGS = 5
"""How often a bundle is read that is replaced in that moment."""

MAX_BATCH = 16
"""Most clips given to the engine at once; more are run in turns."""


class Engine:
    """A loaded model that serves any number of streams, whose state is theirs alone.

    It may be used from several threads.

    >>> with Engine.load() as engine:
    ...     engine.manifest.task.labels[:2]
    ('neutral', 'happiness')
    """

    def __init__(self, backend: Backend, manifest: Manifest) -> None:
        self.backend = backend
        self.manifest = manifest
        self._streams: WeakValueDictionary[str, Stream] = WeakValueDictionary()  # dropped: gone
        self._lock = threading.Lock()
        self._local = threading.local()  # of each thread, memory for the clips of a step
        self.slots = SlotGrid(backend.spec.clip.spacing_s)
        self._closed = False
        self._proven = False  # whether a run went well

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        artifact: str | None = None,
        engine: str = "auto",
        threads: int | None = None,
        mode: Mode = "latency",
        require_signature: str | os.PathLike[str] | None = None,
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
            require_signature: File of an Ed25519 public key in PEM, whose owner has to have signed
                the bundle; see `Bundle.open`.

        Raises:
            ConfigError: there is no such mode, `threads` is below 1, or the key is none.
            BundleError: missing, damaged, altered, not signed or of a newer format, without such an
                artifact, or with a model that does not fit the manifest or that the engine refuses.
            DependencyMissing: signatures need the package `cryptography`.
            BackendUnavailable: the engine is not installed, or has no GPU to run on.
            EngineIncompatible: the plan was built for another GPU or version of TensorRT.
        """
        if threads is not None:
            require_number(lambda x: x >= 1, "threads", "1 or more, or None", threads)
        given = bundle if isinstance(bundle, Bundle) and require_signature is None else None
        where = bundle.path if isinstance(bundle, Bundle) else bundle
        for _ in range(READINGS):
            opened = given or Bundle.open(where, require_signature=require_signature)
            try:
                return cls(load_backend(opened, artifact, engine, threads, mode), opened.manifest)
            except BundleError:
                if given is not None or not opened.replaced():
                    raise
        raise BundleError(f"Bundle '{opened.path}' changed {READINGS} times while it was read.")

    @property
    def spec(self) -> ModelSpec:
        """What was loaded: clip geometry, artifact, engine and effective precision."""
        return self.backend.spec

    def open_stream(
        self,
        name: str,
        *,
        hop_s: float = HOP_S,
        min_coverage: float = MIN_COVERAGE,
        smoothing_s: float = 0.0,
    ) -> Stream:
        """Open a stream for one face. It is open until it is closed or dropped.

        Args:
            name: Name of the stream, which every prediction carries; unique among the open ones.
            hop_s: Seconds between predictions, 0.5 by default.
            min_coverage: Share of a clip's slots that must hold a captured frame, above 0 and at
                most 1; 0.5 by default. Below it the stream is "warming" or "stale" and predicts
                nothing.
            smoothing_s: Seconds in which `Prediction.smoothed` follows a step of the scores to
                63 %; 0, the default, for no smoothing.

        Raises:
            ConfigError: an option is out of its range, the name is in use, or the engine is closed.
        """
        stream = Stream(
            name,
            self.spec.clip,
            self.slots,
            hop_s=hop_s,
            min_coverage=min_coverage,
            smoothing_s=smoothing_s,
            step=self.step,
            forget=self._forget,
        )
        with self._lock:
            self.check_open()
            if name in self._streams:
                raise ConfigError(
                    f"A stream named '{name}' is open already on this engine. Is it that of a "
                    "Perceiver or Cameras on this engine that was not closed? Close that one, or "
                    "choose another name (for a Perceiver: another prefix)."
                )
            self._streams[name] = stream
        return stream

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The open streams, in the order in which they were opened."""
        with self._lock:
            return tuple(self._streams.values())

    def step(self, streams: Iterable[Stream] | None = None) -> list[Prediction]:
        """Run all clips that `Stream.add` made ready, in one batch.

        Args:
            streams: The streams to serve, in this order; None for all open ones.

        Returns:
            A prediction for each ready stream, in their order; empty if none was ready.

        Raises:
            InferenceError: the engine failed or returned NaN. The clips of this batch are
                dropped, none is presented as a prediction, and the streams go on.
        """
        chosen = self.streams if streams is None else streams
        ready = [stream for stream in chosen if stream.ready]
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
        """Memory of this thread for clips (count, T, H, W, 3). It is used again, because new
        memory would cost more than filling it."""
        memory: np.ndarray | None = getattr(self._local, "clips", None)
        if memory is None or len(memory) < count:
            memory = self._local.clips = np.empty((count, *self.spec.clip.shape), np.uint8)
        return memory

    def infer(self, clips: np.ndarray) -> Outputs:
        """Run whole clips, without a stream.

        Args:
            clips: (N, T, H, W, 3) uint8 RGB, N > 0, of the geometry in `spec.clip`.

        Returns:
            Logits (N, L) float32, and features (N, F) float32 where the artifact has them.

        Raises:
            FrameError: wrong dtype or shape.
            BundleError: the engine failed, or returned a wrong shape, and never was right before.
            InferenceError: the engine failed later, or returned NaN.
            ConfigError: the engine is closed.
        """
        self.check_open()
        parts = []
        for start in range(0, max(1, len(clips)), MAX_BATCH):
            batch = clips[start : start + MAX_BATCH]
            try:
                with native:
                    outputs = self.backend.run(batch)
            except SvfapError:
                raise
            except Exception as error:  # every engine has exceptions of its own
                raise self._failure(str(error)[:400]) from error
            wrong = wrong_shape(outputs, len(batch), self.spec)
            if wrong is not None:
                raise self._failure(wrong)
            check_finite(outputs, self.spec)
            self._proven = True
            parts.append(outputs)
        return joined(parts)

    def embed(self, clips: np.ndarray) -> np.ndarray:
        """What the model makes of whole clips before its last layer, to compare or classify them
        by.

        Args:
            clips: (N, T, H, W, 3) uint8 RGB, N > 0, of the geometry in `spec.clip`.

        Returns:
            Features (N, F) float32, F being `spec.features`; not normalized. Clips that go through
            a stream have theirs in `Prediction.features`.

        Raises:
            ConfigError: the artifact returns no features, or the engine is closed.
            FrameError, BundleError, InferenceError: as for `infer`.
        """
        self.check_open()
        if not self.spec.features:
            raise ConfigError(
                f"'{self.spec.artifact}' returns no features, only {self.spec.outputs} logits. "
                "Export the checkpoint again with --features (in Python features=True)."
            )
        features = self.infer(clips).features
        assert features is not None  # the model was checked against the manifest
        return features

    def _failure(self, words: str) -> SvfapError:
        """The error for a run that failed: of the bundle as long as none went well."""
        name, artifact = self.spec.engine, self.spec.artifact
        if self._proven:
            return InferenceError(f"{name} failed on '{artifact}': {words}")
        return BundleError(
            f"{name} failed on the first clip of '{artifact}': {words}\nThe file is intact (its "
            "digest was checked). Export it again, or try another artifact or engine."
        )

    def _forget(self, stream: Stream) -> None:
        with self._lock:
            if self._streams.get(stream.name) is stream:
                del self._streams[stream.name]

    def close(self) -> None:
        """End all streams and free the model. More calls do nothing."""
        for stream in self.streams:
            stream.close()
        if not self._closed:
            self._closed = True
            self._local = threading.local()
            self.backend.close()

    def check_open(self) -> None:
        """Raise ConfigError if the engine is closed."""
        if self._closed:
            raise ConfigError(
                f"The engine of '{self.spec.artifact}' is closed; load the model again with "
                "Engine.load."
            )

    def __repr__(self) -> str:
        streams = self.streams
        names = f": {', '.join(stream.name for stream in streams)}" if streams else ""
        state = "closed" if self._closed else f"{len(streams)} open streams{names}"
        spec = self.spec
        return f"<Engine {spec.artifact} on {spec.engine} in {spec.precision}, {state}>"

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
