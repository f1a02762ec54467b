"""Files of a run: whole or not there, on the disk before they have their name, plain JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from lightning.fabric import Fabric

from svfap_edge.atomic import json_text, write_text_atomically
from svfap_edge.training.trainer.resume import save_atomically


@pytest.mark.parametrize("kind", ["text", "checkpoint"])
def test_content_is_on_the_disk_before_the_name_and_the_name_before_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    events: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        events.append(("synced", os.fstat(handle).st_ino))
        fsync(handle)

    def watched_replace(part: Path, path: Path) -> None:
        events.append(("renamed", os.stat(part).st_ino))
        replace(part, path)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    path = tmp_path / "file"
    if kind == "text":
        write_text_atomically(path, "text\n")
    else:
        save_atomically(Fabric(accelerator="cpu"), path, {"place": {"step": 1}})
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert events == [("synced", file), ("renamed", file), ("synced", folder)]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_has_no_bare_nan() -> None:
    row = {"ccc": float("nan"), "all": [1.0, float("-inf"), np.float64("nan")], "n": 2, "s": "é"}
    text = json_text(row)
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == {"ccc": None, "all": [1.0, None, None], "n": 2, "s": "é"}
