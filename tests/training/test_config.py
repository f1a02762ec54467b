"""Settings from defaults, TOML and overrides, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from svfap_edge.errors import ConfigError
from svfap_edge.training.config import load_config, settings, to_table, write_toml
from svfap_edge.training.settings import FinetuneConfig, PretrainConfig


def test_later_sources_win(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[optim]\nrate = 2e-4\nbatch = 4\n[data]\ntask = "dfew"\n')
    found = load_config(FinetuneConfig, path, ["optim.batch=8", "data.train=a list.txt"])
    assert (found.optim.rate, found.optim.batch) == (2e-4, 8)
    assert (found.data.task, found.data.train) == ("dfew", "a list.txt")
    assert found.optim.epochs == FinetuneConfig().optim.epochs


@pytest.mark.parametrize("kind", [FinetuneConfig, PretrainConfig])
def test_one_setting_changes_no_other(kind: type[Any]) -> None:
    """Sections of pre-training have other defaults than their classes."""
    before = to_table(kind())
    for section, name, value in (
        ("optim", "batch", 7), ("model", "frames", 8), ("augment", "flip", 0.25)
    ):  # fmt: skip
        changed = to_table(load_config(kind, None, [f"{section}.{name}={value}"]))
        assert changed == {**before, section: {**before[section], name: value}}


@pytest.mark.parametrize(
    ("text", "section", "name", "value"),
    [
        ("optim.rate=1", "optim", "rate", 1.0),
        ("model.depths=[2, 1, 1]", "model", "depths", (2, 1, 1)),
        ('data.labels=["a", "b"]', "data", "labels", ("a", "b")),
        ("data.labels=none", "data", "labels", None),
        ("data.labels=1, 2,3", "data", "labels", ("1", "2", "3")),
        ("run.output=7", "run", "output", "7"),
        ("run.output=2025-01-05", "run", "output", "2025-01-05"),
        ("run.output='8'", "run", "output", "8"),
        ("data.test=1e3", "data", "test", "1e3"),
        ("data.test=none", "data", "test", None),
        ("data.task=true", "data", "task", "true"),
        ("run.devices=auto", "run", "devices", "auto"),
        ("run.devices=2", "run", "devices", 2),
        ("run.tensorboard=false", "run", "tensorboard", False),
    ],
)
def test_values_are_read_as_toml(text: str, section: str, name: str, value: object) -> None:
    found = getattr(getattr(load_config(FinetuneConfig, None, [text]), section), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim.lr_rate=1", "No setting 'optim.lr_rate'. Did you mean 'optim.rate'"),
        ("optimizer.rate=1", "No setting 'optimizer'. Did you mean 'optim'"),
        ("optim.rate=fast", "'optim.rate' must be a number above 0; got 'fast'"),
        ("optim.epochs=1.5", "'optim.epochs' must be a whole number of at least 1; got 1.5"),
        ("optim.epochs=true", "'optim.epochs' must be a whole number of at least 1; got True"),
        ("optim.epochs=0", "'optim.epochs' must be a whole number of at least 1; got 0"),
        ("run.precision=fp8", "one of 32-true, bf16-mixed, 16-mixed; got 'fp8'"),
        ("model.depths=3", "'model.depths' must be a list, each entry a whole number; got 3"),
        ("optim.layer_decay=0", "'optim.layer_decay' must be a number above 0, at most 1; got 0"),
        ("optim.rate=inf", "'optim.rate' must be a number above 0; got inf"),
        ("optim.rate=0", "'optim.rate' must be a number above 0; got 0"),
        ("data.unreadable=nan", "'data.unreadable' must be a number in 0..1; got nan"),
        ("optim.warmup_epochs=100", "warmup_epochs (100) must be less than epochs (100)"),
        ("optim.warmup_epochs=-1", "'optim.warmup_epochs' must be a number that is not negative"),
        ("optim.rate=1e-7", "least_rate must be in 0..rate; got 1e-07, 1e-06"),
        ("optim.rate_batch=0", "'optim.rate_batch' must be a whole number of at least 1"),
        ("optim.weight_decay=-1", "'optim.weight_decay' must be a number that is not negative"),
        ("optim.beta1=1.5", "'optim.beta1' must be a number in 0..1, below 1"),
        ("model.drop_path=1", "'model.drop_path' must be a number in 0..1, below 1"),
        ("loss.smoothing=2", "'loss.smoothing' must be a number in 0..1, below 1"),
        ("run.seed=-1", "'run.seed' must be a whole number that is not negative"),
        ("run.threads=0", "'run.threads' must be a whole number of at least 1"),
        ("run.nodes=0", "'run.nodes' must be a whole number of at least 1"),
        ("data.stride=0", "'data.stride' must be a whole number of at least 1"),
        ("optim=3", "'optim' is a section"),
        ("optim.rate", "Write section.name=value"),
        ("augment.crop_area=0", "'augment.crop_area' must be a number above 0, at most 1"),
        ("augment.crop_ratio=0.9", "'augment.crop_ratio' must be a number of at least 1"),
        ("augment.flip=1.1", "'augment.flip' must be a number in 0..1"),
        ("augment.ops=99", "'augment.ops' must be a whole number in 0..10"),
        ("augment.magnitude=11", "'augment.magnitude' must be a number in 0..10"),
        ("augment.motion=-1", "'augment.motion' must be a number that is not negative"),
        ("augment.noise=nan", "'augment.noise' must be a number in 0..1"),
        ("augment.tilt=inf", "'augment.tilt' must be a number that is not negative"),
        ("augment.soft_side=1", "'augment.soft_side' must be a whole number of at least 2"),
        ("mixing.mixup=-1", "'mixing.mixup' must be a number that is not negative"),
        ("mixing.cutmix=inf", "'mixing.cutmix' must be a number that is not negative"),
        ("mixing.switch=2", "'mixing.switch' must be a number in 0..1"),
        ("framing.zoom_out=2", "'framing.zoom_out' must be a number in 0..1"),
        ("framing.least_scale=0", "'framing.least_scale' must be a number above 0, at most 1"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(FinetuneConfig, None, [text])
    assert words in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No configuration at"):
        load_config(FinetuneConfig, tmp_path / "none.toml")
    (tmp_path / "c.toml").write_text("[optim\nrate=1")
    with pytest.raises(ConfigError, match="not readable as TOML"):
        load_config(FinetuneConfig, tmp_path / "c.toml")


@pytest.mark.parametrize("kind", [FinetuneConfig, PretrainConfig])
def test_what_is_written_reads_back_the_same(kind: type, tmp_path: Path) -> None:
    changed = load_config(
        kind, None, ["model.depths=[2, 1]", 'data.train=a "b" \\ c', "optim.batch=3"]
    )
    (tmp_path / "c.toml").write_text(write_toml(changed))
    assert load_config(kind, tmp_path / "c.toml") == changed
    assert to_table(changed)["model"]["depths"] == [2, 1]


def test_every_setting_is_documented() -> None:
    from svfap_edge.training import settings as module

    text = Path(module.__file__).read_text()
    sections = {n.partition(".")[0] for n in settings(FinetuneConfig)}
    assert sections == {*("model", "data", "augment", "mixing", "framing", "loss", "optim", "run")}
    assert "optim.layer_decay" in settings(FinetuneConfig) and "layer_decay:" in text


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.25), (3, 0.75), (20, 5), (100, 5)])
def test_a_short_run_has_a_short_warm_up(epochs: int, warmup: float) -> None:
    config = load_config(FinetuneConfig, None, [f"optim.epochs={epochs}"])
    assert config.optim.warmup == warmup
