"""Files and folders written whole: what is there after success, failure and a kill at any point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from svfap_edge import atomic
from svfap_edge.atomic import folder_written_whole, remove_stale, written_whole
from svfap_edge.errors import SourceError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("exchange", [True, False], ids=["one step", "two renames"])
def test_a_folder_is_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda new, old: False)
    for text in ("old", "new"):
        with folder_written_whole(tmp_path / "deep" / "set") as folder:
            (folder / text).write_text(text)
    assert names(tmp_path / "deep") == ["set"]
    assert names(tmp_path / "deep" / "set") == ["new"]

    def fail() -> None:
        with folder_written_whole(tmp_path / "deep" / "set") as folder:
            (folder / "newer").write_text("half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path / "deep") == ["set"]
    assert names(tmp_path / "deep" / "set") == ["new"]


def test_a_failed_rename_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda new, old: False)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").write_text("old")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(source).parent.suffix == ".part" and Path(source).name == "set":
            raise OSError("no room")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="no room"), folder_written_whole(tmp_path / "set"):
        pass
    assert names(tmp_path) == ["set"] and names(tmp_path / "set") == ["old"]


def test_an_error_is_of_the_class_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SourceError, match=r"'.*deep' cannot be written"):  # noqa: SIM117
        with written_whole(tmp_path / "file" / "deep", SourceError):
            pass
    with pytest.raises(OSError), folder_written_whole(tmp_path / "file" / "deep"):  # noqa: PT011
        pass
    assert names(tmp_path) == ["file"]


def test_the_next_writer_removes_what_a_killed_one_left_a_day_ago(tmp_path: Path) -> None:
    old, young, other = (
        tmp_path / name for name in (".file.aaaa.part", ".file.bbbb.part", ".files.cccc.part")
    )
    for left in (old, young, other):
        left.mkdir()
        (left / "file").write_text("half of it")
    before = time.time() - atomic.STALE_S - 60
    for left in (old, other):
        os.utime(left, (before, before))
    with written_whole(tmp_path / "file") as part:
        part.write_text("whole")
    assert names(tmp_path) == [".file.bbbb.part", ".files.cccc.part", "file"]
    remove_stale(tmp_path)
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="folders are locked on POSIX only")
def test_the_next_writer_removes_at_once_what_a_dead_process_left(tmp_path: Path) -> None:
    code = f"""
import os, signal, time
from pathlib import Path
from svfap_edge.atomic import written_whole
with written_whole(Path({str(tmp_path / "file")!r})) as part:
    part.write_text("half of it")
    print("begun", flush=True)
    time.sleep(60)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
    (left,) = tmp_path.iterdir()
    before = time.time() - atomic.UNLOCKED_S - 1
    for alive in (True, False):
        if not alive:
            writer.kill()
            writer.wait()
        os.utime(left, (before, before))
        with written_whole(tmp_path / "file") as part:
            part.write_text("whole")
        assert left.exists() is alive
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="swaps folders in one step on Linux only")
@pytest.mark.parametrize("call", ["fsync", "rename", "replace", "exchange"])
def test_a_kill_leaves_the_old_or_the_new(tmp_path: Path, call: str) -> None:
    """A process kills itself just before a step, and just after it."""
    for after in (False, True):
        file, folder = tmp_path / "file", tmp_path / "folder"
        with written_whole(file) as part:
            part.write_text("old")
        with folder_written_whole(folder) as new:
            (new / "old").write_text("old")
        code = f"""
import os, signal
from pathlib import Path
from svfap_edge import atomic
place, name = (atomic, "_exchange") if {call!r} == "exchange" else (os, {call!r})
inner = getattr(place, name)
def killing(*arguments):
    if {after}: inner(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(place, name, killing)
def write_file():
    with atomic.written_whole(Path({str(file)!r})) as part: part.write_text("new")
def write_folder():
    with atomic.folder_written_whole(Path({str(folder)!r})) as new: (new / "new").write_text("new")
write_file() if {call!r} == "replace" else write_folder()
"""
        result = subprocess.run([sys.executable, "-c", code])
        killed = result.returncode == -signal.SIGKILL
        assert killed or call == "rename"  # where folders are swapped, none is renamed
        assert file.read_text() in ("old", "new")
        assert names(folder) in (["old"], ["new"])
