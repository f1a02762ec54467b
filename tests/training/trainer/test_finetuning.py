"""Fine-tuning: it learns, resumes to the bit, runs in two processes, and refuses bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from svfap_edge.bundle import DEFAULT_BUNDLE, Bundle
from svfap_edge.checks import read_checks
from svfap_edge.errors import ConfigError, DependencyMissing, SourceError, SvfapError, TrainingError
from svfap_edge.export.reference import torch_logits
from svfap_edge.tasks import Task
from svfap_edge.training.checkpoint import load_checkpoint
from svfap_edge.training.clips.reading import LabelledClips
from svfap_edge.training.config import load_config
from svfap_edge.training.settings import FinetuneConfig, ModelSettings
from svfap_edge.training.trainer import loop
from svfap_edge.training.trainer.finetuning import Finetuning, open_model
from svfap_edge.training.trainer.resume import save_atomically
from svfap_edge.training.trainer.train import build_fabric, finetune
from tests.training.conftest import LABELS, settings

PLAIN = (
    *(f"augment.{name}=0" for name in ("ops", "erase", "soft", "grey", "noise", "shade", "light")),
    *("augment.tilt=0", "augment.crop_area=1", "mixing.probability=0", "loss.smoothing=0"),
    "model.drop_path=0",
)


def config(*overrides: str) -> FinetuneConfig:
    return load_config(FinetuneConfig, None, overrides)


def history(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "svfap_edge", "finetune", *arguments]


def test_eight_clips_are_learned_by_heart(drawn: Path, tmp_path: Path) -> None:
    train = drawn / "train.txt"
    both = tmp_path / "same-files.txt"  # a copy under other names, to see the training accuracy
    lines = [line.rpartition(" ") for line in train.read_text().splitlines()]
    assert len(lines) == 8
    copies = []
    for number, (path, _, label) in enumerate(lines):
        link = tmp_path / f"clip{number}"
        link.symlink_to(drawn / path)
        copies.append(f"{link} {label}\n")
    both.write_text("".join(copies))
    overrides = settings(
        drawn, tmp_path / "run", *PLAIN, f"data.val={both}", "optim.epochs=60",
        "optim.batch=8", "optim.rate=0.1", "optim.layer_decay=1", "run.validate_every=60",
    )  # fmt: skip
    best = finetune(config(*overrides))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["final"]["val"]["published"]["war"] == 1.0
    assert report["final"]["val"]["published"]["uar"] == 1.0
    loaded = load_checkpoint(best)
    assert loaded.kind == "fine-tuned" and loaded.model.config.outputs == len(LABELS)
    assert (tmp_path / "run" / "report.png").stat().st_size > 10_000


def test_final_figures_are_those_of_the_best_weights_evaluated_once(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: list[object] = []
    evaluate = Finetuning.evaluate

    def counted(
        objective: Finetuning,
        fabric: Fabric,
        model: nn.Module,
        clips: LabelledClips,
        streaming: bool = False,
    ) -> object:
        lists.extend([] if streaming else [clips])
        return evaluate(objective, fabric, model, clips, streaming)

    monkeypatch.setattr(Finetuning, "evaluate", counted)
    listed = tmp_path / "test.txt"  # copies of the validation list's files
    for number, line in enumerate((drawn / "val.txt").read_text().splitlines()):
        path, _, label = line.rpartition(" ")
        (tmp_path / f"clip{number}").symlink_to(drawn / path)
        with listed.open("a") as file:
            file.write(f"clip{number} {label}\n")
    test = f"data.test={listed}"
    chosen = config(*settings(drawn, tmp_path / "run", "optim.epochs=3", "optim.rate=0.05", test))
    best = finetune(chosen)
    assert len(lists) == 3 + 1  # each epoch, and the test list
    final = json.loads((tmp_path / "run" / "report.json").read_text())["final"]
    loaded = load_checkpoint(best)
    row = history(tmp_path / "run")[loaded.info["epoch"] - 1]
    assert {k: v for k, v in row.items() if k not in ("epoch", "loss")} == final["val"]["published"]
    assert final["test"]["published"] == final["val"]["published"]  # evaluated anew: the same files
    finetune(chosen, resume=True)  # nothing is left to train, and the figures are kept
    assert len(lists) == 3 + 1 + 1
    again = json.loads((tmp_path / "run" / "report.json").read_text())["final"]
    assert again == final


def test_killed_and_resumed_ends_as_if_never_killed(drawn: Path, tmp_path: Path) -> None:
    epochs = 15  # enough for the kill to come before the end, however late it is noticed
    more = (f"optim.epochs={epochs}", "optim.batch=2", "run.save_every=0", "data.repeats=2",
            "optim.average=0.9", "optim.accumulate=2", "framing.zoom_out=0.5")  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finetune(config(*settings(drawn, whole, *more)))
    overrides = settings(drawn, cut, *more)
    process = subprocess.Popen(command(*overrides), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (cut / loop.RESUME).is_file():
            place = torch.load(cut / loop.RESUME, weights_only=False)["place"]
            if place["epoch"] >= 1 and place["step"]:
                break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    place = torch.load(cut / loop.RESUME, weights_only=False)["place"]
    assert place["epoch"] < epochs, "the run ended before it could be killed"
    subprocess.run(command(*overrides, "--resume"), check=True, capture_output=True)
    assert history(cut) == history(whole)
    ours, theirs = (torch.load(f / loop.FINAL, weights_only=True)["model"] for f in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(cut.glob("*.part"))


def test_views_reach_beyond_the_picture_where_asked_for(drawn: Path, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    class Seeing(nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            seen.append(clips)
            return torch.zeros(len(clips), len(LABELS))

    clips = torch.rand(2, 3, 4, 32, 32)
    for framing in ((), ("framing.zoom_out=1",)):
        objective = Finetuning.prepare(config(*settings(drawn, tmp_path, *PLAIN, *framing)))
        objective.clip_loss(Seeing(), clips, torch.arange(2), np.random.default_rng(0))
    assert torch.equal(seen[0], clips)
    assert all(not torch.equal(found, clip) for found, clip in zip(seen[1], clips, strict=True))


def test_two_processes_evaluate_as_one(drawn: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    bad, listed = tmp_path / "bad.mp4", tmp_path / "val.txt"
    bad.write_bytes(b"no video")
    lines = [f"{drawn / line}\n" for line in (drawn / "val.txt").read_text().splitlines()]
    listed.write_text("".join([lines[0], f"{bad} 0\n", *lines[1:]]))  # the second process reads it
    more = ("optim.epochs=1", f"data.val={listed}")
    finetune(config(*settings(drawn, one, *more, "optim.batch=4", *PLAIN)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m"]
    arguments = settings(
        drawn, two, *more, "optim.batch=2", "run.devices=2", "run.strategy=ddp", *PLAIN
    )
    subprocess.run(
        [*launch, "svfap_edge", "finetune", *arguments], check=True, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    reports = [json.loads((f / "report.json").read_text()) for f in (one, two)]
    assert [list(report["unreadable"]) for report in reports] == [[str(bad)]] * 2
    ours, theirs = (report["final"] for report in reports)
    for name in ("published", "streaming"):
        for metric in ("uar", "war", "macro_f1"):
            assert ours["val"][name][metric] == pytest.approx(theirs["val"][name][metric], abs=1e-6)
    assert history(one)[0]["loss"] == pytest.approx(history(two)[0]["loss"], abs=1e-5)


FEW_ITEMS = """
import numpy as np
import torch
from lightning.fabric import Fabric
from svfap_edge.tasks import Task
from svfap_edge.training.protocols import run_list

class Clips:
    def __getitem__(self, index):
        return index, np.full((1, 2, 4, 4, 3), 50 + index, np.uint8)

fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
norm = torch.nn.BatchNorm3d(3)
mean = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())
model = torch.nn.Sequential(norm, mean)
task = Task("t", "values", ("a", "b", "c"))
for count in (1, 2, 5):
    found = run_list(fabric, model, Clips(), count, task, batch=1)
    clips = torch.arange(50, 50 + count)[:, None] / 255
    expected = (clips - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found, expected / (1 + norm.eps) ** 0.5, rtol=1e-4)
"""


def test_two_processes_share_any_number_of_items(tmp_path: Path) -> None:
    """A process without an item holds nobody up."""
    script = tmp_path / "few.py"
    script.write_text(FEW_ITEMS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(script)]
    process = subprocess.Popen(
        launch, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True
    )
    try:
        _, said = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.terminate()  # and it ends its processes
        process.communicate()
        pytest.fail("The processes wait for each other.")
    assert process.returncode == 0, said


def test_values_and_traits(drawn: Path, tmp_path: Path) -> None:
    for name in ("train", "val"):
        lines = [line.split() for line in (drawn / f"{name}.txt").read_text().splitlines()]
        rows = [
            f"{drawn / path} {int(label) / 4 - 0.3} {0.1 * i}"
            for i, (path, label) in enumerate(lines)
        ]
        (tmp_path / f"{name}.txt").write_text("\n".join(rows))
    best = finetune(
        config(
            *settings(drawn, tmp_path / "run", "data.task=avcaffe", "data.labels=none"),
            f"data.train={tmp_path / 'train.txt'}",
            f"data.val={tmp_path / 'val.txt'}",
            "optim.epochs=2",
        )
    )
    row = history(best.parent)[-1]
    assert {"ccc", "pcc", "1-mae", "loss"} <= set(row)


def test_corrupt_clips_are_counted_and_named(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    listed = tmp_path / "train.txt"
    lines = (drawn / "train.txt").read_text().splitlines()
    listed.write_text("".join(f"{drawn / line}\n" for line in lines) + f"{bad} 0\n")
    other = tmp_path / "other.mp4"
    other.write_bytes(b"no video")
    val = tmp_path / "val.txt"
    lines = (drawn / "val.txt").read_text().splitlines()
    val.write_text("".join(f"{drawn / line}\n" for line in lines) + f"{other} 0\n")
    lists = (f"data.train={listed}", f"data.val={val}")
    good = settings(drawn, tmp_path / "run", *lists, "optim.epochs=2")
    finetune(config(*good))
    assert capsys.readouterr().err.count("Left out: '") == 2  # each of them once
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(report["unreadable"]) == [str(bad), str(other)]
    finetune(config(*good), resume=True)  # no training clip is read any more
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == {
        **report, "created": ANY
    }  # fmt: skip
    listed.write_text("".join(f"{bad.with_name(f'{i}.mp4')} 0\n" for i in range(30)))
    for i in range(30):
        bad.with_name(f"{i}.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError, match="cannot be read, more than the limit"):
        finetune(config(*settings(drawn, tmp_path / "b", f"data.train={listed}")))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.train=", "No list is named"),
        ("data.task=unheard-of", None),
        ("model.heads=5", "model"),
        ("model.preset=huge", "No model preset 'huge'"),
        ("loss.kind=ccc", "does not fit classes"),
        ("run.accelerator=cuda", "are not available here"),
    ],
)
def test_wrong_settings_end_before_training(
    drawn: Path, tmp_path: Path, override: str, words: str | None
) -> None:
    more = ("data.labels=none",) if "task" in override else ()
    with pytest.raises(SvfapError, match=words):
        finetune(config(*settings(drawn, tmp_path / "run", override, *more)))
    assert not (tmp_path / "run").exists()


def test_empty_list_label_out_of_range_and_shared_files(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "list.txt"
    for text, words in (("", "empty|no lines|holds no"), (f"{drawn} 9\n", "outside task")):
        listed.write_text(text)
        with pytest.raises(SourceError, match=words):
            finetune(config(*settings(drawn, tmp_path / "r", f"data.train={listed}")))
    same = f"data.val={drawn / 'train.txt'}"
    with pytest.raises(ConfigError, match=r"8 files are in data\.train"):
        finetune(config(*settings(drawn, tmp_path / "r", same)))
    monkeypatch.chdir(drawn)
    relative = "data.val=train.txt"
    with pytest.raises(ConfigError, match=r"8 files are in data\.train and in data\.val"):
        finetune(config(*settings(drawn, tmp_path / "r", relative)))
    tested = "data.test=val.txt"
    with pytest.raises(ConfigError, match=r"4 files are in data\.val and in data\.test"):
        finetune(config(*settings(drawn, tmp_path / "r", tested)))


def test_labels_to_ignore_are_names_or_indices_and_known(drawn: Path, tmp_path: Path) -> None:
    """The drawn lists hold indices."""
    for word in ("Anger", "3"):
        objective = Finetuning.prepare(
            config(*settings(drawn, tmp_path / "run", f'data.ignore=["{word}"]'))
        )
        assert set(objective.train.targets) == set(objective.val.targets) == {0, 1, 2}
    with pytest.raises(ConfigError, match="no list and no task has a label 'angr'"):
        Finetuning.prepare(config(*settings(drawn, tmp_path / "run", 'data.ignore=["angr"]')))
    listed = tmp_path / "train.txt"  # a label that is in one list only, and not in the task
    lines = (drawn / "train.txt").read_text().splitlines()
    listed.write_text("".join(f"{drawn / line}\n" for line in lines) + f"{drawn} fear\n")
    more = (f"data.train={listed}", 'data.ignore=["Fear"]')
    assert len(Finetuning.prepare(config(*settings(drawn, tmp_path / "run", *more))).train) == 8


def test_a_head_starts_in_the_order_of_the_task(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = finetune(config(*settings(drawn, tmp_path / "run", "optim.epochs=1")))
    before = load_checkpoint(best)
    assert before.info["labels"] == LABELS
    assert before.info["task"].name == "drawn"  # so that export needs no --task
    start = ModelSettings(start=str(best))
    turned = open_model(start, Task("drawn", "classes", LABELS[::-1]))
    assert torch.equal(turned.head.weight, before.model.head.weight.flip(0))
    assert torch.equal(turned.head.bias, before.model.head.bias.flip(0))
    assert "fresh" not in capsys.readouterr().err
    for labels in (("a", "b", "c", "d"), LABELS[:3]):
        other = open_model(start, Task("other", "classes", labels))
        assert len(other.head.weight) == len(labels)
        assert not torch.equal(other.head.weight, before.model.head.weight[: len(labels)])
        assert torch.equal(other.blocks[0].mlp.fc1.weight, before.model.blocks[0].mlp.fc1.weight)  # type: ignore[union-attr,index]
        assert "head starts fresh" in capsys.readouterr().err


def test_the_model_in_the_package_is_a_start() -> None:
    task = Bundle.open(DEFAULT_BUNDLE).manifest.task
    model = open_model(ModelSettings(start="lite-faces"), task).eval()
    checks = read_checks(Bundle.open(DEFAULT_BUNDLE))
    assert checks is not None
    np.testing.assert_allclose(torch_logits(model, checks.clips), checks.logits["fp32"], atol=1e-3)
    own = Task("own", "classes", ("bored", "awake", "away"))
    assert len(open_model(ModelSettings(start=str(DEFAULT_BUNDLE)), own).head.weight) == 3


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_list_of_missing_files_ends_before_training(
    drawn: Path, tmp_path: Path, part: str
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"clips/{i}.mp4 {i % 4}\n" for i in range(200)))
    wrong = config(*settings(drawn, tmp_path / "run", f"data.{part}={listed}"))
    with pytest.raises(SourceError, match=r"200 of 200 items .* limit of 10.*'.*clips/0\.mp4'"):
        finetune(wrong)
    assert not (tmp_path / "run").exists()


def test_a_second_run_does_not_overwrite_the_first(drawn: Path, tmp_path: Path) -> None:
    done = config(*settings(drawn, tmp_path / "run", "optim.epochs=1"))
    finetune(done)
    with pytest.raises(ConfigError, match="holds a run already"):
        finetune(done)
    with pytest.raises(ConfigError, match="Nothing to resume"):
        finetune(config(*settings(drawn, tmp_path / "none")), resume=True)
    other = config(*settings(drawn, tmp_path / "run", "optim.epochs=1", "model.width=64"))
    with pytest.raises(ConfigError, match="does not fit these settings"):
        finetune(other, resume=True)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    fabric = build_fabric(config("run.accelerator=cpu", "run.precision=32-true").run)
    path = tmp_path / "resume.pth"
    save_atomically(fabric, path, {"place": {"step": 1}})
    code = f"""
import resource, torch, sys
from pathlib import Path
from svfap_edge.errors import TrainingError
from svfap_edge.training.trainer.resume import save_atomically
from lightning.fabric import Fabric
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # writing beyond it fails
try:
    save_atomically(Fabric(accelerator="cpu"), Path({str(path)!r}), {{"w": torch.zeros(100000)}})
except TrainingError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == TrainingError.exit_code, result.stderr
    assert "could not be written" in result.stdout and "is intact" in result.stdout
    assert torch.load(path)["place"]["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["resume.pth"]


def test_a_loss_that_is_no_number_stops(drawn: Path, tmp_path: Path) -> None:
    wild = settings(drawn, tmp_path / "run", "optim.rate=1e30", "optim.epochs=9")
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf)"):
        finetune(config(*wild))


def test_answers_that_are_no_numbers_stop_and_are_not_unreadable_files(
    drawn: Path, tmp_path: Path
) -> None:
    chosen = config(*settings(drawn, tmp_path / "run"))
    objective, fabric = Finetuning.prepare(chosen), build_fabric(chosen.run)
    with torch.no_grad():
        objective.model.head.bias[0] = torch.nan
    with pytest.raises(TrainingError, match="answers 4 of 4 items with NaN"):
        objective.evaluate(fabric, objective.model, objective.val)


def test_a_figure_that_is_no_number_chooses_no_weights(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Finetuning, "validate", lambda *_: {"uar": float("nan")})
    with pytest.raises(TrainingError, match="uar is nan after epoch 1"):
        finetune(config(*settings(drawn, tmp_path / "run")))
    assert not (tmp_path / "run" / loop.BEST).exists()


def test_command_line_reports_and_refuses(drawn: Path, tmp_path: Path) -> None:
    overrides = settings(drawn, tmp_path / "run", "optim.epochs=1")
    done = subprocess.run(command(*overrides, "--json"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["checkpoint"]).is_file()
    assert set(found["final"]["val"]) == {"published", "streaming"}
    typo = subprocess.run(command("optim.epoch=1"), capture_output=True, text=True)
    assert typo.returncode == 2 and "Did you mean 'optim.epochs'" in typo.stderr
    shown = subprocess.run(command("optim.batch=7", "--show"), capture_output=True, text=True)
    assert "batch = 7" in shown.stdout


def test_one_of_several_processes_prints_the_result(drawn: Path, tmp_path: Path) -> None:
    more = ("optim.epochs=1", "run.devices=2", "run.strategy=ddp", "--json")
    done = subprocess.run(
        command(*settings(drawn, tmp_path / "run", *more)), capture_output=True, text=True,
        timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["checkpoint"]).is_file()


def test_the_rate_and_its_least_are_scaled_to_the_batch(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(loop, "set_rate", lambda optimizer, rate: rates.append(rate))
    more = ("optim.epochs=8", "optim.warmup_epochs=1", "optim.rate=1e-5", "run.validate_every=8")
    finetune(config(*settings(drawn, tmp_path / "run", *more)))  # 2 batches of 4 clips
    peak, least = 1e-5 * 4 / 256, 1e-6 * 4 / 256
    assert rates[:3] == pytest.approx([peak / 2, peak, peak])
    assert sorted(rates[2:], reverse=True) == rates[2:]
    assert least < rates[-1] < 2 * least


def test_history_rows_are_plain_numbers(drawn: Path, tmp_path: Path) -> None:
    finetune(config(*settings(drawn, tmp_path / "run", "optim.epochs=2")))
    rows = history(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert np.isfinite([float(str(row["loss"])) for row in rows]).all()


def test_quantization_aware_training_saves_a_plain_model(drawn: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    if not shutil.which("g++") or not shutil.which("ninja"):
        pytest.skip("NNCF compiles its quantizers, and there is no g++ or ninja here")
    plain = finetune(config(*settings(drawn, tmp_path / "plain", "optim.epochs=2")))
    overrides = settings(
        drawn, tmp_path / "aware", f"model.start={plain}", "optim.epochs=2", "optim.rate=1e-4",
        *(f"model.{name}=none" for name in ("size", "patch", "width", "heads", "depths", "stem")),
    )  # fmt: skip
    best = finetune(config(*overrides), quantize=True)
    before, after = load_checkpoint(plain).model, load_checkpoint(best).model
    assert list(before.state_dict()) == list(after.state_dict())
    assert not torch.equal(before.blocks[0].mlp.fc1.weight, after.blocks[0].mlp.fc1.weight)  # type: ignore[union-attr,index]


def test_without_a_compiler_quantization_is_refused(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyMissing, match="needs ninja and g"):
        finetune(config(*settings(drawn, tmp_path / "run")), quantize=True)
