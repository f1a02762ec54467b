"""What is installed here, what works, and what to do about the rest.

Engines, OpenCV and drivers are tried in processes of their own (`probes`): one that crashes
or hangs is a line of the report.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from svfap_edge.benchmark.processes import run_apart
from svfap_edge.cache import find_face_model
from svfap_edge.errors import SvfapError

from . import checks, probes
from .checks import GPU_PACKAGES, Answer, Check

TIMEOUT_S = 20.0
"""Seconds after which a probe without an answer counts as broken."""


@dataclass(frozen=True)
class Diagnosis:
    """All findings.

    Attributes:
        checks: In the order to read them.
        obstacles: Why the main job, `svfap-edge run`, cannot run; empty if it can.
        limits: What it cannot read where it runs.
    """

    checks: tuple[Check, ...]
    obstacles: tuple[str, ...]
    limits: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return 3 if self.obstacles else 0

    def to_json(self) -> dict[str, Any]:
        return {"ok": not self.obstacles, "exit": self.exit_code, **asdict(self)}


def diagnose(progress: Callable[[str], None] = lambda message: None) -> Diagnosis:
    """Look at everything. Raises nothing for what is missing or broken."""
    engines, problem = checks.engine_table()
    face_model = find_face_model()
    installed = [name for name, entry in engines.items() if any(map(present, entry.libraries))]
    progress(f"Trying {', '.join([*installed, 'OpenCV', 'drivers'])}")
    with ThreadPoolExecutor(max_workers=4) as pool:

        def ask(probe: Callable[..., dict[str, Any]], **options: Any) -> Future[Answer]:
            return pool.submit(_answer, probe, **options)

        model = ask(probes.package_model)
        tried = {name: ask(probes.engine, name=name) for name in installed}
        opencv = ask(probes.opencv, face_model=face_model)
        pyav = ask(probes.pyav) if present("av") else None
        cuda = ask(probes.cuda)
        gpu_packages = {
            name: ask(getattr(probes, probe), name=option)
            for name, modules, probe, option, _ in GPU_PACKAGES
            if any(map(present, modules))
        }
        answers = {name: future.result() for name, future in tried.items()}
        gpu_answers = {name: future.result() for name, future in gpu_packages.items()}
        found = [
            *checks.check_software(),
            checks.check_package_model(model.result()),
            *problem,
            *(
                checks.check_engine(name, entry, answers.get(name), model.result())
                for name, entry in engines.items()
            ),
            *checks.check_processor(answers.get("openvino")),
            checks.check_driver(cuda.result()),
            *checks.check_gpu_packages(gpu_answers),
            checks.check_pyav(None if pyav is None else pyav.result()),
            *checks.check_opencv(opencv.result()),
            *checks.check_detectors(opencv.result(), face_model),
            *checks.check_space(),
            *checks.check_optional(),
        ]
    limits = [
        "video files, for PyAV does not work" for c in found
        if c.name == checks.PYAV and c.state != "ok"
    ]  # fmt: skip
    return Diagnosis(tuple(found), tuple(_obstacles(found)), tuple(limits))


def _obstacles(checks: list[Check]) -> Iterator[str]:
    states = {(check.group, check.name): check.state for check in checks}
    if states["model", "model in the package"] != "ok":
        yield "the model in the package is damaged"
    elif not any(c.state == "ok" for c in checks if c.group == "engines"):
        yield "no engine works"
    if states["video", "opencv"] == "broken":
        yield "OpenCV does not work"


def _answer(probe: Callable[..., dict[str, Any]], **options: Any) -> Answer:
    what = f"Trying {options.get('name', probe.__name__)}"
    try:
        return run_apart(probe, what, timeout_s=TIMEOUT_S, **options)
    except SvfapError as error:
        return error


def present(module: str) -> bool:
    """Whether a module is installed; imports at most the namespace it lies in."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
