"""What is installed here, what works, and what to do about the rest.

Engines, OpenCV and drivers are tried in processes of their own (`probes`): one that crashes
or hangs is a line of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from svfap_edge.benchmark.processes import answer_of
from svfap_edge.cache import find_face_model
from svfap_edge.errors import SvfapError

from .check import Answer, Check, present
from .checks import (
    GPU_PACKAGES,
    check_detectors,
    check_driver,
    check_engine,
    check_gpu_packages,
    check_opencv,
    check_optional,
    check_package_model,
    check_processor,
    check_software,
    check_space,
    engine_table,
)

TIMEOUT_S = 20.0
"""Seconds after which a probe without an answer counts as broken."""


@dataclass(frozen=True)
class Diagnosis:
    """All findings.

    Attributes:
        checks: In the order to read them.
        obstacles: Why the main job, `svfap-edge run`, cannot run; empty if it can.
    """

    checks: tuple[Check, ...]
    obstacles: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return 3 if self.obstacles else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": not self.obstacles,
            "exit": self.exit_code,
            "obstacles": list(self.obstacles),
            "checks": [asdict(check) for check in self.checks],
        }


def diagnose(progress: Callable[[str], None] = lambda message: None) -> Diagnosis:
    """Look at everything. Raises nothing for what is missing or broken."""
    engines, problem = engine_table()
    face_model = find_face_model()
    installed = [name for name, entry in engines.items() if any(map(present, entry.libraries))]
    progress(f"Trying {', '.join([*installed, 'OpenCV', 'drivers'])}")
    with ThreadPoolExecutor(max_workers=4) as pool:

        def ask(probe: str, *options: str) -> Future[Answer]:
            return pool.submit(_answer, probe, *options)

        model = ask("package_model")
        tried = {name: ask("engine", name) for name in installed}
        opencv = ask("opencv", str(face_model or ""))
        cuda = ask("cuda")
        gpu_packages = {
            name: ask(probe, option)
            for name, modules, probe, option, _ in GPU_PACKAGES
            if any(present(module) for module in modules)
        }
        answers = {name: future.result() for name, future in tried.items()}
        package_model = model.result()
        checks = [
            *check_software(),
            check_package_model(package_model),
            *problem,
            *(
                check_engine(name, entry, answers.get(name), package_model)
                for name, entry in engines.items()
            ),
            *check_processor(answers.get("openvino")),
            check_driver(cuda.result()),
            *check_gpu_packages({name: future.result() for name, future in gpu_packages.items()}),
            *check_opencv(opencv.result()),
            *check_detectors(opencv.result(), face_model),
            *check_space(),
            *check_optional(),
        ]
    return Diagnosis(tuple(checks), tuple(_obstacles(checks)))


def _obstacles(checks: list[Check]) -> Iterator[str]:
    states = {(check.group, check.name): check.state for check in checks}
    if states["model", "model in the package"] != "ok":
        yield "the model in the package is damaged"
    elif not any(c.state == "ok" for c in checks if c.group == "engines"):
        yield "no engine works"
    if states["video", "opencv"] == "broken":
        yield "OpenCV does not work"


def _answer(probe: str, *options: str) -> Answer:
    what = f"Trying {options[0] if options and options[0] else probe}"
    command = ["-m", "svfap_edge.doctor.probes", probe, *options]
    try:
        found: dict[str, Any] = answer_of(command, what, timeout_s=TIMEOUT_S)
    except SvfapError as error:
        return error
    return found
