"""One contract, every installed engine."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BackendUnavailable, BundleError, FrameError, InferenceError
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.runtimes import Engine, Stream, available_engines, choice, load_backend
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx, tiny_bundle

CLIP = ClipSpec(4, 0.4, 8)


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine_name(request: pytest.FixtureRequest) -> str:
    if request.param not in available_engines():
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("b") / "brightness"
    return bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """NaN for clips brighter than one half."""
    folder = tmp_path_factory.mktemp("f") / "faulty"
    model = brightness_model(CLIP, nan_above=0.5)
    return bundle_of_onnx(folder, model, BRIGHTNESS_TASK, CLIP)


def test_spec(tiny: Bundle, engine_name: str) -> None:
    loaded = load_backend(tiny, engine=engine_name)
    spec = loaded.spec
    assert spec.clip == tiny.manifest.clip
    assert (spec.outputs, spec.features) == (4, 0)
    assert (spec.artifact, spec.engine, spec.precision) == ("fp32.onnx", engine_name, "f32")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_known_answer_for_any_batch(brightness: Bundle, engine_name: str, count: int) -> None:
    loaded = load_backend(brightness, engine=engine_name)
    values = np.arange(count) * 40
    clips = np.empty((count, *CLIP.shape), np.uint8)
    clips[:] = values[:, None, None, None, None]
    outputs = loaded.run(clips)
    want = np.stack([values / 255, 1 - values / 255], 1)
    np.testing.assert_allclose(outputs.logits, want, atol=1e-6)
    assert outputs.logits.dtype == np.float32
    assert outputs.features is None


def test_batch_equals_singles(tiny: Bundle, engine_name: str) -> None:
    loaded = load_backend(tiny, engine=engine_name)
    clips = synthetic_clips(tiny.manifest.clip, 4)
    singles = np.concatenate([loaded.run(clip[None]).logits for clip in clips])
    np.testing.assert_allclose(loaded.run(clips).logits, singles, atol=1e-5)


def test_results_are_not_overwritten_by_the_next_run(tiny: Bundle, engine_name: str) -> None:
    loaded = load_backend(tiny, engine=engine_name)
    first, second = synthetic_clips(tiny.manifest.clip, 2)
    kept = loaded.run(first[None]).logits
    copy = kept.copy()
    loaded.run(second[None])
    np.testing.assert_array_equal(kept, copy)


def test_input_is_not_changed_and_may_be_strided(tiny: Bundle, engine_name: str) -> None:
    loaded = load_backend(tiny, engine=engine_name)
    clips = synthetic_clips(tiny.manifest.clip, 4)
    copy = clips.copy()
    np.testing.assert_allclose(
        loaded.run(clips[::2]).logits, loaded.run(clips[::2].copy()).logits, atol=1e-6
    )
    flipped = clips[:1, :, :, ::-1]
    np.testing.assert_allclose(
        loaded.run(flipped).logits, loaded.run(np.ascontiguousarray(flipped)).logits, atol=1e-6
    )
    np.testing.assert_array_equal(clips, copy)


@pytest.mark.parametrize(
    "clips",
    [
        np.zeros((1, 8, 32, 32, 3), np.float32),
        np.zeros((8, 32, 32, 3), np.uint8),
        np.zeros((1, 8, 3, 32, 32), np.uint8),
        np.zeros((1, 8, 32, 31, 3), np.uint8),
        np.zeros((1, 7, 32, 32, 3), np.uint8),
        np.zeros((0, 8, 32, 32, 3), np.uint8),
    ],
    ids=lambda clips: f"{clips.shape}-{clips.dtype}",
)
def test_wrong_input_is_refused(tiny: Bundle, engine_name: str, clips: np.ndarray) -> None:
    with pytest.raises(FrameError, match=r"\(N, 8, 32, 32, 3\) uint8 RGB.*got"):
        load_backend(tiny, engine=engine_name).run(clips)


def test_threads_share_a_backend(tiny: Bundle, engine_name: str) -> None:
    loaded = load_backend(tiny, engine=engine_name)
    clips = synthetic_clips(tiny.manifest.clip, 4)
    want = [loaded.run(clip[None]).logits for clip in clips]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(10):
            if not np.allclose(loaded.run(clips[index][None]).logits, want[index], atol=1e-6):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_features_come_as_a_second_output(tmp_path: Path, engine_name: str) -> None:
    bundle = tiny_bundle(tmp_path / "f", features=True)
    outputs = load_backend(bundle, engine=engine_name).run(synthetic_clips(bundle.manifest.clip, 2))
    assert outputs.features is not None
    assert outputs.features.shape == (2, 48)


def test_closed_backend_says_so(tiny: Bundle, engine_name: str) -> None:
    loaded = load_backend(tiny, engine=engine_name)
    loaded.close()
    with pytest.raises(ValueError, match="closed"):
        loaded.run(synthetic_clips(tiny.manifest.clip, 1))


def test_nan_is_never_a_prediction(faulty: Bundle, engine_name: str) -> None:
    with Engine.load(faulty, engine=engine_name) as engine:
        stream = engine.open_stream("s", hop_s=0.1)
        dark, bright = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
        good = [p for i in range(6) for p in stream.push(dark, i * 0.1)]
        assert good
        failures = [
            error
            for i in range(6, 16)
            for error in [_failure(stream, bright, i * 0.1)]
            if error is not None
        ]
        assert failures
        assert all("NaN" in text and "fp32.onnx" in text for text in failures)
        # The stream goes on once the model does.
        assert _failure(stream, dark, 3.0) is None
        later = [p for i in range(31, 36) for p in stream.push(dark, i * 0.1)]
        assert later[-1].label == "dark"


def _failure(stream: Stream, face: np.ndarray, time_s: float) -> str | None:
    """The message with which a push failed, or None."""
    try:
        stream.push(face, time_s)
    except InferenceError as error:
        return str(error)
    return None


def test_model_that_does_not_fit_the_manifest(tmp_path: Path, engine_name: str) -> None:
    other = ClipSpec(4, 0.4, 16)
    bundle = bundle_of_onnx(tmp_path / "x", brightness_model(CLIP), BRIGHTNESS_TASK, other)
    with pytest.raises(BundleError, match=r"reads .*8, 8, 3.*manifest says .*16, 16, 3"):
        load_backend(bundle, engine=engine_name)


def test_garbage_model_is_an_error_in_the_engines_words(tmp_path: Path, engine_name: str) -> None:
    import onnx

    model = brightness_model(CLIP)
    model.graph.node[0].op_type = "NoSuchOperator"
    bundle = bundle_of_onnx(tmp_path / "x", onnx.ModelProto.FromString(model.SerializeToString()),
                            BRIGHTNESS_TASK, CLIP)  # fmt: skip
    with pytest.raises(BundleError, match="NoSuchOperator"):
        load_backend(bundle, engine=engine_name)


def test_engines_agree(tiny: Bundle) -> None:
    engines = available_engines("onnx")
    if len(engines) < 2:
        pytest.skip("only one engine is installed")
    clips = synthetic_clips(tiny.manifest.clip, 4)
    results = [load_backend(tiny, engine=name).run(clips).logits for name in engines]
    assert np.abs(results[0] - results[1]).max() <= 1e-4


def test_explicit_engine_is_obeyed(tiny: Bundle, engine_name: str) -> None:
    with Engine.load(tiny, engine=engine_name) as engine:
        assert engine.spec.engine == engine_name


def test_unknown_engine_lists_the_installed_ones(tiny: Bundle) -> None:
    with pytest.raises(BackendUnavailable, match=r"No engine 'abacus'.*Installed here"):
        Engine.load(tiny, engine="abacus")


def test_missing_engine_says_how_to_get_it(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "installed", lambda name: name == "onnxruntime")
    with pytest.raises(BackendUnavailable, match=r"not installed.*onnxruntime.*pip install openv"):
        Engine.load(tiny, engine="openvino")
    monkeypatch.setattr(choice, "installed", lambda name: False)
    with pytest.raises(BackendUnavailable, match=r"No installed engine runs fp32\.onnx"):
        Engine.load(tiny)


def test_unknown_artifact_lists_those_there(tiny: Bundle) -> None:
    with pytest.raises(BundleError, match=r"no artifact 'int8\.onnx'.*has: fp32\.onnx"):
        Engine.load(tiny, artifact="int8.onnx")


def test_engine_that_does_not_run_the_format(tiny: Bundle, tmp_path: Path) -> None:
    import json
    import shutil

    shutil.copytree(tiny.path, tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["artifacts"][0]["name"] = "int8.openvino"
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"onnxruntime' does not run artifact 'int8\.openvino'"):
        Engine.load(tmp_path / "b", artifact="int8.openvino", engine="onnxruntime")
