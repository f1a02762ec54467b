"""Resuming: only as the run that was started, and nothing is written before that is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision

from svfap_edge.errors import ConfigError
from svfap_edge.training.clips.reading import LabelledClips, Sampling
from svfap_edge.training.config import load_config
from svfap_edge.training.settings import FinetuneConfig
from svfap_edge.training.trainer import loop
from svfap_edge.training.trainer.finetuning import Finetuning
from svfap_edge.training.trainer.resume import check_resume, list_digest
from svfap_edge.training.trainer.train import CONFIG, finetune
from tests.training.conftest import LABELS, settings


def config(*overrides: str) -> FinetuneConfig:
    return load_config(FinetuneConfig, None, overrides)


@pytest.fixture(scope="module")
def run(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record") / "run"
    finetune(config(*settings(drawn, folder, "optim.epochs=1")))
    return folder


REVERSED = list(reversed(LABELS))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.batch=2", r"optim\.batch was 4, is 2"),
        ("optim.rate=0.5", r"optim\.rate was 0\.001, is 0\.5"),
        ("run.seed=9", r"run\.seed was 0, is 9"),
        ("augment.flip=0", r"augment\.flip was .* is 0"),
        ("model.width=64", r"model\.width was 32, is 64"),
        (f"data.labels={REVERSED}", r"data\.labels was .*task\.labels was \['neutral'"),
        ("data.train={other}", r"data\.train was 8 items .*, is 7 items"),
        ("data.val={other_val}", r"data\.val was 4 items .*, is 3 items"),
        ("data.test={other_val}", r"data\.test was None, is 3 items"),
    ],
)
def test_another_run_is_refused_and_nothing_is_overwritten(
    run: Path, drawn: Path, tmp_path: Path, override: str, words: str
) -> None:
    lists = {}
    copy = shutil.copytree(drawn, tmp_path / "copy")
    for name, part in (("other", "train"), ("other_val", "val")):
        lines = (drawn / f"{part}.txt").read_text().splitlines()[1:]
        (tmp_path / f"{name}.txt").write_text("".join(f"{copy / line}\n" for line in lines))
        lists[name] = tmp_path / f"{name}.txt"
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    chosen = override if "labels" in override else override.format(**lists)
    with pytest.raises(ConfigError, match=f"does not fit these settings: .*{words}"):
        finetune(config(*settings(drawn, run, "optim.epochs=1", chosen)), resume=True)
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_what_changes_no_weights_may_change_and_more_epochs(
    run: Path, drawn: Path, tmp_path: Path
) -> None:
    moved, data = tmp_path / "moved", tmp_path / "data"
    shutil.copytree(run, moved)
    shutil.copytree(drawn, data)
    free = ("run.save_every=7", "run.threads=none", "data.workers=1", "optim.epochs=2")
    finetune(config(*settings(data, moved, *free)), resume=True)
    assert len((moved / loop.HISTORY).read_text().splitlines()) == 2
    assert "save_every = 7" in (moved / CONFIG).read_text()
    fewer = config(*settings(data, moved, "optim.epochs=1"))
    with pytest.raises(ConfigError, match=r"in epoch 2 already: optim\.epochs=1 is too few"):
        finetune(fewer, resume=True)


def test_other_processes_quantizers_and_damaged_files_are_refused(
    run: Path, tmp_path: Path
) -> None:
    stored = torch.load(run / loop.RESUME, weights_only=True)["record"]
    check_resume(run / loop.RESUME, stored, epochs=1)
    for name, value, words in (
        ("processes", 2, "processes was 1, is 2"), ("--quantize", True, "--quantize was False")
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            check_resume(run / loop.RESUME, {**stored, name: value}, epochs=1)
    half = tmp_path / loop.RESUME
    half.write_bytes((run / loop.RESUME).read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be read as a resume checkpoint"):
        check_resume(half, stored, epochs=1)
    torch.save({"model": {}}, half)
    with pytest.raises(ConfigError, match="cannot be read as a resume checkpoint"):
        check_resume(half, stored, epochs=1)


def test_the_digest_of_a_list_is_of_targets_and_files_not_of_where_they_lie(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(path: Path) -> str:
        return list_digest(LabelledClips.open(path, None, Sampling()), path)

    here = digest(drawn / "train.txt")
    shutil.copytree(drawn, tmp_path / "copy")
    assert digest(tmp_path / "copy" / "train.txt") == here
    monkeypatch.chdir(drawn)
    assert digest(Path("train.txt")) == here
    absolute = "".join(f"{drawn}/{line}\n" for line in Path("train.txt").read_text().splitlines())
    (drawn / "absolute.txt").write_text(absolute)
    assert digest(Path("absolute.txt")) == here
    lines = (tmp_path / "copy" / "train.txt").read_text().splitlines()
    (tmp_path / "copy" / "train.txt").write_text("\n".join(lines[::-1]))
    assert digest(tmp_path / "copy" / "train.txt") != here


def test_the_scale_of_half_precision_goes_on(drawn: Path, tmp_path: Path) -> None:
    def training() -> loop.Training:
        chosen = config(*settings(drawn, tmp_path, "optim.epochs=1"))
        scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2)
        precision = MixedPrecision("16-mixed", "cpu", scaler)
        fabric = Fabric(accelerator="cpu", plugins=precision)
        return loop.Training(Finetuning.prepare(chosen), fabric, {})

    first, second = training(), training()
    first.to_the_end()  # two steps: the scale grows once
    second.load()
    scales = [t.fabric.strategy.precision.state_dict()["scale"] for t in (first, second)]
    assert scales == [1024.0, 1024.0]
