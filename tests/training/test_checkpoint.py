"""Opening checkpoints: the authors' format, ours, and files that must be refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from svfap_edge.errors import CheckpointError
from svfap_edge.training.checkpoint import load_checkpoint
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


@pytest.mark.parametrize("prefix", ["module.", "encoder.", "backbone.", "module.encoder."])
def test_prefixes(tmp_path: Path, model: TPSBT, prefix: str) -> None:
    state = {prefix + name: value for name, value in model.state_dict().items()}
    loaded = load_checkpoint(save_like_authors(tmp_path / "p.pth", model, state), **HEADS)
    assert same_weights(loaded.model, model)


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
