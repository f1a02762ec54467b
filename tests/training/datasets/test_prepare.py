"""From official releases to lists; every release is built here with its real names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from svfap_edge.cli.app import app
from svfap_edge.errors import SourceError
from svfap_edge.lists import class_targets, read_list
from svfap_edge.tasks import TASKS
from svfap_edge.training.datasets import prepare as preparation
from svfap_edge.training.datasets.prepare import DATASETS, find_fold, find_images
from svfap_edge.training.datasets.release import Found
from svfap_edge.training.datasets.split import Prepared, hold_out, write_lists
from tests.test_imports import HEAVY, loaded_by

FERV_SCENES = ("Action", "Argue", "Business", "Crime", "School", "War")
MAFW_LABELS = TASKS["mafw"].labels


def prepare(
    name: str, root: Path, out: Path, fold: int = 1, clips: Path | None = None, **how: Any
) -> Prepared:
    return write_lists(find_fold(name, root, fold, clips), out, **how)


def prepare_images(root: Path, out: Path, labels: Sequence[str] = (), **how: Any) -> Prepared:
    return write_lists(find_images(root, labels), out, **how)


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def lines(path: Path, rows: Iterable[str]) -> None:
    touch(path, "".join(f"{row}\n" for row in rows).encode())


def make_dfew(root: Path, count: int = 400) -> Path:
    """Clips 1..count in turn of the seven labels; every fifth is for test, fold by fold."""
    for number in range(1, count + 1):
        touch(root / f"Clip/clip_224x224/{number:05d}/{number:05d}_00001.jpg")
    for fold in range(1, 6):
        for part in ("train", "test"):
            rows = [
                f"{n},{(n - 1) % 7 + 1}"
                for n in range(1, count + 1)
                if (n % 5 == fold - 1) == (part == "test")
            ]
            folder = root / f"EmoLabel_DataSplit/{part}(single-labeled)"
            lines(folder / f"set_{fold}.csv", ["video_name,label", *rows])
    return root


def make_ferv39k(root: Path) -> Path:
    rows = []
    for scene in FERV_SCENES:
        for emotion in ("Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear"):
            for number in range(4):
                name = f"{scene}/{emotion}/{number:04d}"
                touch(root / "2_ClipsforFaceCrop" / name / "0001.jpg")
                rows.append(f"{name} {emotion}")
    lines(root / "4_setups/All_scenes/train_All.csv", (r for i, r in enumerate(rows) if i % 4))
    lines(root / "4_setups/All_scenes/test_All.csv", rows[::4])
    return root


def make_mafw(root: Path) -> Path:
    for number in range(1, 331):
        touch(root / f"data/clips/{number:05d}.mp4")
    for fold in range(1, 6):
        for part in ("train", "test"):
            lines(
                root / f"Train & Test Set/single/no_caption/set_{fold}/{part}.txt",
                (
                    f"{n:05d}.mp4 {MAFW_LABELS[n % 11]}"
                    for n in range(1, 331)
                    if (n % 5 == fold - 1) == (part == "test")
                ),
            )
    return root


def make_crema_d(root: Path) -> Path:
    for actor in range(1001, 1092):
        for code in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"):
            touch(root / f"VideoFlash/{actor}_DFA_{code}_XX.flv")
    touch(root / "VideoFlash/1076_MTI_NEU_XX.flv")  # damaged in the release
    return root


def make_ravdess(root: Path) -> Path:
    for actor in range(1, 25):
        folder = root / f"Actor_{actor:02d}"
        for emotion in range(1, 9):
            for modality in ("01", "02"):
                touch(folder / f"{modality}-01-{emotion:02d}-01-01-01-{actor:02d}.mp4")
            touch(folder / f"03-01-{emotion:02d}-01-01-01-{actor:02d}.wav")
        touch(folder / f"02-02-03-01-01-01-{actor:02d}.mp4")  # song
    return root


def make_enterface05(root: Path) -> Path:
    base = root / "enterface database"
    for subject in range(1, 45):
        for emotion in TASKS["enterface05"].labels:
            code = emotion[:2]
            if subject == 6:
                touch(base / f"subject 6/{emotion}/s6_{code}.avi")
            else:
                name = f"{'s_3' if subject == 3 else f's{subject}'}_{code}_1.avi"
                touch(base / f"subject {subject}/{emotion}/sentence 1/{name}")
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "dfew": make_dfew,
    "ferv39k": make_ferv39k,
    "mafw": make_mafw,
    "crema-d": make_crema_d,
    "ravdess": make_ravdess,
    "enterface05": make_enterface05,
}
PERSON = {
    "crema-d": lambda path: path.name[:4],
    "ravdess": lambda path: path.parent.name,
    "enterface05": lambda path: path.parts[-4],
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def paths(prepared: Prepared) -> dict[str, set[Path]]:
    return {part: {i.path for i in read_list(f)} for part, f in prepared.lists.items()}


def test_every_data_set_has_a_task_and_a_release_here() -> None:
    assert set(DATASETS) == set(MAKERS) <= set(TASKS)


@pytest.mark.parametrize("name", MAKERS)
def test_parts_are_disjoint_and_labels_fit(
    name: str, releases: dict[str, Path], tmp_path: Path
) -> None:
    tested: list[Path] = []
    for fold in range(1, DATASETS[name].folds + 1):
        done = prepare(name, releases[name], tmp_path, fold)
        found = paths(done)
        assert not found["train"] & found["val"]
        assert not (found["train"] | found["val"]) & found["test"]
        assert all(p.exists() for files in found.values() for p in files)
        tested += found["test"]
        for part, file in done.lists.items():
            items = read_list(file)
            targets = class_targets(items, TASKS[name])
            counts = [int((targets == i).sum()) for i in range(len(done.labels))]
            assert counts == list(done.counts[part].values())
            assert min(counts) > 0
        share = len(found["val"]) / len(found["train"] | found["val"])
        assert 0.05 <= share <= 0.25
        if name in PERSON:
            who = {part: {PERSON[name](p) for p in files} for part, files in found.items()}
            assert done.person_disjoint
            assert not who["train"] & who["val"] and not who["test"] & (who["train"] | who["val"])
            assert {part: len(people) for part, people in who.items()} == done.groups
        else:
            assert not done.person_disjoint
            assert any("not known to be person-disjoint" in note for note in done.notes)
    assert len(tested) == len(set(tested))
    if DATASETS[name].folds > 1:  # every clip is tested once
        assert set(tested) == found["train"] | found["val"] | found["test"]


def label_of(done: Prepared, end: str) -> str:
    items = [i for file in done.lists.values() for i in read_list(file)]
    return done.labels[int(next(i for i in items if str(i.path).endswith(end)).target[0])]


@pytest.mark.parametrize(
    ("name", "end", "label"),
    [
        ("dfew", "/00001", "happy"),
        ("dfew", "/00003", "neutral"),
        ("dfew", "/00007", "fear"),
        ("ferv39k", "War/Angry/0002", "angry"),
        ("mafw", "/00010.mp4", "disappointment"),
        ("crema-d", "1091_DFA_NEU_XX.flv", "neutral"),
        ("ravdess", "02-01-06-01-01-01-12.mp4", "fearful"),
        ("enterface05", "s_3_ha_1.avi", "happiness"),
    ],
)
def test_labels(name: str, end: str, label: str, releases: dict[str, Path], tmp_path: Path) -> None:
    assert label_of(prepare(name, releases[name], tmp_path), end) == label


@pytest.mark.parametrize(
    ("name", "fold", "first", "last", "count"),
    [
        ("ravdess", 1, "Actor_01", "Actor_04", 4),
        ("ravdess", 6, "Actor_21", "Actor_24", 4),
        ("crema-d", 1, "1001", "1018", 18),
        ("crema-d", 5, "1073", "1091", 19),
        ("enterface05", 1, "subject 1", "subject 9", 9),
        ("enterface05", 5, "subject 38", "subject 44", 7),
    ],
)
def test_folds_are_the_published_ones(
    name: str, fold: int, first: str, last: str, count: int,
    releases: dict[str, Path], tmp_path: Path,
) -> None:  # fmt: skip
    people = {PERSON[name](p) for p in paths(prepare(name, releases[name], tmp_path, fold))["test"]}
    assert len(people) == count
    assert (min(people), max(people)) == (first, last)


def test_what_is_left_out_is_said(releases: dict[str, Path], tmp_path: Path) -> None:
    notes = {
        name: " ".join(prepare(name, releases[name], tmp_path / name).notes)
        for name in ("crema-d", "ravdess", "enterface05")
    }
    assert "release lists as damaged are left out: 1." in notes["crema-d"]
    assert "speech: 24." in notes["ravdess"]
    assert "left out: 6, such as 's6_an.avi'" in notes["enterface05"]


def test_ravdess_takes_each_recording_once(tmp_path: Path, releases: dict[str, Path]) -> None:
    found = set().union(*paths(prepare("ravdess", releases["ravdess"], tmp_path)).values())
    assert len(found) == 24 * 8
    assert {p.name[:2] for p in found} == {"02"}
    root = make_ravdess(tmp_path / "r")
    for path in (root / "Actor_05").glob("02-01-*"):
        path.unlink()
    found = set().union(*paths(prepare("ravdess", root, tmp_path / "o")).values())
    assert {p.name[:2] for p in found if p.parent.name == "Actor_05"} == {"01"}


def test_groups_stay_together(releases: dict[str, Path], tmp_path: Path) -> None:
    found = paths(prepare("ferv39k", releases["ferv39k"], tmp_path))
    scenes = {part: {p.parts[-3] for p in files} for part, files in found.items()}
    assert not scenes["val"] & scenes["train"]
    found = paths(prepare("dfew", releases["dfew"], tmp_path))
    runs = {part: {int(p.name) // 20 for p in files} for part, files in found.items()}
    assert not runs["val"] & runs["train"]


def test_same_seed_same_lists(releases: dict[str, Path], tmp_path: Path) -> None:
    def texts(out: str, seed: int) -> list[str]:
        done = prepare("crema-d", releases["crema-d"], tmp_path / out, 2, seed=seed)
        return [file.read_text() for file in done.lists.values()]

    assert texts("a", 3) == texts("b", 3)
    first, other = texts("a", 3), texts("c", 4)
    assert first[1] != other[1]
    assert first[2] == other[2]  # the seed moves validation, never the test part


def test_hold_out_follows_labels_and_keeps_groups() -> None:
    clips = [
        Found(Path(f"{person}-{n}"), n % 3, f"p{person}", "train")
        for person in range(40)
        for n in range(person % 5 + 3)
    ]
    held = hold_out(clips, 0.2, seed=1)
    for label in range(3):
        of_label = [clip.group in held for clip in clips if clip.label == label]
        assert sum(of_label) / len(of_label) == pytest.approx(0.2, abs=0.05)
    two = [Found(Path(f"{g}{n}"), 0, g, "train") for g in "ab" for n in range(50)]
    assert len(hold_out(two, 0.1, seed=0)) == 1  # no group fits the share: still one, never both
    with pytest.raises(SourceError, match=r"1 group\(s\)"):
        hold_out(two[:50], 0.1, seed=0)
    for share in (0.0, 0.6, -1.0):
        with pytest.raises(SourceError, match="share"):
            hold_out(two, share, seed=0)


def test_missing_clips_are_named_and_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dfew(tmp_path / "dfew")
    (root / "Clip/clip_224x224/00017/00017_00001.jpg").unlink()  # an empty folder is no clip
    done = prepare("dfew", root, tmp_path / "out")
    assert done.missing == ("00017",)
    assert any("not on disk: 1 (00017)" in n for n in done.notes)
    for number in range(20, 25):
        (root / f"Clip/clip_224x224/{number:05d}/{number:05d}_00001.jpg").unlink()
    with pytest.raises(SourceError, match=r"6 of 400 .* limit of 1.0%: .*000\d\d"):
        prepare("dfew", root, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(preparation, "MISSING_LIMIT", 0.02)
    assert len(prepare("dfew", root, tmp_path / "new").missing) == 6


def test_a_clip_in_both_official_lists_is_for_test_only(tmp_path: Path) -> None:
    root = make_mafw(tmp_path / "mafw")
    folder = root / "Train & Test Set/single/no_caption/set_1"
    first = (folder / "test.txt").read_text().splitlines()[0]
    lines(folder / "train.txt", [*(folder / "train.txt").read_text().splitlines(), first])
    done = prepare("mafw", root, tmp_path / "out")
    found = paths(done)
    assert root / "data/clips" / first.split()[0] in found["test"]
    assert not found["test"] & (found["train"] | found["val"])
    assert any("kept for test only: 1, such as" in n for n in done.notes)


def test_clips_from_another_folder(releases: dict[str, Path], tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    for video in (releases["crema-d"] / "VideoFlash").glob("*.flv"):
        touch(crops / video.stem / "0001.jpg")
    done = prepare("crema-d", releases["crema-d"], tmp_path / "out", clips=crops)
    assert sum(sum(c.values()) for c in done.counts.values()) == 91 * 6
    assert all(p.parent == crops for p in paths(done)["train"])


def test_sixteen_frame_clips_are_told(tmp_path: Path) -> None:
    root = make_dfew(tmp_path / "dfew", 100)
    (root / "Clip/clip_224x224").rename(root / "Clip/clip_224x224_16f")
    assert any("stride 1" in note for note in prepare("dfew", root, tmp_path / "out").notes)


def test_relative_paths(releases: dict[str, Path], tmp_path: Path) -> None:
    done = prepare("mafw", releases["mafw"], tmp_path, 3, relative=True)
    assert done.lists["val"].read_text().startswith("..")
    assert all(p.exists() for files in paths(done).values() for p in files)


def test_a_frame_folder_with_a_space_is_refused(tmp_path: Path) -> None:
    root = make_ferv39k(tmp_path / "my data")
    with pytest.raises(SourceError, match="space"):
        prepare("ferv39k", root, tmp_path / "out")
    prepare("ferv39k", root, tmp_path / "my data" / "lists", relative=True)


def test_other_lists_are_not_replaced(releases: dict[str, Path], tmp_path: Path) -> None:
    done = prepare("ferv39k", releases["ferv39k"], tmp_path)
    prepare("ferv39k", releases["ferv39k"], tmp_path)  # the same again is fine
    done.lists["test"].write_text("mine 0\n")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(SourceError, match=r"\.txt' is there and differs.*--force"):
        prepare("ferv39k", releases["ferv39k"], tmp_path, seed=5)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    prepare("ferv39k", releases["ferv39k"], tmp_path, seed=5, force=True)
    assert done.lists["test"].read_bytes() != b"mine 0\n"
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "prepared.json", "test.txt", "train.txt", "val.txt",
    ]  # fmt: skip


def test_a_failed_write_leaves_no_half_list(releases: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(SourceError, match="cannot be written"):
        prepare("ferv39k", releases["ferv39k"], tmp_path / "out")
    assert (tmp_path / "out").read_text().startswith("a file")
    (tmp_path / "other" / "val.txt").mkdir(parents=True)  # cannot be replaced by a file
    with pytest.raises(SourceError, match=r"val.txt' cannot be written"):
        prepare("ferv39k", releases["ferv39k"], tmp_path / "other")
    assert not list((tmp_path / "other").glob("*.part"))


@pytest.mark.parametrize("name", MAKERS)
def test_a_wrong_layout_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder"):
        prepare(name, tmp_path / "absent", tmp_path / "out")
    touch(tmp_path / "root" / "archive.zip")
    with pytest.raises(SourceError, match=r"Looked for .*; found archive.zip. Unpack"):
        prepare(name, tmp_path / "root", tmp_path / "out")
    MAKERS[name](tmp_path / "root" / "deeper")
    with pytest.raises(SourceError, match=r"deeper': give that folder"):
        prepare(name, tmp_path / "root", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["crema-d", "ravdess", "enterface05"])
def test_strange_names_are_shown(name: str, tmp_path: Path) -> None:
    for folder in ("VideoFlash", "Actor_01", "subject 1"):
        touch(tmp_path / folder / "holiday.mp4")
    with pytest.raises(SourceError, match=r"other names, such as 'holiday.mp4'"):
        prepare(name, tmp_path, tmp_path / "out")


def test_a_pointer_in_place_of_a_video_is_refused(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.example/spec/v1\noid sha256:0\nsize 1\n"
    touch(tmp_path / "VideoFlash/1001_DFA_ANG_XX.flv", pointer)
    with pytest.raises(SourceError, match="git lfs pull"):
        prepare("crema-d", tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("row", "message"),
    [("7,0", "1 to 7"), ("abc,3", "got 'abc,3'"), ("12", "1 to 7")],
)
def test_a_strange_line_of_an_official_list(row: str, message: str, tmp_path: Path) -> None:
    root = make_dfew(tmp_path / "dfew", 100)
    file = root / "EmoLabel_DataSplit/train(single-labeled)/set_1.csv"
    file.write_text(f"video_name,label\n1,1\n{row}\n")
    with pytest.raises(SourceError, match=message) as caught:
        prepare("dfew", root, tmp_path / "out")
    assert "set_1.csv', line 3" in str(caught.value)


def test_an_unknown_label_of_an_official_list(tmp_path: Path) -> None:
    root = make_ferv39k(tmp_path / "ferv")
    lines(root / "4_setups/All_scenes/test_All.csv", ["Action/Sad/0001 Gloomy"])
    with pytest.raises(SourceError, match=r"test_All.csv', line 1: .*happy.*Gloomy"):
        prepare("ferv39k", root, tmp_path / "out")
    (root / "4_setups/All_scenes/test_All.csv").unlink()
    with pytest.raises(SourceError, match="not a readable list of the release"):
        prepare("ferv39k", root, tmp_path / "out")


def test_no_test_clip_on_disk(tmp_path: Path) -> None:
    for actor in (5, 6, 7):
        touch(tmp_path / f"Actor_{actor:02d}/02-01-01-01-01-01-{actor:02d}.mp4")
    with pytest.raises(SourceError, match="RAVDESS, fold 1: no clip on disk is for test"):
        prepare("ravdess", tmp_path, tmp_path / "out")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for label, count in (("glad", 40), ("sad", 20), ("calm", 10)):
        for number in range(count):
            touch(tmp_path / "faces" / label / f"{number}.jpg")
    return tmp_path / "faces"


def test_images(images: Path, tmp_path: Path) -> None:
    done = prepare_images(images, tmp_path / "out", val_share=0.2)
    assert done.labels == ("calm", "glad", "sad")
    assert done.counts["val"] == {"calm": 2, "glad": 8, "sad": 4}
    assert set(done.lists) == {"train", "val"}
    assert any("not known to be person-disjoint" in note for note in done.notes)
    done = prepare_images(images, tmp_path / "two", labels=("sad", "glad"))
    assert label_of(done, "glad/3.jpg") == "glad" and done.labels == ("sad", "glad")
    assert any("left out: calm" in note for note in done.notes)
    with pytest.raises(SourceError, match=r"Looked for fear/\*.jpg; found calm/, glad/, sad/"):
        prepare_images(images, tmp_path / "three", labels=("sad", "fear"))


def test_images_keep_the_parts_they_come_in(images: Path, tmp_path: Path) -> None:
    images.rename(tmp_path / "train")
    (tmp_path / "set").mkdir()
    (tmp_path / "train").rename(tmp_path / "set/train")
    held = touch(tmp_path / "set/val/glad/held.jpg")
    done = prepare_images(tmp_path / "set", tmp_path / "out")
    assert paths(done)["val"] == {held}
    assert any("No clip of calm, sad in val" in note for note in done.notes)


def test_real_faces(faces: Path, tmp_path: Path) -> None:
    done = prepare_images(faces / "train", tmp_path)
    for label, count in done.counts["train"].items():
        total = count + done.counts["val"][label]
        assert done.counts["val"][label] == pytest.approx(0.1 * total, abs=1)


def test_preparing_loads_no_torch() -> None:
    loaded = loaded_by("import svfap_edge.training.datasets.prepare")
    assert not loaded & {"torch", "cv2", "onnxruntime", "openvino"}
    code = (
        "import sys; sys.argv = ['svfap-edge', 'prepare', '--help']\n"
        "from svfap_edge.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert not loaded_by(code) & {*HEAVY, "numpy"}


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["prepare", *map(str, args)])


def test_command_writes_every_fold(releases: dict[str, Path], tmp_path: Path) -> None:
    result = call("RAVDESS", releases["ravdess"], "-o", tmp_path)
    assert result.exit_code == 0, result.output
    for word in ("fold 6 of 6", "fearful", "by person", "share no person", "Songs"):
        assert word in result.output
    assert len(list(tmp_path.glob("fold?/*.txt"))) == 18
    record = json.loads((tmp_path / "fold2/prepared.json").read_text())
    assert record["counts"]["test"]["calm"] == 4 and record["seed"] == 0


def test_command_json(releases: dict[str, Path], images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("mafw", releases["mafw"], "-o", out, "--fold", 2, "--json")
    (fold,) = json.loads(result.output)["folds"]
    assert fold["fold"] == 2 and fold["person_disjoint"] is False
    assert Path(fold["lists"]["val"]) == out / "fold2" / "val.txt"
    result = call("images", images, "-o", out, "--labels", "sad,glad,calm", "--json")
    assert json.loads(result.output)["folds"][0]["labels"] == ["sad", "glad", "calm"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("kinetics", "."), "Known data sets: dfew"),
        (("dfew", "."), "Looked for Clip/clip_224x224"),
        (("dfew", ".", "--fold", "6"), "folds 1 to 5; got 6"),
        (("dfew", ".", "--fold", "one"), "a number or all"),
        (("dfew", ".", "--clips", "nowhere"), "no folder of clips"),
        (("dfew", ".", "--labels", "a,b"), "--labels is for images"),
        (("images", ".", "--fold", "2"), "one fold"),
        (("images", "."), "Looked for LABEL/*.jpg"),
    ],
)
def test_command_refuses_with_code_2(
    args: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    result = call(*args, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output
    result = call(*args, "-o", tmp_path / "out", "--json")
    assert message in json.loads(result.output)["error"]["message"]
    assert not (tmp_path / "out").exists()
