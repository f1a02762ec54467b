"""The README's snippets run as printed, and its commands are what CI runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from svfap_edge.cli.app import app

from .conftest import ROOT

README = (ROOT / "README.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", snippets("python"), ids=["frames", "crops"])
def test_embedding_runs_as_printed_and_without_torch(code: str, tmp_path: Path) -> None:
    guarded = f"import sys\nsys.modules['torch'] = None\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", guarded], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "happiness" in line]
    assert len(lines) >= 4


def test_two_set_up_commands() -> None:
    run, test = snippets("sh")
    assert "svfap-edge run sample" in run
    assert test.rstrip().endswith("-m pytest -n 2 --dist loadfile")
    assert len(run.splitlines()) == len(test.splitlines()) == 1
    assert "python3 -m venv" in (ROOT / ".ci" / "run").read_text()


def test_documented_options_exist() -> None:
    import typer

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    (usage,) = snippets("text")
    name = ""
    for line in usage.splitlines():
        if match := re.match(r"svfap-edge ([\w-]+)", line):
            name = match[1]
        known = {option for p in commands[name].params for option in p.opts}
        assert set(re.findall(r"(?<!\S)\[?(--?[a-z][\w-]*)", line)) <= known, line


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")))
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:svfap_edge|runtimes|export|training|tests|docs)/[\w./]+)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
