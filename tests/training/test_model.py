"""TPSBT against the published implementation's outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svfap_edge.training.model import BASE, LITE, TPSBT, TPSBTConfig, preset
from tests.models import TINY, golden_weights


@pytest.mark.parametrize(("name", "limit"), [("tiny", 1e-5), ("base", 1e-4)])
def test_matches_published_outputs(golden: Path, name: str, limit: float) -> None:
    reference = np.load(golden / f"finetune_{name}.npz")
    facts = json.loads(str(reference["config"]))
    shapes = json.loads(str(reference["state"]))
    tokens = facts["num_bottleneck_tokens"] * (len(facts["stage_depths"]) - 1)
    config = TPSBTConfig(
        size=facts["img_size"],
        patch=facts["patch_size"],
        frames=facts["all_frames"],
        width=facts["embed_dim"],
        heads=facts["num_heads"],
        depths=tuple(facts["stage_depths"]),
        bottleneck_tokens=tuple(tokens),
        outputs=facts["num_classes"],
    )
    model = TPSBT(config).eval()
    assert {n: list(v.shape) for n, v in model.state_dict().items()} == shapes
    model.load_state_dict(golden_weights(shapes))
    size = (int(reference["batch"]), 3, config.frames, config.size, config.size)
    random = np.random.default_rng(int(reference["seed"]))
    clips = torch.from_numpy(random.standard_normal(size).astype(np.float32))
    with torch.no_grad():
        features = model.features(clips)
        logits = model(clips)
    assert np.abs(logits.numpy() - reference["logits"]).max() <= limit
    assert np.abs(features.numpy() - reference["features"]).max() <= limit


def test_base_is_the_published_size() -> None:
    assert sum(p.numel() for p in TPSBT(BASE).parameters()) == pytest.approx(77.6e6, rel=1e-3)


def test_lite_is_a_few_million_and_runs() -> None:
    model = TPSBT(LITE).eval()
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 6e6
    assert model(torch.zeros(1, 3, 16, LITE.size, LITE.size)).shape == (1, 7)


def test_position_code_is_a_buffer_that_is_not_saved() -> None:
    model = TPSBT(TINY)
    assert "position_code" in dict(model.named_buffers())
    assert "position_code" not in model.state_dict()


def test_sigmoid_head_stays_in_range() -> None:
    config = TPSBTConfig.from_dict({**TINY.to_dict(), "activation": "sigmoid"})
    outputs = TPSBT(config)(torch.randn(2, 3, 8, 32, 32) * 50)
    assert ((outputs >= 0) & (outputs <= 1)).all()


def test_drop_path_only_in_training() -> None:
    config = TPSBTConfig.from_dict({**TINY.to_dict(), "drop_path": 0.9})
    model = TPSBT(config)
    clips = torch.randn(2, 3, 8, 32, 32)
    torch.testing.assert_close(model.eval()(clips), model.eval()(clips))
    model.train()
    assert not torch.equal(model(clips), model(clips))


def test_every_weight_gets_a_gradient() -> None:
    model = TPSBT(TINY)
    model(torch.randn(2, 3, 8, 32, 32)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"size": 33}, "multiple of patch"),
        ({"frames": 7}, "multiple of tubelet"),
        ({"heads": 5}, "multiple of heads"),
        ({"frames": 4, "depths": (1, 1, 1)}, "divide evenly"),
        ({"bottleneck_tokens": (4,)}, "bottleneck_tokens"),
        ({"activation": "relu"}, "activation"),
        ({"stem": (8, 8, 8, 8)}, "stem"),
    ],
)
def test_inconsistent_configuration_is_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        TPSBTConfig.from_dict({**TINY.to_dict(), **changes})


def test_presets() -> None:
    assert preset("lite", outputs=3).outputs == 3
    with pytest.raises(ValueError, match=r"base, lite"):
        preset("huge")


def test_configuration_survives_json() -> None:
    assert TPSBTConfig.from_dict(json.loads(json.dumps(LITE.to_dict()))) == LITE
