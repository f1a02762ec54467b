"""An outlet of lines: its version, and what a subclass has to write."""

from __future__ import annotations

from typing import Any

import pytest

from svfap_edge import Engine, LineSink, run
from svfap_edge.sinks.lines import SCHEMA_VERSION

from .test_lines_schema import SCHEMA, problems


def test_the_version_is_that_of_the_schema() -> None:
    assert SCHEMA["title"].endswith(f"version {SCHEMA_VERSION}")
    assert SCHEMA["version"] == SCHEMA_VERSION


def test_a_subclass_writes_one_method() -> None:
    lines: list[dict[str, Any]] = []

    class Keep(LineSink):
        def line(self, content: dict[str, Any]) -> None:
            lines.append(content)

    with Engine.load(engine="onnxruntime", threads=1) as engine:
        run("sample", engine, [Keep()], detector="haar", seconds=3)
    assert {line["type"] for line in lines} == {"state", "prediction", "summary"}
    assert all(problems(line) == [] for line in lines)
    with pytest.raises(NotImplementedError):
        LineSink().line({})
