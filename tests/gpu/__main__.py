"""Run all tests that need a GPU, measure latency, and write a report.

    python -m tests.gpu report                                  the tiny model of the tests
    python -m tests.gpu report --checkpoint X.pth --task dfew   and this one, built here
    python -m tests.gpu report --bundle DIR                     and this one, as it is

Writes report.md and report.json. Exits with 0 if all that could run passed, 1 if something failed,
3 if there was nothing to run on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.errors import SvfapError
from svfap_edge.machine import describe_machine
from svfap_edge.runtimes.cuda_driver import find_gpu
from svfap_edge.runtimes.ort_providers import available_providers
from svfap_edge.runtimes.trt.library import NAMES, find_library

from .latency import latencies

ROOT = Path(__file__).parents[2]
TESTS = (ROOT / "tests" / "gpu", ROOT / "tests" / "export" / "trt")


class Recorder:
    """A pytest plug-in that keeps what became of each test."""

    def __init__(self) -> None:
        self.tests: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return  # setting up and tearing down went well
        said = ""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            said = report.longrepr[2].removeprefix("Skipped: ")
        elif report.outcome == "failed":
            said = str(report.longreprtext)[-2000:]
        self.tests.append({"test": report.nodeid, "outcome": report.outcome, "said": said})


def facts() -> dict[str, str]:
    """The machine, its GPU, and the libraries that matter; what is missing, with the reason."""
    found = dict(describe_machine())
    try:
        gpu = find_gpu()
        found["GPU"] = (
            f"{gpu.name}, compute capability {gpu.capability}, {gpu.memory / 2**30:.1f} GiB, "
            f"driver for CUDA {gpu.cuda}"
        )
    except SvfapError as error:
        found["GPU"] = f"none: {error}"
    for flavour, name in NAMES.items():
        try:
            found[name] = find_library(flavour).version
        except SvfapError as error:
            found[name] = f"none: {error}"
    for package in ("pycuda", "cuda-bindings", "cuda-python", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["ONNX Runtime providers"] = ", ".join(available_providers())
    return found


def export(checkpoint: Path | None, task: str, folder: Path) -> Bundle:
    """fp32.onnx and a plan in half precision: of a checkpoint, or of the tiny model without one.

    Raises:
        SvfapError: no GPU, or no plan can be built for it here.
    """
    from svfap_edge.export.pipeline import ExportOptions, export_bundle
    from tests.models import tiny_bundle

    gpu = find_gpu()
    regular = importlib.util.find_spec("tensorrt") is not None
    options: dict[str, Any] = {
        "artifacts": ("fp32.onnx", "fp16.tensorrt"),
        "compute_capabilities": () if regular else (gpu.capability,),
    }
    if checkpoint is None:
        return tiny_bundle(folder, **options)
    from svfap_edge.tasks import find_task

    return export_bundle(checkpoint, folder, ExportOptions(task=find_task(task), **options))


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Latency tables by model, and what was left out."""
    tables: dict[str, Any] = {}
    wanted: list[tuple[str, Any]] = [("tiny model of the tests", None)]
    if arguments.checkpoint:
        wanted.append((arguments.checkpoint.name, arguments.checkpoint))
    for number, (name, checkpoint) in enumerate(wanted):
        try:
            bundle = export(checkpoint, arguments.task, scratch / f"model{number}")
        except (SvfapError, ImportError) as error:
            tables[name] = {"rows": [], "left_out": [str(error)]}
            continue
        tables[name] = _table(bundle, arguments.calls)
    if arguments.bundle:
        bundle = Bundle.open(arguments.bundle)
        tables[bundle.manifest.name] = _table(bundle, arguments.calls)
    return tables


def _table(bundle: Bundle, calls: int) -> dict[str, Any]:
    rows, left_out = latencies(bundle, calls)
    return {"rows": rows, "left_out": left_out}


def markdown(report: dict[str, Any]) -> str:
    lines = ["# GPU tests of svfap-edge", "", report["verdict"], "", "## Machine", ""]
    lines += [f"- {key}: {_line(value)}" for key, value in report["machine"].items()]
    lines += ["", "## Tests", "", "| test | outcome |", "|---|---|"]
    lines += [f"| `{t['test']}` | {t['outcome']} |" for t in report["tests"]]
    for outcome in ("skipped", "failed"):
        told = [t for t in report["tests"] if t["outcome"] == outcome]
        reasons = dict.fromkeys(t["said"] for t in told)
        if told:
            lines += ["", f"## {outcome.capitalize()}: {len(told)}", ""]
        for reason in reasons:
            count = sum(t["said"] == reason for t in told)
            lines.append(
                f"- {count} of them: {_line(reason)}"
                if outcome == "skipped"
                else f"```text\n{reason}\n```"
            )
    for name, table in report["latency"].items():
        lines += ["", f"## Latency: {name}", ""]
        if table["rows"]:
            keys = list(table["rows"][0])
            lines += ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
            lines += ["| " + " | ".join(str(row[k]) for k in keys) + " |" for row in table["rows"]]
            lines += [""]
        lines += [f"- left out: {_line(reason)}" for reason in table["left_out"]]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return " ".join(str(text).split())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where report.md and report.json go")
    parser.add_argument("--checkpoint", type=Path, help="export this model here and time it")
    parser.add_argument("--task", default="dfew", help="of the checkpoint (dfew)")
    parser.add_argument("--bundle", type=Path, help="time this bundle")
    parser.add_argument("--calls", type=int, default=300, help="timed calls of each row (300)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder()
    pytest.main(
        [*map(str, TESTS), "-m", "gpu", "-p", "no:cacheprovider", f"--rootdir={ROOT}"],
        plugins=[recorder],
    )
    with tempfile.TemporaryDirectory() as scratch:
        latency = measure(arguments, Path(scratch))
    counts = {
        outcome: sum(t["outcome"] == outcome for t in recorder.tests)
        for outcome in ("passed", "failed", "skipped")
    }
    verdict = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + "."
    if not counts["passed"] and not counts["failed"]:
        verdict += " NOTHING RAN ON A GPU: see the reasons below."
    report = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "verdict": verdict,
        "counts": counts,
        "machine": facts(),
        "tests": recorder.tests,
        "latency": latency,
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (arguments.folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (arguments.folder / "report.md").write_text(markdown(report), encoding="utf-8")
    print(f"{verdict}\nWritten: {arguments.folder / 'report.md'}, report.json")
    return 1 if counts["failed"] else 0 if counts["passed"] else 3


if __name__ == "__main__":
    sys.exit(main())
