"""Latency of every artifact of a bundle on every engine of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from svfap_edge.bundle import Bundle
from svfap_edge.errors import SvfapError
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.runtimes.backend import Backend
from svfap_edge.runtimes.choice import ENGINES, load_backend
from svfap_edge.runtimes.trt.backend import load

BATCHES = (1, 4, 8)


def latencies(bundle: Bundle, calls: int) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows, what was left out and why): p50, p95 and p99 in ms for each batch size."""
    rows, left_out = [], []
    for what, opened in _candidates(bundle):
        try:
            backend = opened()
        except SvfapError as error:
            left_out.append(f"{what}: {error}")
            continue
        with closing(backend):
            for count in BATCHES:
                clips = synthetic_clips(bundle.manifest.clip, count)
                ms = _times(backend, clips, calls)
                p50, p95, p99 = np.percentile(ms, (50, 95, 99)).round(3).tolist()
                rows.append(
                    {
                        "what": what,
                        "precision": backend.spec.precision,
                        "batch": count,
                        "p50_ms": p50,
                        "p95_ms": p95,
                        "p99_ms": p99,
                        "clips_per_s": round(1e3 * count / p50, 1),
                    }
                )
    return rows, left_out


def _candidates(bundle: Bundle) -> Iterator[tuple[str, Callable[[], Backend]]]:
    for name, artifact in bundle.manifest.artifacts.items():
        for engine, entry in ENGINES.items():
            if artifact.format not in entry.formats:
                continue
            for provider in entry.providers or ("",):
                full = f"{engine}:{provider}" if provider else engine
                yield (
                    f"{name} on {full}",
                    lambda name=name, full=full: load_backend(bundle, name, full),  # type: ignore[misc]
                )
        if artifact.format == "tensorrt":
            yield (
                f"{name} on tensorrt, no CUDA graphs",
                lambda name=name, artifact=artifact: load(  # type: ignore[misc]
                    bundle.verify(name), bundle, artifact, cuda_graphs=False
                ),
            )


def _times(backend: Backend, clips: np.ndarray, calls: int) -> list[float]:
    """Milliseconds of whole calls, copies included; at most 20 s, at least 5 calls."""
    for _ in range(max(3, calls // 10)):
        backend.run(clips)
    found: list[float] = []
    deadline = time.perf_counter() + 20
    while len(found) < calls and (len(found) < 5 or time.perf_counter() < deadline):
        start = time.perf_counter()
        backend.run(clips)
        found.append((time.perf_counter() - start) * 1e3)
    return found
