"""The rate and the time left that training reports."""

from __future__ import annotations

import pytest

from svfap_edge.training.trainer import progress
from svfap_edge.training.trainer.progress import Progress


def test_the_rate_is_that_of_the_last_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(None)
    shown.start(0, 2, 0, 1000, 4)
    for step in range(1, 701):  # the first hundred are slow
        now += 60.0 if step <= 100 else 1.0
        shown.step(step, 0.5)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "epoch 1/2 step 700/1000 loss 0.5000 4.0 clips/s, 22 min left"
    shown.start(1, 2, 0, 1000, 4)
    now += 10.0
    shown.step(1, 0.5)
    assert "epoch 2/2 step 1/1000" in capsys.readouterr().err
