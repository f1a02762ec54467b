"""Help texts: whole sentences, and one meaning of an option in all commands."""

from __future__ import annotations

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from svfap_edge.cli.app import app

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


def test_every_description_is_whole_where_commands_are_listed() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    for name in COMMANDS:
        assert rows[name].endswith("."), rows[name]
        assert not rows[name].endswith("..."), rows[name]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "run"])
def test_options_are_described_in_whole_sentences(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert (command.help or "").split(".")[0]
    for parameter in command.params:
        text = getattr(parameter, "help", None) or ""
        assert text.rstrip(".") != text, f"{parameter.name}: {text!r} does not end with a full stop"
        assert not text.startswith(("Of ", "So ")), text
        assert not {"told", "tells"} & set(text.split()), text


def test_shared_options_have_one_help_text() -> None:
    found: dict[str, set[str]] = {}
    for name in COMMANDS:
        for parameter in get_command(app).commands[name].params:  # type: ignore[attr-defined]
            if name != "run":
                found.setdefault(parameter.name, set()).add(getattr(parameter, "help", None) or "")
    shared = (
        "face_model", "detector", "threads", "mode", "detect_every", "hop", "heads", "depths",
        "as_json",
    )  # fmt: skip
    for option in shared:
        assert len(found[option]) == 1, found[option]
