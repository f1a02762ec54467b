"""Which engine runs which artifact on this machine: the table of engines, and the choice.

A new engine is a module with a function `load` that returns a `Backend`, and a row of `ENGINES`.
"""

from __future__ import annotations

import importlib.util
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, get_args

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.errors import BackendUnavailable, BundleError, ConfigError, SvfapError

from .backend import Backend, Mode, artifact_error


@dataclass(frozen=True)
class EngineEntry:
    """A row of `ENGINES`.

    Attributes:
        module: Module of this package with `load(read, bundle, artifact, threads, mode)`, which
            returns a `Backend`. It is given a function that waits for the verified bytes of the
            artifact's files and returns them, the bundle, the artifact, the CPU threads to use
            (None leaves that to the engine) and the mode; and the keyword `provider` where one is
            named. It raises BundleError where the model does not fit the manifest, or the engine
            refuses it.
        libraries: Python modules, one of which the engine needs.
        formats: Formats of artifacts that the engine runs.
        install: How to install the engine.
        check: Module of this package with `obstacle(artifact)`, which says why an artifact cannot
            run on this machine; "" where every machine with the library runs every artifact.
        ahead: Module of this package with `Ahead(bundle, artifact, threads, mode)`, which reads in
            place of `Bundle.read` and is given to `load`; "" where there is nothing to do ahead.
        providers: Words that may follow the engine's name after a colon; `auto` never uses them.
    """

    module: str
    libraries: tuple[str, ...]
    formats: tuple[str, ...]
    install: str
    check: str = ""
    ahead: str = ""
    providers: tuple[str, ...] = ()


ENGINES: dict[str, EngineEntry] = {
    "tensorrt": EngineEntry(
        "trt.backend",
        ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
        ("tensorrt",),
        'pip install "svfap-edge[tensorrt]"',
        check="trt.plan",
    ),
    "openvino": EngineEntry(
        "openvino_backend",
        ("openvino",),
        ("openvino", "onnx"),
        "pip install openvino",
        ahead="openvino_cache",
    ),
    "onnxruntime": EngineEntry(
        "ort_backend",
        ("onnxruntime",),
        ("onnx",),
        "pip install onnxruntime",
        providers=("cpu", "cuda", "tensorrt", "nvtensorrtrtx"),
    ),
}
"""All engines by name, in the order in which `auto` tries them. On other processors than x86-64,
ONNX Runtime comes first for ONNX artifacts."""


ARTIFACT_ORDER = (
    "fp16.tensorrt", "int8.tensorrt", "int8.openvino", "int8.onnx", "fp16.onnx", "fp32.onnx",
)  # fmt: skip
"""The order in which `auto` prefers the artifacts of a bundle, the fastest first. Plans come before
all, because they are built for the one GPU they run on; among plans half precision comes before
INT8, which need not be faster there."""


BUILD_A_PLAN = (
    " Build a plan on this machine: svfap-edge export CHECKPOINT --task TASK "
    "--artifacts fp16.tensorrt -o DIR"
)


def installed(engine: str) -> bool:
    """Whether a library of an engine can be imported. This does not import it."""
    return any(importlib.util.find_spec(name) is not None for name in ENGINES[engine].libraries)


def available_engines(form: str | None = None) -> list[str]:
    """Names of the engines whose library is installed here; with the format of an artifact, such as
    "onnx", only of those that run it."""
    able = [name for name, entry in ENGINES.items() if form is None or form in entry.formats]
    return [name for name in able if installed(name)]


def obstacle(artifact: Artifact, engine: str) -> SvfapError | None:
    """What keeps an installed engine from running an artifact on this machine; None if nothing
    does."""
    if not ENGINES[engine].check:
        return None
    module = importlib.import_module(f"{__package__}.{ENGINES[engine].check}")
    found: SvfapError | None = module.obstacle(artifact)
    return found


def split_engine(engine: str) -> tuple[str, str]:
    """Split an engine's name into engine and provider: "onnxruntime:cuda" gives "onnxruntime" and
    "cuda"; the provider is "" where none is named. BackendUnavailable, which lists those there are,
    if there is no such engine or provider."""
    name, colon, provider = engine.partition(":")
    if name not in ENGINES:
        have = ", ".join(available_engines()) or "none"
        raise BackendUnavailable(
            f"No engine '{engine}' in this version. Installed here: {have}. "
            f"Choose one of: auto, {', '.join(ENGINES)}."
        )
    providers = ENGINES[name].providers
    if colon and provider not in providers:
        known = ", ".join(f"{name}:{known}" for known in providers) or f"{name} alone"
        raise BackendUnavailable(f"No engine '{engine}' in this version. Choose {known}.")
    return name, provider


def choose(bundle: Bundle, artifact: str | None = None, engine: str = "auto") -> tuple[str, str]:
    """Choose artifact and engine for a bundle on this machine.

    An explicit choice is obeyed or refused, never replaced. Without one, plans that this machine
    cannot run are passed over. The arguments are those of `Engine.load`.

    Returns:
        Name of the artifact and name of the engine.

    Raises:
        BundleError: there is no such artifact, or the engine does not run its format.
        BackendUnavailable: the engine, or every engine that could run the artifact, is not
            installed, or something that it needs is not here.
        EngineIncompatible: the artifact was built for another machine, and no other one was asked
            for or is in the bundle.
    """
    have = ", ".join(available_engines()) or "none"
    base = "auto"
    if engine != "auto":
        base, _ = split_engine(engine)
        if not installed(base):
            raise BackendUnavailable(
                f"Engine '{base}' is not installed. Installed here: {have}. "
                f"Install it: {ENGINES[base].install}"
            )
    names = [bundle.artifact(artifact).name] if artifact else _by_preference(bundle)
    obstacles = []
    for name in names:
        form = name.partition(".")[2]
        for candidate in (e for e in _by_speed(form) if base in ("auto", e)):
            found = obstacle(bundle.artifact(name), candidate)
            if found is None:
                return name, candidate if engine == "auto" else engine
            obstacles.append(found)
    if obstacles:
        raise obstacles[0]
    if base != "auto":
        what = f"artifact '{artifact}'" if artifact else "any artifact of this bundle"
        raise BundleError(
            f"Engine '{base}' does not run {what}; it runs: "
            f"{', '.join('*.' + f for f in ENGINES[base].formats)}. "
            f"This bundle has: {', '.join(bundle.manifest.artifacts)}."
            + (BUILD_A_PLAN if base == "tensorrt" else "")
        )
    formats = {name.partition(".")[2] for name in names}
    ways = [e.install for e in ENGINES.values() if formats & set(e.formats)]
    raise BackendUnavailable(
        f"No installed engine runs {artifact or ', '.join(names)}. Installed here: {have}. "
        + (f"Install one: {' or '.join(ways)}." if ways else "This version has no engine for it.")
    )


def _by_preference(bundle: Bundle) -> list[str]:
    known = [name for name in ARTIFACT_ORDER if name in bundle.manifest.artifacts]
    return known + [name for name in bundle.manifest.artifacts if name not in known]


def _by_speed(form: str) -> list[str]:
    able = available_engines(form)
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return able if x86 else able[::-1]


def load_backend(
    bundle: Bundle,
    artifact: str | None = None,
    engine: str = "auto",
    threads: int | None = None,
    mode: Mode = "latency",
) -> Backend:
    """Verify an artifact and load it; the arguments and errors are those of `Engine.load`."""
    if mode not in get_args(Mode):
        raise ConfigError(f"mode must be one of {', '.join(get_args(Mode))}; got '{mode}'.")
    name, chosen = choose(bundle, artifact, engine)
    base, provider = split_engine(chosen)
    options: dict[str, Any] = {"provider": provider} if provider else {}
    with ThreadPoolExecutor(1) as pool:  # each takes long, and none needs the other at first
        if ENGINES[base].ahead:
            early = importlib.import_module(f"{__package__}.{ENGINES[base].ahead}")
            options["ahead"] = early.Ahead(bundle, bundle.artifact(name), threads, mode)
            reading = pool.submit(options["ahead"].read)
        else:
            reading = pool.submit(bundle.read, name)
        try:
            module = importlib.import_module(f"{__package__}.{ENGINES[base].module}")
            backend: Backend = module.load(
                reading.result, bundle, bundle.artifact(name), threads, mode, **options
            )
        except Exception as error:  # every engine has exceptions of its own
            reading.result()  # a damaged file is reported first
            if isinstance(error, (SvfapError, ImportError)):
                raise
            raise artifact_error(chosen, bundle.artifact(name), error) from error
        try:
            reading.result()  # an engine that has compiled the model before need not have asked
        except BaseException:
            backend.close()
            raise
    return backend
