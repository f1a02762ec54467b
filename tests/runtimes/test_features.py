"""Features: of whole clips, and of the predictions of a stream, on every installed engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svfap_edge.bundle import Bundle
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import ConfigError, FrameError, InferenceError
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.export.reference import torch_logits
from svfap_edge.runtimes import Engine, Outputs, available_engines
from svfap_edge.runtimes.engine import MAX_BATCH
from tests.cli.test_commands import call
from tests.models import SPAN_S, TINY, labelled_crops, model_with_weights, save_ours, tiny_bundle

WIDTH = TINY.width
engines = pytest.mark.parametrize("engine_name", available_engines("onnx"))
"""Every engine that runs ONNX here."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("f") / "features", features=True)


@engines
def test_embeddings_are_the_pooled_features_of_pytorch(bundle: Bundle, engine_name: str) -> None:
    clips = synthetic_clips(bundle.manifest.clip, 3, seed=5)
    with torch.inference_mode():
        want = torch_logits(model_with_weights(TINY).features, clips)  # type: ignore[arg-type]
    with Engine.load(bundle, engine=engine_name) as engine:
        assert engine.spec.features == WIDTH
        features = engine.embed(clips)
        assert features.shape == (3, WIDTH) and features.dtype == np.float32
        np.testing.assert_allclose(features, want, atol=1e-4)
        assert np.abs(features[0] - features[1]).max() > 1e-3  # of this clip, not of any
        infer = engine.infer(clips).features
        assert infer is not None
        np.testing.assert_array_equal(infer, features)


@engines
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_more_clips_than_a_batch_keep_their_order(
    bundle: Bundle, engine_name: str, mode: str
) -> None:
    clips = synthetic_clips(bundle.manifest.clip, MAX_BATCH + 3)
    with Engine.load(bundle, engine=engine_name, mode=mode) as engine:  # type: ignore[arg-type]
        singles = np.concatenate([engine.embed(clip[None]) for clip in clips])
        np.testing.assert_allclose(engine.embed(clips), singles, atol=1e-4)


@engines
def test_an_artifact_without_features_says_how_to_get_them(tiny: Bundle, engine_name: str) -> None:
    clips = synthetic_clips(tiny.manifest.clip, 1)
    with Engine.load(tiny, engine=engine_name) as engine:
        with pytest.raises(ConfigError, match=r"'fp32\.onnx' returns no features.*--features"):
            engine.embed(clips)
        assert engine.infer(clips).features is None
    with pytest.raises(ConfigError, match="closed"):
        engine.embed(clips)


def test_clips_that_do_not_fit_are_refused(bundle: Bundle) -> None:
    clips = synthetic_clips(bundle.manifest.clip, 2)
    with Engine.load(bundle) as engine:
        for wrong in (clips[0], clips[:0], clips.astype(np.float32), clips[:, :, 1:]):
            with pytest.raises(FrameError, match=r"Clips must be \(N, 8, 32, 32, 3\) uint8"):
                engine.embed(wrong)


def test_features_that_are_nan_are_no_embeddings(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = synthetic_clips(bundle.manifest.clip, 1)
    with Engine.load(bundle) as engine:
        logits, _ = engine.infer(clips)
        features = np.full((1, WIDTH), np.nan, np.float32)
        monkeypatch.setattr(engine.backend, "run", lambda clips: Outputs(logits, features))
        with pytest.raises(InferenceError, match="NaN"):
            engine.embed(clips)


@engines
def test_predictions_carry_the_features_of_their_clip(bundle: Bundle, engine_name: str) -> None:
    """Two streams share batches; each prediction keeps its features while later clips run."""
    clip = bundle.manifest.clip
    faces = synthetic_clips(ClipSpec(16, 1.6, clip.size), 2, seed=7)
    with Engine.load(bundle, engine=engine_name) as engine:
        streams = [engine.open_stream(name, hop_s=clip.spacing_s) for name in ("a", "b")]
        found = []
        for index in range(16):
            for stream, frames in zip(streams, faces, strict=True):
                stream.add(frames[index], index * clip.spacing_s)
            found.extend(engine.step())
        whole = [p for p in found if p.coverage == 1]
        assert {p.stream for p in whole} == {"a", "b"} and len(whole) == 10
        for prediction in whole:
            first = round(prediction.start_s / clip.spacing_s)
            mine = faces["ab".index(prediction.stream)][first : first + clip.frames]
            assert prediction.features is not None
            assert prediction.features.shape == (WIDTH,)
            assert prediction.features.dtype == np.float32
            np.testing.assert_allclose(prediction.features, engine.embed(mine[None])[0], atol=1e-4)


@engines
def test_predictions_without_features_have_none(tiny: Bundle, engine_name: str) -> None:
    with Engine.load(tiny, engine=engine_name) as engine:
        stream = engine.open_stream("a", hop_s=0.1)
        face = np.full((32, 32, 3), 90, np.uint8)
        found = [p for index in range(10) for p in stream.push(face, index * 0.1)]
    assert found and all(p.features is None for p in found)


def test_every_kind_of_artifact_is_exported_with_features(tmp_path: Path) -> None:
    """By the command, half precision and INT8 too."""
    names = ("fp32.onnx", "fp16.onnx", "bf16.openvino", "int8.onnx", "int8.openvino")
    engines_of = {name: available_engines(name.partition(".")[2]) for name in names}
    wanted = [name for name in names if engines_of[name]]
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    (tmp_path / "crops").mkdir()
    crops = labelled_crops(tmp_path / "crops")
    options = ("--task", "moods", "--labels", "calm,glad,cross,sad", "--span", SPAN_S)
    quantized = ("--calib", crops, "--detector", "none", "--artifacts", ",".join(wanted))
    folder = tmp_path / "b"
    result = call("export", checkpoint, *options, *quantized, "--features", "-o", folder)
    assert result.exit_code == 0, result.output
    assert json.loads(call("inspect", folder, "--json").stdout)["features"] == WIDTH
    clips = synthetic_clips(ClipSpec(8, SPAN_S, 32), 4)
    with Engine.load(folder, artifact="fp32.onnx") as engine:
        want = engine.embed(clips)
    for artifact in wanted:
        for engine_name in engines_of[artifact]:
            with Engine.load(folder, artifact=artifact, engine=engine_name) as engine:
                features = engine.embed(clips)
            assert features.shape == (4, WIDTH) and features.dtype == np.float32, artifact
            cosines = np.sum(features * want, 1)
            cosines /= np.linalg.norm(features, axis=1) * np.linalg.norm(want, axis=1)
            assert cosines.min() > 0.99, (artifact, engine_name)
