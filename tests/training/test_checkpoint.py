"""Opening checkpoints: the authors' format, ours, and files that must be refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from svfap_edge.errors import CheckpointError
from svfap_edge.training.checkpoint import load_checkpoint
from svfap_edge.training.checkpoint_file import write_safetensors
from svfap_edge.training.model import TPSBT
from tests.models import TINY, model_with_weights, save_like_authors, save_ours

HEADS = {"heads": TINY.heads}  # 48 wide is no published width, so the heads cannot be deduced


@pytest.fixture(scope="module")
def model() -> TPSBT:
    return model_with_weights(TINY)


def same_weights(a: TPSBT, b: TPSBT) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("key", ["model", "module"])
def test_authors_format(tmp_path: Path, model: TPSBT, key: str) -> None:
    loaded = load_checkpoint(save_like_authors(tmp_path / "a.pth", model, key=key), **HEADS)
    assert loaded.kind == "fine-tuned"
    assert loaded.model.config == TINY
    assert loaded.info["epoch"] == 99
    assert loaded.info["args"]["lr"] == 1e-3
    assert same_weights(loaded.model, model)
    assert not loaded.model.training


def test_bare_state_dict(tmp_path: Path, model: TPSBT) -> None:
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    known = {"size": 32, "frames": 8, "depths": TINY.depths}
    loaded = load_checkpoint(tmp_path / "bare.pth", **HEADS, **known)
    assert same_weights(loaded.model, model)


@pytest.mark.parametrize(
    "prefix", ["module.", "encoder.", "backbone.", "module.encoder.", "_orig_mod.", "model."]
)
def test_prefixes(tmp_path: Path, model: TPSBT, prefix: str) -> None:
    state = {prefix + name: value for name, value in model.state_dict().items()}
    loaded = load_checkpoint(save_like_authors(tmp_path / "p.pth", model, state), **HEADS)
    assert same_weights(loaded.model, model)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"state_dict": 0}, "state_dict"),
        ({"model_state_dict": 0, "args": {"num_frames": 8}}, "model_state_dict"),
        ({"state_dict": {"model.": 0}, "hyper_parameters": {}}, "state_dict"),
        ({"model_ema": 1}, "model_ema"),
        ({"model": 0, "model_ema": 1}, "model"),
    ],
)
def test_containers_of_other_trainers(
    tmp_path: Path, model: TPSBT, content: dict[str, Any], key: str
) -> None:
    other = {
        name: weight + weight.is_floating_point() for name, weight in model.state_dict().items()
    }

    def filled(value: Any) -> Any:
        if isinstance(value, dict) and "model." in value:
            return {"model." + name: weight for name, weight in model.state_dict().items()}
        return {0: model.state_dict(), 1: other}.get(value) if isinstance(value, int) else value

    torch.save({name: filled(value) for name, value in content.items()}, tmp_path / "c.pth")
    known = {"size": 32, "frames": 8, "depths": TINY.depths, **HEADS}
    loaded = load_checkpoint(tmp_path / "c.pth", **known)
    assert loaded.info["weights"] == key
    assert same_weights(loaded.model, model) == (key != "model_ema")
    if "model_ema" in content:
        average = load_checkpoint(tmp_path / "c.pth", weights="ema", **known)
        assert torch.equal(average.model.state_dict()["head.bias"], other["head.bias"])
    else:
        with pytest.raises(CheckpointError, match=rf"no moving average.*'{key}' \(weights\)"):
            load_checkpoint(tmp_path / "c.pth", weights="ema", **known)


def test_safetensors(tmp_path: Path, model: TPSBT) -> None:
    write_safetensors(tmp_path / "w.safetensors", model.state_dict(), {"config": TINY.to_dict()})
    loaded = load_checkpoint(tmp_path / "w.safetensors")
    assert loaded.model.config == TINY
    assert same_weights(loaded.model, model)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:900])
    with pytest.raises(CheckpointError, match="not readable as safetensors"):
        load_checkpoint(tmp_path / "cut.safetensors")


def test_what_is_assumed_is_said(tmp_path: Path, model: TPSBT) -> None:
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    loaded = load_checkpoint(tmp_path / "bare.pth", depths=TINY.depths, frames=8, **HEADS)
    assert loaded.assumed is not None
    assert "size 160, as published" in loaded.assumed and "--size" in loaded.assumed
    state = {**model.state_dict(), "pos_embed": torch.zeros(1, 64, TINY.width)}
    torch.save(state, tmp_path / "table.pth")
    with pytest.raises(CheckpointError, match=r"positions for 64 tubelets; 8 frames of 160 px"):
        load_checkpoint(tmp_path / "table.pth", depths=TINY.depths, frames=8, **HEADS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1j, True])
def test_weights_that_are_no_numbers(tmp_path: Path, model: TPSBT, value: Any) -> None:
    state = {**model.state_dict(), "head.bias": torch.tensor([value] * TINY.outputs)}
    torch.save({"model": state}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"'head\.bias'"):
        load_checkpoint(tmp_path / "bad.pth", **HEADS)


def test_a_file_that_unpacks_to_more_than_itself(tmp_path: Path, model: TPSBT) -> None:
    torch.save({"x": torch.zeros(3_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="would unpack to 12,"):
        load_checkpoint(tmp_path / "bomb.pth")


def test_ours_needs_no_hints(tmp_path: Path, model: TPSBT) -> None:
    loaded = load_checkpoint(save_ours(tmp_path / "ours.pth", model))
    assert loaded.model.config == TINY
    assert same_weights(loaded.model, model)


def test_pretraining_checkpoint_gives_encoder_and_fresh_head(tmp_path: Path, model: TPSBT) -> None:
    encoder = {
        f"encoder.{name}": value
        for name, value in model.state_dict().items()
        if not name.startswith(("fc_norm", "head"))
    }
    extra = {
        "mask_token": torch.zeros(1, 1, 32),
        "encoder.norm.weight": torch.ones(48),
        "encoder.norm.bias": torch.zeros(48),
        "decoder.blocks.0.norm1.weight": torch.ones(32),
        "encoder_to_decoder.weight": torch.zeros(32, 48),
    }
    path = save_like_authors(tmp_path / "pre.pth", model, {**encoder, **extra})
    loaded = load_checkpoint(path, outputs=5, **HEADS)
    assert loaded.kind == "pre-trained"
    assert loaded.model.head.weight.shape == (5, 48)
    stem = "patch_embed.proj.weight"
    assert torch.equal(loaded.model.state_dict()[stem], model.state_dict()[stem])


def test_missing_left_over_and_reshaped_weights_are_all_listed(
    tmp_path: Path, model: TPSBT
) -> None:
    state = dict(model.state_dict())
    del state["blocks.1.attn.v_bias"], state["fc_norm.bias"]
    state["blocks.0.gamma_1"] = torch.ones(48)
    state["head.bias"] = torch.zeros(9)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(save_like_authors(tmp_path / "bad.pth", model, state), **HEADS)
    message = str(caught.value)
    assert "Missing (2): blocks.1.attn.v_bias, fc_norm.bias" in message
    assert "Left over (1): blocks.0.gamma_1" in message
    assert "head.bias (9,), expected (4,)" in message


def test_another_model_is_named_as_such(tmp_path: Path) -> None:
    torch.save({"model": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"another model.*conv1\.weight.*TPSBT"):
        load_checkpoint(tmp_path / "resnet.pth")


def test_a_plain_video_transformer_is_refused_with_what_it_lacks(
    tmp_path: Path, model: TPSBT
) -> None:
    state = {n: v for n, v in model.state_dict().items() if "downsamples" not in n}
    with pytest.raises(CheckpointError, match=r"nothing was loaded"):
        load_checkpoint(save_like_authors(tmp_path / "vit.pth", model, state), **HEADS)


class Malicious:
    """Pickles to a call of os.system."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def test_pickle_that_runs_code_is_refused(
    tmp_path: Path, model: TPSBT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": model.state_dict(), "args": Malicious()}, "evil.pth")
    with pytest.raises(CheckpointError, match=r"'(posix|nt)\.system'.*run any program"):
        load_checkpoint(Path("evil.pth"))
    Path("raw.pth").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CheckpointError):
        load_checkpoint(Path("raw.pth"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken"])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
        load_checkpoint(tmp_path / "x.pth")


def test_truncated_checkpoint(tmp_path: Path, model: TPSBT) -> None:
    whole = save_ours(tmp_path / "whole.pth", model).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cut short"):
        load_checkpoint(tmp_path / "cut.pth")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        load_checkpoint(tmp_path / "none.pth")


def test_no_weights_inside(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "e.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_checkpoint(tmp_path / "e.pth")


def test_numpy_scalars_in_the_arguments_are_fine(tmp_path: Path, model: TPSBT) -> None:
    import numpy as np

    path = save_ours(tmp_path / "n.pth", model)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "best": np.float64(0.5)}, path)
    assert load_checkpoint(path).kind == "fine-tuned"


def test_what_the_weights_do_not_tell_is_asked_for(tmp_path: Path, model: TPSBT) -> None:
    with pytest.raises(CheckpointError, match="Give --heads"):
        load_checkpoint(save_like_authors(tmp_path / "a.pth", model))
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="Give --heads --depths"):
        load_checkpoint(tmp_path / "bare.pth")
