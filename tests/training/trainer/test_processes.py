"""Two processes that train together: one with nothing to read, batch norm, resuming, FSDP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from svfap_edge.training.config import load_config
from svfap_edge.training.settings import FinetuneConfig, PretrainConfig
from svfap_edge.training.trainer import loop
from svfap_edge.training.trainer.finetuning import Finetuning
from svfap_edge.training.trainer.objective import Batch
from svfap_edge.training.trainer.pretraining import Pretraining
from tests.training.conftest import settings

DECODER = ("masking.decoder_width=32", "masking.decoder_depth=1", "masking.decoder_heads=2")

WATCHED = """
import os, sys
from pathlib import Path
from svfap_edge.training.trainer import loop
from svfap_edge.training.trainer.train import finetune
from svfap_edge.training.config import load_config
from svfap_edge.training.settings import FinetuneConfig

notes, stop_at, resume, *overrides = sys.argv[1:]
rank = os.environ["RANK"]
finish, save = loop.Training.finish_epoch, loop.Training.save

def noted_finish(training):
    finish(training)
    sums = [float(b.double().abs().sum()) for b in training.evaluated.buffers()]
    with Path(notes, f"buffers{rank}.txt").open("a") as file:
        print(sums, file=file)

def stopped_save(training):
    save(training)
    if f"{training.place.epoch}.{training.place.step}" == stop_at:
        sys.exit(0)

loop.Training.finish_epoch, loop.Training.save = noted_finish, stopped_save
finetune(load_config(FinetuneConfig, None, overrides), resume=resume == "yes")
"""
"""Fine-tuning that notes the statistics of batch norm in each process, and may stop at a save."""


def torchrun(*arguments: str) -> None:
    """Run in two processes; fail, and end them, if they hang."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.Popen(
        [*command, *arguments], text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        process.terminate()
        pytest.fail(f"hangs: {process.communicate(timeout=60)[0][-2000:]}")
    assert process.returncode == 0, said[-4000:]


@dataclass(frozen=True)
class Runs:
    """Fine-tuning in two processes, one of which meets a batch of nothing."""

    drawn: Path
    folder: Path

    def train(self, output: str, *more: str, stop_at: str = "", resume: str = "no") -> Path:
        overrides = settings(
            self.drawn, self.folder / output, f"data.train={self.folder / 'train.txt'}",
            "optim.batch=1", "optim.epochs=2", "optim.accumulate=2", "optim.clip_norm=1",
            "model.stem=[8]", "run.save_every=0", *more,
        )  # fmt: skip
        script = self.folder / "watched.py"
        torchrun(str(script), str(self.folder / output), stop_at, resume, *overrides)
        return self.folder / output

    def train_in_two(self, output: str, *more: str) -> Path:
        """A run that stops in its second epoch and goes on."""
        self.train(output, *more, stop_at="1.2")
        return self.train(output, *more, resume="yes")


@pytest.fixture(scope="module")
def runs(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """On the 8 training clips and a folder without an image that can be read."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "broken").mkdir()
    (folder / "broken" / "0000.jpg").write_bytes(b"no image")
    lines = (drawn / "train.txt").read_text().splitlines()
    listed = [*(f"{drawn / line}" for line in lines), f"{folder / 'broken'} 0"]
    (folder / "train.txt").write_text("".join(f"{line}\n" for line in listed))
    (folder / "watched.py").write_text(WATCHED)
    return Runs(drawn, folder)


AVERAGE = "optim.average=0.9"


@pytest.fixture(scope="module")
def whole(runs: Runs) -> Path:
    """A run with DDP."""
    return runs.train("whole", AVERAGE)


def test_a_process_without_a_clip_resuming_and_batch_norm(runs: Runs, whole: Path) -> None:
    notes = [(whole / f"buffers{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert len(notes[0]) == 2 and notes[0] == notes[1]
    cut = runs.train_in_two("cut", AVERAGE)
    history = [(folder / loop.HISTORY).read_text() for folder in (whole, cut)]
    assert history[0] == history[1]
    weights = [torch.load(f / loop.FINAL, weights_only=True)["model"] for f in (whole, cut)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_sharded_weights_learn_what_whole_ones_do(runs: Runs, whole: Path) -> None:
    """Also stopped and resumed; an average of the weights has no part in learning."""
    folders = (whole, runs.train_in_two("sharded", "run.strategy=fsdp"))
    losses = [
        [json.loads(row)["loss"] for row in (folder / loop.HISTORY).read_text().splitlines()]
        for folder in folders
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    found = [torch.load(f / loop.RESUME, weights_only=True)["model"] for f in folders]
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-4, rtol=0, msg=key)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_pretraining_with_fewer_validation_clips_than_processes_take(
    drawn: Path, tmp_path: Path, strategy: str
) -> None:
    overrides = [
        s for s in settings(drawn, tmp_path / "run", *DECODER) if "task" not in s
        and "labels" not in s
    ]  # fmt: skip
    more = ("model.stem=[8]", "optim.epochs=2", "optim.batch=4", f"run.strategy={strategy}")
    torchrun("-m", "svfap_edge", "pretrain", *overrides, *more)
    rows = (tmp_path / "run" / loop.HISTORY).read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2]


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_a_batch_of_nothing_reaches_every_weight_and_no_statistics(
    drawn: Path, tmp_path: Path, kind: str
) -> None:
    overrides = settings(drawn, tmp_path / "run", "model.stem=[8]")
    objective: Finetuning | Pretraining
    if kind == "finetune":
        objective = Finetuning.prepare(load_config(FinetuneConfig, None, overrides))
    else:
        kept = [s for s in overrides if "task" not in s and "labels" not in s]
        objective = Pretraining.prepare(load_config(PretrainConfig, None, [*kept, *DECODER]))
    model = Fabric(accelerator="cpu").setup_module(objective.model)
    before = [buffer.clone() for buffer in model.buffers()]
    nothing = Batch(torch.zeros(0), torch.zeros(0, dtype=torch.int64), [])
    loss = objective.loss(model, nothing, np.random.default_rng(0))
    loss.backward()
    assert float(loss.detach()) == 0 and model.training
    for name, weight in objective.model.named_parameters():
        assert weight.grad is not None and not weight.grad.any(), name
    assert all(map(torch.equal, before, model.buffers()))
