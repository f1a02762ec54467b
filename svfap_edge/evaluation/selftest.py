"""A bundle on this machine: every artifact on every engine, on the bundle's check clips.

It is what shows that a copied bundle, a new driver or another processor computes what it should.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from svfap_edge.bundle import Bundle
from svfap_edge.checks import Checks, read_checks
from svfap_edge.errors import BackendUnavailable, BundleError, EngineIncompatible, SvfapError
from svfap_edge.runtimes import Backend, available_engines, load_backend

from .fidelity import LIMITS, Fidelity, compare, failures, logits_of

RUNS = 5
"""Timed calls of one clip."""


@dataclass(frozen=True)
class Outcome:
    """An artifact on an engine.

    Attributes:
        artifact: Name of the artifact.
        engine: Name of the engine.
        precision: What it computed in; "" where it could not be loaded.
        fidelity: How its logits compare with those that the bundle has; None where it did not run.
        latency_ms: Median time of one clip in milliseconds; None where it did not run.
        problems: What is wrong, in words; empty where it passed.
    """

    artifact: str
    engine: str
    precision: str
    fidelity: Fidelity | None
    latency_ms: float | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class SelfTest:
    """What ran, and what cannot run on this machine, with the reason by artifact."""

    outcomes: tuple[Outcome, ...]
    left_out: dict[str, str]

    @property
    def passed(self) -> bool:
        return not any(outcome.problems for outcome in self.outcomes)


def self_test(bundle: Bundle, progress: Callable[[str], None] = lambda text: None) -> SelfTest:
    """Run the check clips of a bundle through every artifact on every engine that takes it here.

    Raises:
        BundleError: the bundle has no check clips, or nothing in it runs here.
    """
    checks = read_checks(bundle)
    if checks is None:
        raise BundleError(
            f"Bundle '{bundle.path}' has no check clips: it was made by an earlier version. Export "
            "it again, or add some with svfap-edge build."
        )
    outcomes: list[Outcome] = []
    left_out: dict[str, str] = {}
    for name, artifact in bundle.manifest.artifacts.items():
        engines = available_engines(artifact.format)
        if not engines:
            left_out[name] = f"no engine for {artifact.format} is installed"
        for engine in engines:
            progress(f"Running {name} on {engine}")
            try:
                with closing(load_backend(bundle, name, engine)) as backend:
                    outcomes.append(_judge(backend, checks))
            except (BackendUnavailable, EngineIncompatible) as error:
                left_out[name] = str(error)
            except SvfapError as error:
                outcomes.append(Outcome(name, engine, "", None, None, (str(error),)))
    if not outcomes:
        reasons = "\n".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise BundleError(f"No artifact of '{bundle.path}' runs here.\n{reasons}")
    return SelfTest(tuple(outcomes), left_out)


def _judge(backend: Backend, checks: Checks) -> Outcome:
    spec = backend.spec
    precision = spec.artifact.partition(".")[0]
    precision = precision if precision in LIMITS else "fp16"
    reference = checks.reference(precision)
    found = logits_of(backend, checks.clips)
    spent = []
    for _ in range(RUNS):
        started = time.perf_counter()
        backend.run(checks.clips[:1])
        spent.append(1e3 * (time.perf_counter() - started))
    figures = None if reference is None else compare(reference, found)
    problems = [] if figures is None else failures(figures, precision)
    return Outcome(
        spec.artifact, spec.engine, spec.precision, figures, float(np.median(spent)),
        tuple(problems),
    )  # fmt: skip
