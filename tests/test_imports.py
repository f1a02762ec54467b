"""What importing costs, what it loads, and which way dependencies point."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from .conftest import ROOT

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "cv2", "matplotlib")


def loaded_by(code: str) -> set[str]:
    script = (
        f"{code}\nimport sys, json; print(json.dumps([k for k, m in sys.modules.items() if m]))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_loads_neither_torch_nor_an_engine() -> None:
    assert not loaded_by("import svfap_edge") & {*HEAVY, "numpy"}


def test_names_are_lazy_and_complete() -> None:
    code = "import svfap_edge\nfor n in svfap_edge.__all__: getattr(svfap_edge, n)"
    assert not loaded_by(code) & {"torch", "onnx", "onnxruntime", "openvino", "nncf"}


def test_running_loads_no_torch_and_only_the_chosen_engine() -> None:
    code = (
        "import numpy as np\nfrom svfap_edge import Engine\n"
        "with Engine.load(engine='onnxruntime') as e:\n"
        "    e.infer(np.zeros((1, *e.spec.clip.shape), np.uint8))"
    )
    loaded = loaded_by(code)
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "onnx", "openvino", "nncf", "matplotlib"}


def test_openvino_comes_without_its_converter_until_that_is_asked_for() -> None:
    pytest.importorskip("openvino")
    load = "from svfap_edge import Engine\nEngine.load(engine='openvino').close()"
    assert not loaded_by(load) & {"openvino.tools.ovc", "openvino_telemetry"}
    later = f"{load}\nimport openvino\nassert callable(openvino.convert_model)"
    assert "openvino.tools.ovc" in loaded_by(later)
    before = f"import openvino\n{load}\nassert 'convert_model' in vars(openvino)"
    assert "openvino.tools.ovc" in loaded_by(before)


@pytest.mark.parametrize(
    "load",
    [
        "import svfap_edge.export.int8.recipe",
        "from svfap_edge.training.trainer import quantize\ntry: quantize.quantized(None)\n"
        "except AttributeError: pass",
    ],
)
def test_nncf_does_not_report_that_it_was_used(load: str) -> None:
    pytest.importorskip("nncf")
    code = f"{load}\nfrom nncf.telemetry.wrapper import telemetry\nprint(type(telemetry).__name__)"
    clean = {k: v for k, v in os.environ.items() if k != "NNCF_CI"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=False
    )
    assert found.stdout.strip() == "MagicMock", found.stderr


def test_command_line_help_loads_no_library() -> None:
    code = (
        "import sys; sys.argv = ['svfap-edge', 'run', '--help']\n"
        "from svfap_edge.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert not loaded_by(code) & {*HEAVY, "numpy"}


LAYERS = (
    {"contract", "models"},
    {"sources"},
    {"runtimes", "training"},
    {"perception"},
    {"sinks", "benchmark"},
    {"runner", "evaluation", "doctor"},
    {"export", "serve"},
    {"cli"},
)
"""Folders by layer. A module imports its own folder and what is in layers before; the command line
imports what it needs inside its commands. Files beside the folders of `svfap_edge` are the
contract."""


def folder_of(module: str) -> str:
    parts = module.split(".")
    if module == "svfap_edge.__main__":
        return "cli"
    is_folder = len(parts) > 1 and (home_of(parts[1]) / "__init__.py").is_file()
    return parts[1] if is_folder else "contract"


def home_of(name: str) -> Path:
    """The folder of a subpackage of `svfap_edge`."""
    return next((p for p in (ROOT / name, ROOT / "svfap_edge" / name) if p.is_dir()), ROOT / "none")


def imports(path: Path, module: str, *, lazy: bool = False) -> set[str]:
    """Modules of ours that `module` imports when it is imported itself.

    Args:
        lazy: Count those inside functions too. What only type checkers see never counts.
    """
    found = set()
    package = module.rpartition(".")[0] if path.name != "__init__.py" else module
    for node in statements(ast.parse(path.read_text()), lazy):
        if isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            name = ".".join([*base, node.module or ""]) if node.level else node.module or ""
            name = name.rstrip(".")
            names = {f"{name}.{alias.name}" for alias in node.names}
            found |= names & KNOWN or {name}
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("svfap_edge.")}


def statements(node: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        if lazy:
            yield from statements(child, lazy)


def modules() -> list[tuple[Path, str]]:
    found = []
    for folder in ("svfap_edge", "runtimes", "export", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "svfap_edge" else ("svfap_edge", *parts)
            found.append((path, ".".join(parts[:-1] if path.stem == "__init__" else parts)))
    return found


KNOWN = {module for _, module in modules()}


def test_no_module_needs_itself() -> None:
    graph = {module: imports(path, module, lazy=True) for path, module in modules()}
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_every_folder_has_a_layer() -> None:
    folders = {folder_of(module) for _, module in modules()}
    assert folders == set().union(*LAYERS)


@pytest.mark.parametrize(("path", "module"), modules(), ids=lambda value: str(value)[-30:])
def test_dependencies_point_one_way(path: Path, module: str) -> None:
    folder = folder_of(module)
    layer = next(number for number, names in enumerate(LAYERS) if folder in names)
    allowed = {folder}.union(*LAYERS[:layer])
    targets = {folder_of(name) for name in imports(path, module)}
    assert targets <= allowed, f"{module} imports {targets - allowed}"
