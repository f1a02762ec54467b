"""What a machine is, and what else runs on it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from svfap_edge.machine import OtherLoad

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts that")
BURN = "import time\nend = time.time() + {}\nwhile time.time() < end: pass"


@LINUX
def test_the_work_of_others_is_told_from_ours() -> None:
    def others(child_is_ours: bool) -> float:
        with OtherLoad() as load:
            child = subprocess.Popen([sys.executable, "-c", BURN.format(1.0)])
            if child_is_ours:
                child.wait()
            else:
                time.sleep(0.8)
        child.wait()
        assert load._cores is not None
        return load._cores

    around = others(child_is_ours=True)  # what the machine does anyway
    assert others(child_is_ours=False) > around + 0.3


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
