"""Evaluation through the real engine and preprocessing, on data whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from svfap_edge.benchmark.timing import Timed, time_artifacts
from svfap_edge.bundle import Bundle
from svfap_edge.cli.app import app
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError, SourceError
from svfap_edge.evaluation.evaluate import EvaluationOptions, evaluate
from svfap_edge.evaluation.face_clips import face_clips, find_face
from svfap_edge.lists import Item, class_targets, find_items, leave_out, stratified, value_targets
from svfap_edge.perception.detectors import Box, HaarDetector, WholeFrame
from svfap_edge.tasks import TASKS
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

CLIP = ClipSpec(4, 0.4, 8)
QUICK = EvaluationOptions(speed=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("e") / "brightness"
    return bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another clip geometry, the same task."""
    clip = ClipSpec(2, 0.2, 16)
    folder = tmp_path_factory.mktemp("e") / "other"
    return bundle_of_onnx(folder, brightness_model(clip), BRIGHTNESS_TASK, clip)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures; one bright one is labelled dark."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for index in range(12):
        bright = index % 2 == 0
        value = (220 if bright else 20) + index
        cv2.imwrite(str(folder / f"a {index}.png"), np.full((20, 20, 3), value, np.uint8))
        label = "dark" if index == 0 else ("bright" if bright else "1")
        lines.append(f"a {index}.png {label}")
    (folder / "list.txt").write_text("\n".join(lines) + "\n\n")
    return folder / "list.txt"


def test_known_accuracy(bundle: Bundle, other: Bundle, data: Path) -> None:
    found = evaluate([bundle, other], data, WholeFrame(), QUICK)
    assert found.files[:2] == ("a 0.png", "a 1.png")
    assert found.targets.tolist() == [1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert (found.baseline.scores.argmax(1) == found.targets).mean() == pytest.approx(11 / 12)
    np.testing.assert_allclose(found.baseline.scores.sum(1), 1)
    (candidate,) = found.candidates
    assert candidate.bundle == "other"
    np.testing.assert_allclose(candidate.scores, found.baseline.scores, atol=1e-6)
    assert found.machine["face detector"] == "none"


def test_missing_files_are_named(bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), np.full((9, 9, 3), 200, np.uint8))
    (tmp_path / "bad.png").write_bytes(b"x")
    (tmp_path / "l.txt").write_text("good.png 0\nbad.png 1\nnone.mp4 1\n")
    found = evaluate([bundle, other], tmp_path / "l.txt", WholeFrame(), QUICK)
    assert found.files == ("good.png",)
    assert found.missing == ("bad.png", "none.mp4")


def test_a_video_is_answered_by_the_mean_of_its_clips(bundle: Bundle, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 64))
    for i in range(60):
        writer.write(np.full((64, 64, 3), 240 if i < 30 else 20, np.uint8))
    writer.release()
    cut = face_clips(tmp_path / "v.mp4", bundle.manifest, WholeFrame())
    assert len(cut.clips) >= 12
    assert 100 < cut.clips.mean() < 160
    (tmp_path / "l.txt").write_text("v.mp4 bright\n")
    found = evaluate([bundle, bundle], tmp_path / "l.txt", WholeFrame(), QUICK)
    assert 0.45 < found.baseline.scores[0, 0] < 0.6


def test_a_short_video_still_gives_a_clip(bundle: Bundle, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 64))
    for _ in range(6):  # 0.25 s of 0.4
        writer.write(np.full((64, 64, 3), 240, np.uint8))
    writer.release()
    assert len(face_clips(tmp_path / "v.mp4", bundle.manifest, WholeFrame()).clips) == 1


def test_a_video_shorter_than_a_hop_gives_its_best_covered_clip(
    bundle: Bundle, tmp_path: Path
) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 64))
    for _ in range(2):  # 0.05 s of 0.4: one slot of four
        writer.write(np.full((64, 64, 3), 240, np.uint8))
    writer.release()
    assert face_clips(tmp_path / "v.mp4", bundle.manifest, WholeFrame()).coverage.tolist() == [0.25]


def test_a_photograph_that_is_all_face(faces: Path) -> None:
    paths = sorted((faces / "val" / "happiness").iterdir())[:30]
    found = [find_face(cv2.imread(str(path)), HaarDetector()) for path in paths]
    assert sum(box is not None for box in found) >= 24


def test_calibration_files_are_refused(bundle: Bundle, other: Bundle, data: Path) -> None:
    from svfap_edge.lists import file_digest

    used = file_digest(data.parent / "a 3.png")
    manifest = replace(bundle.manifest, quantization={"files": [used]})
    marked = Bundle(bundle.path, manifest)
    with pytest.raises(SourceError, match=r"1 of 12 files were used to calibrate .*a 3\.png"):
        evaluate([marked, other], data, WholeFrame(), QUICK)


def test_labels_outside_the_task(bundle: Bundle, other: Bundle, data: Path) -> None:
    wrong = data.parent / "wrong.txt"
    wrong.write_text("a 1.png sideways\n")
    with pytest.raises(SourceError, match=r"'sideways'.*outside task.*bright, dark"):
        evaluate([bundle, other], wrong, WholeFrame(), QUICK)
    wrong.write_text("a 1.png 2\n")
    with pytest.raises(SourceError, match="outside task"):
        evaluate([bundle, other], wrong, WholeFrame(), QUICK)
    options = EvaluationOptions(speed=False, ignore=["2"])
    with pytest.raises(SourceError, match="no files left"):
        evaluate([bundle, other], wrong, WholeFrame(), options)


def test_bundles_of_different_tasks(bundle: Bundle, tiny: Bundle, data: Path) -> None:
    with pytest.raises(BundleError, match="one task"):
        evaluate([bundle, tiny], data, WholeFrame(), QUICK)


def test_unknown_baseline(bundle: Bundle, data: Path) -> None:
    options = EvaluationOptions(baseline="int4.onnx", speed=False)
    with pytest.raises(BundleError, match=r"No baseline 'int4\.onnx'. Runnable here: .*fp32"):
        evaluate([bundle], data, WholeFrame(), options)


def test_timing_in_processes(bundle: Bundle) -> None:
    timed = Timed(bundle.path, "fp32.onnx", "onnxruntime")
    found = time_artifacts([timed, timed], clips=4, rounds=2)
    assert [len(row) for row in found] == [8, 8]
    assert all((row > 0).all() for row in found)


def test_command_line(bundle: Bundle, other: Bundle, data: Path, tmp_path: Path) -> None:
    call = ["evaluate", str(bundle.path), str(other.path), "--data", str(data)]
    call += ["--detector", "none", "--no-speed"]
    result = CliRunner().invoke(app, [*call, "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["files"] == 12
    report = tmp_path / "report"
    result = CliRunner().invoke(app, [*call, "--max-drop", "1", "--report", str(report)])
    assert result.exit_code == 0, result.output
    assert "UAR" in result.output
    names = {path.name for path in report.iterdir()}
    assert {"report.json", "report.md", "report.html"} <= names


def test_record_writes_the_figures_into_the_manifest(
    bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(bundle.path, tmp_path / "b")
    call = ["evaluate", str(tmp_path / "b"), "--data", str(data), "--detector", "none"]
    assert CliRunner().invoke(app, [*call, "--no-speed", "--record"]).exit_code == 0
    quality = Bundle.open(tmp_path / "b").manifest.quality["fp32.onnx"]
    assert quality["measured"]["WAR"] == pytest.approx(11 / 12, abs=1e-4)
    assert "12 files" in quality["data"]
    assert "WAR 0.917" in CliRunner().invoke(app, ["inspect", str(tmp_path / "b")]).output
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["fp32.onnx", "manifest.json"]


@pytest.fixture
def twins(tmp_path: Path, bundle: Bundle) -> tuple[Path, Path]:
    """Two bundles of one name and one folder name; the second has its outputs swapped."""
    import onnx

    model = onnx.ModelProto.FromString(brightness_model(CLIP).SerializeToString())
    model.graph.node[-1].input[:] = ["dark", "bright"]
    right = bundle_of_onnx(tmp_path / "v1" / "brightness", brightness_model(CLIP), BRIGHTNESS_TASK,
                           CLIP)  # fmt: skip
    wrong = bundle_of_onnx(tmp_path / "v2" / "brightness", model, BRIGHTNESS_TASK, CLIP)
    return right.path, wrong.path


def test_two_bundles_of_one_name_are_recorded_apart(twins: tuple[Path, Path], data: Path) -> None:
    call = ["evaluate", *map(str, twins), "--data", str(data), "--detector", "none", "--no-speed"]
    result = CliRunner().invoke(app, [*call, "--record"])
    assert result.exit_code == 0, result.output
    right, wrong = (Bundle.open(path).manifest.quality["fp32.onnx"] for path in twins)
    assert right["measured"]["WAR"] == pytest.approx(11 / 12, abs=1e-4)
    assert wrong["measured"]["WAR"] == pytest.approx(1 / 12, abs=1e-4)
    assert "drop_points" not in right and wrong["drop_points"]["WAR"] == pytest.approx(83.33)
    rows = [line for line in result.output.splitlines() if line.startswith(("v1/", "v2/"))]
    assert [row.split()[0] for row in rows[:2]] == [  # the table
        "v1/brightness/fp32.onnx", "v2/brightness/fp32.onnx",
    ]  # fmt: skip
    assert rows[2].startswith("v2/brightness/fp32.onnx: UAR -85.7 points")  # the verdict


def test_two_bundles_of_one_name_are_apart_in_the_report(
    twins: tuple[Path, Path], data: Path
) -> None:
    from svfap_edge.evaluation.analysis import analyse
    from svfap_edge.evaluation.report.pictures import _short_names
    from svfap_edge.evaluation.report.tables import tables_of, title_of

    found = analyse(evaluate([Bundle.open(p) for p in twins], data, WholeFrame(), QUICK))
    names = ["v1/brightness/fp32.onnx", "v2/brightness/fp32.onnx"]
    assert title_of(found) == f"brightness: {names[1]} against {names[0]}"
    size = next(table for table in tables_of(found) if table.title.startswith("Size"))
    assert [row[:2] for row in size.rows] == [
        (names[0], "v1/brightness"), (names[1], "v2/brightness"),
    ]  # fmt: skip
    long = [f"a-model-with-a-long-name-{i}-of-two/int8.openvino" for i in (1, 2)]
    baseline, (candidate,) = found.baseline, found.candidates
    renamed = replace(
        found,
        baseline=replace(baseline, name=long[0]),
        candidates=(replace(candidate, artifact=replace(candidate.artifact, name=long[1])),),
    )
    assert len(set(_short_names(renamed).values())) == 2


def test_a_copied_bundle_is_named_by_its_folder(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    import shutil

    paths = [Path(shutil.copytree(bundle.path, tmp_path / name)) for name in ("old", "new")]
    found = evaluate([Bundle.open(path) for path in paths], data, WholeFrame(), QUICK)
    assert [r.bundle for r in (found.baseline, *found.candidates)] == ["old", "new"]
    assert [r.path for r in (found.baseline, *found.candidates)] == [str(p) for p in paths]


def test_max_drop_is_an_exit_code(bundle: Bundle, tmp_path: Path, data: Path) -> None:
    """A model that answers the opposite loses everything."""
    import onnx

    model = brightness_model(CLIP)
    model.graph.node[-1].input[:] = ["dark", "bright"]
    wrong = bundle_of_onnx(tmp_path / "wrong", onnx.ModelProto.FromString(
        model.SerializeToString()), BRIGHTNESS_TASK, CLIP)  # fmt: skip
    call = ["evaluate", str(bundle.path), str(wrong.path), "--data", str(data)]
    call += ["--detector", "none", "--no-speed", "--max-drop", "1"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 4
    assert "lost more than 1 points" in result.output


def test_a_limit_needs_something_to_hold_to_it(bundle: Bundle, data: Path) -> None:
    call = ["evaluate", str(bundle.path), "--data", str(data), "--detector", "none"]
    result = CliRunner().invoke(app, [*call, "--no-speed", "--max-drop", "1"])
    assert result.exit_code == 2
    assert "nothing to hold to the limit of 1 points: only fp32.onnx" in result.output
    assert CliRunner().invoke(app, [*call, "--no-speed"]).exit_code == 0


class Half(WholeFrame):
    """Sees no face in dark pictures."""

    def detect(self, frame: np.ndarray) -> list[Box]:
        return super().detect(frame) if frame.mean() > 100 else []


def test_lost_files_are_counted_by_label(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "list.txt"  # what cannot be read is not lost to the detector
    (tmp_path / "cut.png").write_bytes(b"no picture")
    lines = [f"{data.parent}/{line}\n" for line in data.read_text().splitlines() if line]
    broken.write_text("".join([*lines, "cut.png dark\n"]))
    found = evaluate([bundle], broken, Half(), QUICK)
    assert found.lost == {"1": (6, 6)}  # the label as the list has it
    assert evaluate([bundle], data, WholeFrame(), QUICK).lost == {}


def test_haar_says_what_it_lost(bundle: Bundle, data: Path) -> None:
    call = ["evaluate", str(bundle.path), "--data", str(data), "--detector", "haar", "--no-speed"]
    result = CliRunner().invoke(app, call)
    assert "--detector none" in result.output


def test_a_folder_has_a_digest_of_names_labels_and_contents(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for label, value in (("dark", 20), ("bright", 220)):
        (folder / label).mkdir(parents=True)
        cv2.imwrite(str(folder / label / "a.png"), np.full((20, 20, 3), value, np.uint8))

    def digest() -> str:
        return evaluate([bundle], folder, WholeFrame(), QUICK).data_sha256

    first = digest()
    assert len(first) == 64
    assert digest() == first
    cv2.imwrite(str(folder / "dark" / "a.png"), np.full((20, 20, 3), 21, np.uint8))
    second = digest()
    (folder / "dark" / "a.png").rename(folder / "dark" / "b.png")
    third = digest()
    (folder / "dark" / "b.png").rename(folder / "bright" / "b.png")
    assert len({first, second, third, digest()}) == 4


def test_find_items(tmp_path: Path) -> None:
    for name in ("glad/1.png", "glad/2.png", "sad/clip1/0.png", "sad/clip1/1.png", "sad/v.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    items = find_items(tmp_path)
    assert [(str(i.path.relative_to(tmp_path)), i.target) for i in items] == [
        ("glad/1.png", ("glad",)),
        ("glad/2.png", ("glad",)),
        ("sad/v.mp4", ("sad",)),
        ("sad/clip1", ("sad",)),
    ]


def test_bad_lists(tmp_path: Path) -> None:
    for text, word in (("", "empty list"), ("a.mp4 1\nb.mp4\n", "line 2")):
        (tmp_path / "l.txt").write_text(text)
        with pytest.raises(SourceError, match=word):
            find_items(tmp_path / "l.txt")
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="no text in UTF-8 or UTF-16"):
        find_items(tmp_path / "l.txt")


def test_class_targets_by_name_and_index() -> None:
    items = [Item(Path("a"), ("Happy",)), Item(Path("b"), ("6",))]
    assert class_targets(items, TASKS["dfew"]).tolist() == [0, 6]


def test_the_byte_order_mark_of_a_list_is_no_part_of_its_first_path(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes("\ufeffa.mp4 1\nb.mp4 0\n".encode())
    assert [item.path.name for item in find_items(tmp_path / "l.txt")] == ["a.mp4", "b.mp4"]


def test_values_are_in_the_range_of_the_task() -> None:
    task, traits = TASKS["werewolf-xl"], TASKS["first-impressions"]
    good = [Item(Path("a"), ("-1", "1.0000001", "0.5"))]
    assert value_targets(good, task).tolist() == [[-1, 1.0000001, 0.5]]
    for words in (("65", "0", "0"), ("0", "-7", "0")):
        with pytest.raises(SourceError, match=r"'b' is labelled .*werewolf-xl', -1 to 1"):
            value_targets([*good, Item(Path("b"), words)], task)
    with pytest.raises(SourceError, match="first-impressions', 0 to 1"):
        value_targets([Item(Path("c"), ("0.5",) * 4 + ("-0.1",))], traits)


def test_labels_are_left_out_in_whatever_form_they_are_named() -> None:
    items = [Item(Path(t), (t,)) for t in ("0", "Happy", "1", "SAD", "bored")]
    dfew = TASKS["dfew"]
    for ignore in (["happy"], ["0"], ["HAPPY", "0"]):
        kept, unknown = leave_out(items, ignore, dfew)
        assert [str(i.path) for i in kept] == ["1", "SAD", "bored"] and not unknown
    kept, unknown = leave_out(items, ["Bored", "fear", "sadd", "9"], dfew)
    assert len(kept) == 4 and unknown == ["sadd", "9"]
    kept, unknown = leave_out(items, ["happy", "sad", "angry"], None)
    assert [str(i.path) for i in kept] == ["0", "1", "bored"] and unknown == ["angry"]


def test_a_label_to_ignore_that_is_nowhere_is_refused(bundle: Bundle, data: Path) -> None:
    options = EvaluationOptions(speed=False, ignore=["brigth"])
    with pytest.raises(SourceError, match=r"bright, dark.*label 'brigth' to ignore"):
        evaluate([bundle, bundle], data, WholeFrame(), options)


def test_indices_of_a_prepared_list_keep_their_meaning(bundle: Bundle, tmp_path: Path) -> None:
    data = tmp_path / "test.txt"
    data.write_text("a.png 0\nb.png 1\n")
    record = {"labels": ["dark", "bright"], "lists": {"test": "/elsewhere/test.txt"}}
    (tmp_path / "prepared.json").write_text(json.dumps(record))
    with pytest.raises(
        SourceError, match=r"indices into dark, bright .*order here is bright, dark"
    ):
        evaluate([bundle, bundle], data, WholeFrame(), QUICK)


def test_stratified_is_even_and_reproducible() -> None:
    items = [Item(Path(f"{i}"), ("rare" if i % 10 == 0 else "common",)) for i in range(100)]
    chosen = stratified(items, 20)
    assert sum(item.target == ("rare",) for item in chosen) == 10
    assert chosen == stratified(items, 20)
    assert len({item.path for item in stratified(items, 200)}) == 100
