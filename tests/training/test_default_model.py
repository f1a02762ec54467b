"""The phases of the default model hand their weights on without loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from svfap_edge.training import default_masked, default_model, photographs
from svfap_edge.training.default_model import MINUTES, make
from svfap_edge.training.default_parts import (
    StemClassifier,
    TubeletClassifier,
    fold_luminance,
    start_later_stages_as_identity,
)
from svfap_edge.training.default_phases import mean_probability
from svfap_edge.training.masked import encoder_state
from svfap_edge.training.model import IMAGENET_MEAN, IMAGENET_STD, TPSBT, preset
from svfap_edge.training.photographs import (
    LABELS,
    LUMA,
    Faces,
    grey_input,
    load_faces,
    resized,
    zoomed_out,
)

SMALL = preset(
    "lite", outputs=6, size=32, patch=16, stem=(8, 8, 8, 8), width=32, heads=2, depths=(1, 1, 1)
)


@pytest.fixture
def greys() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_masked, "BATCH", 8)
    monkeypatch.setattr(default_masked, "JUDGED", 64)


def phases_told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [json.loads(line)["phase"] for line in capsys.readouterr().out.splitlines()]


def test_a_still_photograph_gives_the_tokens_that_it_was_pretrained_with(
    greys: np.ndarray,
) -> None:
    masked = default_masked.photograph_autoencoder(SMALL).eval()
    model = TPSBT(SMALL).eval()
    default_masked.start_from(model, encoder_state(masked))
    with torch.no_grad():
        wanted = masked.encoder.patch_embed(grey_input(resized(greys, 1, 32)))
        tokens = model.patch_embed(grey_input(resized(greys, SMALL.frames, 32)))
    steps = tokens.unflatten(1, (SMALL.time_steps, -1))
    torch.testing.assert_close(steps, wanted[:, None].expand_as(steps), atol=1e-5, rtol=0)
    code = masked.encoder.position_code
    assert torch.equal(code, model.position_code[:, : code.shape[1]])


@pytest.mark.usefixtures("small_batches")
def test_pretraining_hands_on_what_it_learned(
    greys: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faces = Faces(np.repeat(greys, 32, axis=0), torch.zeros(128, dtype=torch.int64))
    torch.manual_seed(0)
    state = default_masked.pretrain(SMALL, faces, faces, 0.02, 0, tmp_path / "seen.png")
    model = TPSBT(SMALL)
    default_masked.start_from(model, state)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], state[name])
    assert (tmp_path / "seen.png").stat().st_size > 0
    assert '"phase": "masked"' in capsys.readouterr().out


def test_colour_is_read_as_the_luminance_that_was_learned() -> None:
    model = TPSBT(SMALL).eval()
    stem = model.patch_embed.stem
    assert isinstance(stem, nn.Sequential)
    rgb = torch.rand(2, 3, 32, 32)
    grey = (rgb * LUMA.view(1, 3, 1, 1)).sum(1).numpy() * 255
    with torch.no_grad():
        wanted = stem[0](grey_input(grey[:, None])[:, :, 0])
        fold_luminance(model)
        shape = (1, 3, 1, 1)
        mean, std = torch.tensor(IMAGENET_MEAN).view(shape), torch.tensor(IMAGENET_STD).view(shape)
        found = stem[0]((rgb - mean) / std)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_tubelet_model_is_the_whole_one_on_one_step(greys: np.ndarray) -> None:
    model = TPSBT(SMALL).eval()
    still = grey_input(resized(greys, SMALL.frames, 32))
    with torch.no_grad():
        start_later_stages_as_identity(model)
        found = TubeletClassifier(model).eval()(still[:, :, :1])
        tokens = model.patch_embed(still) + model.position_code
        first = tokens[:, : SMALL.positions]
        wanted = model.classify(model.fc_norm(model.blocks[0](first).mean(1)))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_zoomed_out_view_repeats_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "ZOOM_OUT", 1.0)
    monkeypatch.setattr(photographs, "LEAST_SCALE", 0.5)
    ramp = torch.linspace(-1, 1, 32).expand(6, 3, 2, 32, 32)
    seen = zoomed_out(ramp, np.random.default_rng(0))
    assert seen.shape == ramp.shape
    assert torch.equal(seen[:, 0, 0], seen[:, 2, 1])  # the same in all frames
    row = seen[:, 0, 0, 16]
    assert row.abs().max() < 1.001
    inside = (row.diff(dim=1) > 1e-4).sum(1)  # the rest is border
    assert (inside >= 14).all()  # the least scale is a half
    assert inside.min() < 20
    monkeypatch.setattr(photographs, "ZOOM_OUT", 0.0)
    torch.testing.assert_close(zoomed_out(ramp, np.random.default_rng(0)), ramp)


def test_an_oblong_photograph_is_cut_not_filled(tmp_path: Path) -> None:
    for label in LABELS:
        (tmp_path / label).mkdir()
        oblong = np.zeros((96, 128, 3), np.uint8)
        oblong[:, 16:112] = 200  # the middle square
        cv2.imwrite(str(tmp_path / label / "a.png"), oblong)
    faces = load_faces(tmp_path)
    assert faces.images.shape == (6, 128, 128)
    assert (faces.images == 200).all()


def test_teachers_see_the_middle_frame(greys: np.ndarray) -> None:
    stem = StemClassifier(TPSBT(SMALL)).eval()
    frames = grey_input(np.stack([greys, 255 - greys, greys], axis=1))
    with torch.no_grad():
        wanted = stem(frames[:, :, 1:2]).softmax(1)
        torch.testing.assert_close(mean_probability([stem, stem], frames), wanted)


@pytest.mark.usefixtures("small_batches")
def test_all_phases_and_a_run_that_goes_on(
    greys: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faces = Faces(np.repeat(greys, 16, axis=0), torch.arange(64) % 6)
    config = replace(SMALL, frames=8)
    minutes = dict.fromkeys(MINUTES, 0.005)
    output = tmp_path / "small.pth"
    weights = make(config, faces, faces, minutes, output)
    assert phases_told(capsys) == list(MINUTES)
    (tmp_path / "small.clips").unlink()
    went_on = make(config, faces, faces, minutes, output)
    assert phases_told(capsys) == ["clips"]
    again = make(config, faces, faces, minutes, output)
    assert capsys.readouterr().out == ""
    assert weights.keys() == again.keys()
    assert all(torch.equal(again[name], went_on[name]) for name in again)
    TPSBT(config).load_state_dict(again)


def test_a_log_is_drawn(tmp_path: Path) -> None:
    rows = [
        {"phase": "masked", "minutes": 1.0, "step": 3, "loss": 1.0, "val_loss": 0.9},
        {"phase": "clips", "minutes": 1.0, "step": 3, "loss": 1.0, "uar": 0.5, "war": 0.6},
    ]
    rows[-1]["confusion"] = np.eye(6, dtype=int).tolist()
    (tmp_path / "log").write_text("\n".join(map(json.dumps, rows)))
    default_model.draw_log(tmp_path / "log", tmp_path / "seen.png")
    assert (tmp_path / "seen.png").stat().st_size > 0
