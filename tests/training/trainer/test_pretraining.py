"""Pre-training: the loss falls, it resumes, its checkpoint starts a fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import torch

from svfap_edge.errors import ConfigError, SourceError
from svfap_edge.lists import read_list
from svfap_edge.training.checkpoint import load_checkpoint
from svfap_edge.training.config import load_config
from svfap_edge.training.settings import FinetuneConfig, PretrainConfig
from svfap_edge.training.trainer import loop
from svfap_edge.training.trainer.pretraining import Pretraining
from svfap_edge.training.trainer.train import finetune, pretrain
from tests.training.conftest import settings

FINETUNING_ONLY = ("data.task", "data.labels")
DECODER = ("masking.decoder_width=32", "masking.decoder_depth=1", "masking.decoder_heads=2")


def config(drawn: Path, output: Path, *more: str) -> PretrainConfig:
    kept = [s for s in settings(drawn, output) if not s.startswith(FINETUNING_ONLY)]
    return load_config(PretrainConfig, None, [*kept, *DECODER, *more])


def losses(folder: Path, name: str = "val_loss") -> list[float]:
    return [json.loads(line)[name] for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pretrained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    still = ("augment.crop_area=1", "augment.crop_ratio=1", "augment.flip=0")
    larger = ("model.size=48", "model.width=64", "masking.decoder_width=64", "masking.ratio=0.6")
    long = ("optim.epochs=40", "optim.rate=0.1", "optim.batch=8", "optim.weight_decay=0")
    seldom = ("data.repeats=4", "masking.picture_every=20", "run.validate_every=20")
    pretrain(config(drawn, folder, *still, *larger, *long, *seldom))
    return folder


def test_the_loss_falls_and_pictures_show_it(pretrained: Path) -> None:
    found = losses(pretrained, "loss")
    plateau, end = sum(found[2:7]) / 5, sum(found[-3:]) / 3
    assert end < plateau - 0.02, found
    pictures = sorted(p.name for p in pretrained.glob("reconstruction-*.png"))
    assert pictures == ["reconstruction-0020.png", "reconstruction-0040.png"]
    picture = cv2.imread(str(pretrained / pictures[-1]))
    assert picture is not None and min(picture.shape[:2]) > 200
    assert json.loads((pretrained / "report.json").read_text())["epochs"] == 40


def test_the_checkpoint_starts_a_fine_tuning(pretrained: Path, drawn: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(pretrained / loop.BEST, outputs=4)
    assert loaded.kind == "pre-trained"
    overrides = settings(
        drawn, tmp_path / "run", f"model.start={pretrained / loop.BEST}", "optim.epochs=1",
        "model.size=none", "model.patch=none", "model.stem=none", "model.width=none",
        "model.heads=none", "model.depths=none",
    )  # fmt: skip
    best = finetune(load_config(FinetuneConfig, None, overrides))
    tuned = load_checkpoint(best)
    assert tuned.kind == "fine-tuned"
    before, after = (x.model.state_dict()["blocks.0.mlp.fc1.weight"] for x in (loaded, tuned))
    assert not torch.equal(before, after)
    assert torch.corrcoef(torch.stack((before.flatten(), after.flatten())))[0, 1] > 0.99


def test_resuming_a_finished_epoch_goes_on(drawn: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain(config(drawn, whole, "optim.epochs=3"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Training, "finish_epoch", _stop_after(loop.Training.finish_epoch, 2))
        with pytest.raises(KeyboardInterrupt):
            pretrain(config(drawn, cut, "optim.epochs=3"))
    pretrain(config(drawn, cut, "optim.epochs=3"), resume=True)
    assert losses(cut) == losses(whole) and losses(cut, "loss") == losses(whole, "loss")


def _stop_after(finish, epochs: int):  # type: ignore[no-untyped-def]
    def stop(training):  # type: ignore[no-untyped-def]
        finish(training)
        if training.place.epoch == epochs:
            raise KeyboardInterrupt

    return stop


def test_a_corrupt_clip_does_not_end_it(drawn: Path, tmp_path: Path) -> None:
    bad, listed = tmp_path / "bad.mp4", tmp_path / "train.txt"
    bad.write_bytes(b"no video" * 100)
    lines = (drawn / "train.txt").read_text().splitlines()
    listed.write_text(f"{bad} 0\n" + "".join(f"{drawn / line}\n" for line in lines))
    once = ("optim.epochs=1", f"data.train={listed}", "data.val=")  # without, train is looked at
    folder = pretrain(config(drawn, tmp_path / "run", *once)).parent
    assert list(json.loads((folder / "report.json").read_text())["unreadable"]) == [str(bad)]
    assert 0 < losses(folder)[0] < 10
    worse = tmp_path / "val.txt"
    worse.write_text(f"{bad} 0\n" * 3 + f"{drawn / lines[0]}\n")
    pretrain(config(drawn, tmp_path / "b", *once, f"data.val={worse}"))
    for number in range(3):
        bad.with_name(f"{number}.mp4").write_bytes(b"no video")
    worse.write_text("".join(f"{tmp_path / f'{i}.mp4'} 0\n" for i in range(3)))
    with pytest.raises(SourceError, match="2 of 3 items cannot be read"):
        pretrain(config(drawn, tmp_path / "c", *once, f"data.val={worse}"))


def test_a_list_without_labels(drawn: Path, tmp_path: Path) -> None:
    lines = (drawn / "train.txt").read_text().splitlines()
    folders = [drawn / line.rpartition(" ")[0] for line in lines]
    (tmp_path / "one clip 7").symlink_to(folders[0])
    (tmp_path / "other.mp4").symlink_to(folders[1])
    listed = tmp_path / "faces.txt"
    listed.write_text(f"one clip 7\nother.mp4\n{folders[2]}\n{folders[3]} 2\n")
    objective = Pretraining.prepare(
        config(drawn, tmp_path / "run", f"data.train={listed}", "data.val=")
    )
    names = [tmp_path / "one clip 7", tmp_path / "other.mp4", *folders[2:4]]
    assert [item.path for item in objective.train.items] == names
    assert objective.train.read(0).shape[0] == 16
    with pytest.raises(SourceError, match="line 2: expected 'path label'"):
        read_list(listed)


def test_the_other_fusion_trains_and_is_written_down(drawn: Path, tmp_path: Path) -> None:
    aligned = config(drawn, tmp_path / "run", "masking.fusion=aligned", "optim.epochs=1")
    best = pretrain(aligned)
    assert torch.load(best, weights_only=True)["decoder"]["fusion"] == "aligned"
    plain = pretrain(config(drawn, tmp_path / "plain", "optim.epochs=1"))
    assert losses(best.parent) != losses(plain.parent)
    with pytest.raises(ConfigError, match=r"masking.fusion.*one of published, aligned"):
        config(drawn, tmp_path / "x", "masking.fusion=other")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.start=x.pth", "model.start is for fine-tuning"),
        ("masking.ratio=1.5", "'masking.ratio' must be a number between 0 and 1; got 1.5"),
        ("masking.picture_every=0", "'masking.picture_every' must be a whole number of at least 1"),
        ("masking.decoder_heads=5", "multiple of heads"),
        ("data.balance=0.5", "reads no labels"),
    ],
)
def test_wrong_settings(drawn: Path, tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        pretrain(config(drawn, tmp_path / "run", override))
