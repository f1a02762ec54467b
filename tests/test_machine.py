"""What a machine is, and what else runs on it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from svfap_edge.machine import OtherLoad

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts that")
BURN = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"


@LINUX
def test_the_work_of_others_is_told_from_ours() -> None:
    """In seconds of the processor, however long they take: a child is ours once it was awaited."""
    before = OtherLoad._read()
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it has burnt
        meanwhile = OtherLoad._read()
        child.communicate(b"\n")
    after = OtherLoad._read()
    assert before is not None and meanwhile is not None and after is not None
    assert meanwhile[1] - before[1] > 0.4
    assert meanwhile[2] - before[2] < 0.3
    assert after[2] - before[2] > 0.4


def test_little_is_not_worth_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(0.0, 10.0, 1.0), (10.0, 25.0, 6.0), (0.0, 0.0, 0.0), (10.0, 10.5, 10.0)])
    monkeypatch.setattr(OtherLoad, "_read", lambda *_: next(readings))
    with OtherLoad() as load:
        pass
    assert "took 1.0 of" in (load.sentence() or "")
    with OtherLoad() as load:
        pass
    assert load.sentence() is None
    monkeypatch.setattr(OtherLoad, "_read", lambda *_: None)
    with OtherLoad() as load:
        pass
    assert load.sentence() is None
