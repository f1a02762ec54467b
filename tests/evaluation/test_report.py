"""The report folder: what is in it, that the page stands alone, and what is never overwritten."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from svfap_edge.errors import DependencyMissing, SourceError
from svfap_edge.evaluation.analysis import analyse
from svfap_edge.evaluation.analysis_types import Analysis, ArtifactPredictions, Evaluation
from svfap_edge.tasks import Task

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from svfap_edge.evaluation.report.pictures import _draw_changes
from svfap_edge.evaluation.report.write import FILES, write_report

TASK = Task("moods", "classes", ("<b>calm</b>", "$cross$ | loud", "never_seen"))
VOID = {"meta", "img", "br"}


def made(task: Task = TASK, *, latency: bool = True, max_drop: float | None = 1.0) -> Analysis:
    rng = np.random.default_rng(0)
    n, outputs = 150, len(task.labels)
    if task.kind == "classes":
        targets = rng.integers(0, 2, n)
        ours = 0.9 * np.eye(outputs)[targets] + 0.1 / outputs
        theirs = ours.copy()
        theirs[:6] = ours[:6, [1, 0, *range(2, outputs)]]
    else:
        targets = rng.uniform(task.low, task.high, (n, outputs))
        ours, theirs = 0.7 * targets, 0.7 * targets + 0.1 * rng.normal(size=targets.shape)
    ms = 20 + rng.random(30) if latency else np.array([])

    def artifact(name: str, scores: np.ndarray, scale: float) -> ArtifactPredictions:
        return ArtifactPredictions(
            name, "b", "out/b", "onnxruntime", name[:4], 5_000_000, scores, ms * scale
        )

    return analyse(
        Evaluation(
            task=task,
            data="https://example.org/<list>.txt",
            data_sha256="f" * 64,
            files=tuple(f"<i>{i}.mp4" for i in range(n)),
            targets=targets,
            missing=("<script>alert(1)</script>.mp4",),
            baseline=artifact("fp32.onnx", ours, 2),
            candidates=(artifact("int8.onnx", theirs, 1), artifact("same.onnx", ours, 2)),
            machine={"processor": 'a "fast" <one> & more'},
            created="2025-01-01",
            max_drop=max_drop,
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "report"
    write_report(made(), path)
    return path


class Page(HTMLParser):
    """Collects tags, attributes and text; checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.resources: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.resources += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_files(tmp_path: Path) -> None:
    paths = write_report(made(), tmp_path / "report")
    assert {p.name for p in paths} == set(FILES)
    assert all(p.parent == tmp_path / "report" and p.stat().st_size for p in paths)
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["report"]  # nothing left beside it


def test_json(folder: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in report.json")

    content = json.loads((folder / "report.json").read_text("utf-8"), parse_constant=refuse)
    assert content["labels"] == list(TASK.labels)
    assert content["passed"] is False
    assert content["baseline"]["classes"][2]["recall"] is None
    assert len(content["candidates"][0]["flips"]) == 6


def test_page_stands_alone(folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    page = Page(text)
    assert len(page.resources) == page.tags.count("img") == 3
    assert all(r.startswith("data:image/png;base64,") for r in page.resources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "@import" not in text and "url(" not in text


def test_page_says_what_was_found(folder: Path) -> None:
    page = Page((folder / "report.html").read_text("utf-8"))
    for candidate in made().candidates:
        assert candidate.verdict in page.text
    order = [page.text.index(word) for word in ("the drop is real", "Accuracy", "changed label",
                                                "Data and machine")]  # fmt: skip
    assert order == sorted(order)
    assert page.tags.count("details") == 2  # flips of one candidate, and the missing files
    assert "failed" in page.text and "150 of 151 (99.3%)" in page.text


def test_page_escapes_everything(folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    page = Page(text)
    for raw in ("<b>calm</b>", "<script>alert", "<i>0.mp4", "<list>", "<one>"):
        assert raw not in text
        assert raw in page.text


def test_markdown(folder: Path) -> None:
    text = (folder / "report.md").read_text("utf-8")
    assert "<b>" not in text and r"$cross$ \| loud" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables) and len(tables) > 20
    for name in ("confusion.png", "drop.png", "speed.png"):
        assert f"({name})" in text


@pytest.mark.parametrize("kind", ["values", "traits"])
def test_continuous_tasks(kind: str, tmp_path: Path) -> None:
    task = Task("affect", kind, ("valence", "arousal"), metrics=("CCC", "PCC"))  # type: ignore[arg-type]
    names = {p.name for p in write_report(made(task), tmp_path / "report")}
    assert names == set(FILES) - {"confusion.png"}
    page = Page((tmp_path / "report" / "report.html").read_text("utf-8"))
    assert "Each output" in page.text and "valence" in page.text


def test_without_latencies_and_gate(tmp_path: Path) -> None:
    analysis = replace(
        made(latency=False, max_drop=None), lost={"sad": (3, 9)}, busy="Other processes took 1.5"
    )
    figure = _draw_changes(analysis)
    assert not [t for t in figure.axes[0].texts if "limit" in t.get_text()]
    assert "limit -1" in [t.get_text() for t in _draw_changes(made()).axes[0].texts]
    names = {p.name for p in write_report(analysis, tmp_path / "report")}
    assert "speed.png" not in names
    text = Page((tmp_path / "report" / "report.html").read_text("utf-8")).text
    assert "Size (speed was not measured)" in text and "Gate" not in text
    assert "sad 3 of 9" in text
    assert "Other processes took 1.5" in text


def test_baseline_alone(tmp_path: Path) -> None:
    analysis = replace(made(), candidates=())
    names = {p.name for p in write_report(analysis, tmp_path / "report")}
    assert "report.html" in names and "drop.png" not in names


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "report"
    target.mkdir()  # an empty folder is fine
    write_report(made(), target)
    write_report(made(latency=False), target)
    assert not (target / "speed.png").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("names", [("holiday.jpg",), ("report.json", "thesis.docx"), ("drop.png",)])
def test_a_foreign_folder_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    for name in names:
        (target / name).write_text("precious")
    with pytest.raises(SourceError, match="not an earlier report"):
        write_report(made(), target)
    assert {p.name: p.read_text() for p in target.iterdir()} == dict.fromkeys(names, "precious")


def test_a_file_or_a_missing_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for target in (tmp_path / "file", tmp_path / "none" / "report"):
        with pytest.raises(SourceError, match="Cannot write the report"):
            write_report(made(), target)


def test_a_failed_report_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report"
    write_report(made(), target)
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    write = Path.write_bytes

    def full_disk(path: Path, data: bytes) -> int:
        if path.suffix == ".png":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(SourceError, match="No space left"):
        write_report(made(latency=False), target)
    with pytest.raises(SourceError, match="No space left"):
        write_report(made(), tmp_path / "other")
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_without_a_library(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyMissing, match=rf"needs {name}.*svfap-edge\[report\]"):
        write_report(made(), tmp_path / "report")
    assert not list(tmp_path.iterdir())
