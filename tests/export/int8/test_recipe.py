"""INT8: both formats, the gate, and the layers left in float."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import nncf
import numpy as np
import onnx
import pytest
from nncf.quantization.range_estimator import (
    RangeEstimatorParameters,
    StatisticsCollectorParameters,
    StatisticsType,
)
from typer.testing import CliRunner

from svfap_edge.bundle import Bundle
from svfap_edge.cli.app import app
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BackendUnavailable, QualityGateError, SvfapError
from svfap_edge.evaluation import fidelity
from svfap_edge.export import pipeline
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.export.int8 import recipe, sensitivity
from svfap_edge.export.model_files import run_onnx
from svfap_edge.export.onnx_from_model import onnx_from_model
from svfap_edge.export.pipeline import ExportOptions, export_bundle
from svfap_edge.export.precision import precisions_of_onnx, precisions_of_openvino
from svfap_edge.export.reference import torch_logits
from svfap_edge.export.trt.builder import find_builder, present_capability
from svfap_edge.runtimes import Engine
from svfap_edge.training.model import TPSBTConfig
from tests.models import SPAN_S, TINY, TINY_TASK, labelled_crops, model_with_weights, save_ours

SPEC = ClipSpec(TINY.frames, SPAN_S, TINY.size)
BOTH = ("fp32.onnx", "int8.onnx", "int8.openvino")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_crops(tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="module")
def bundle(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("int8")
    checkpoint = save_ours(folder / "m.pth", model_with_weights(TINY))
    options = ExportOptions(TINY_TASK, artifacts=BOTH, span_s=SPAN_S, calib=crops, detector="none")
    return export_bundle(checkpoint, folder / "b", options)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """fp32.onnx and int8.onnx of the tiny model."""
    folder = tmp_path_factory.mktemp("onnx")
    onnx_from_model(model_with_weights(TINY), folder / "fp32.onnx")
    recipe.int8_onnx_from_fp32(folder / "fp32.onnx", folder / "int8.onnx", synthetic_clips(SPEC, 8))
    return folder / "fp32.onnx", folder / "int8.onnx"


def test_both_artifacts_are_faithful_and_smaller(bundle: Bundle) -> None:
    artifacts = bundle.manifest.artifacts
    assert set(artifacts) == set(BOTH)
    assert artifacts["int8.onnx"].bytes < 0.6 * artifacts["fp32.onnx"].bytes
    for name in ("int8.onnx", "int8.openvino"):
        for found in bundle.manifest.quality[name]["parity"].values():
            assert found["error"] <= fidelity.LIMITS["int8"]["error"]
            assert found["clips"] == 8


def test_every_artifact_runs(bundle: Bundle) -> None:
    clips = synthetic_clips(SPEC, 2)
    for name in BOTH:
        with Engine.load(bundle, artifact=name) as engine:
            assert engine.infer(clips).logits.shape == (2, 4)
            assert engine.spec.precision.startswith(name[:3].replace("fp3", "f32"[:1]))


def test_manifest_tells_how(bundle: Bundle) -> None:
    facts = bundle.manifest.quantization
    assert facts["clips"] == 32
    assert facts["float_layers"] == []
    assert len(facts["files"]) == 40
    assert set(facts["labels"]) == {"glad", "sad"}
    assert "SmoothQuant and bias correction off" in facts["scheme"]
    json.dumps(facts)


def test_json_of_an_int8_export_is_only_json(crops: Path, tmp_path: Path) -> None:
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    call = ["export", checkpoint, "--task", "moods", "--labels", ",".join(TINY_TASK.labels)]
    call += ["-o", tmp_path / "b", "--calib", crops, "--detector", "none", "--json"]
    result = CliRunner().invoke(app, [*map(str, call), "--artifacts", "int8.onnx"])
    assert result.exit_code == 0, result.output
    assert [a["name"] for a in json.loads(result.stdout)["artifacts"]] == ["int8.onnx"]


def test_activations_are_symmetric_signed(files: tuple[Path, Path]) -> None:
    """What TensorRT takes: int8 with zero points of zero."""
    model = onnx.load(str(files[1]))
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    zeros = [constants[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert zeros
    assert all(z.dtype == np.int8 and not z.any() for z in zeros)
    assert model.opset_import[0].version <= 20


@pytest.mark.usefixtures("exact_int8")
def test_unsigned_activations_become_signed_and_run(tmp_path: Path) -> None:
    """After ReLU NNCF quantizes to uint8, which TensorRT does not take."""
    config = TPSBTConfig.from_dict({**TINY.to_dict(), "stem": (8, 12)})
    onnx_from_model(model_with_weights(config), tmp_path / "fp32.onnx")
    clips = synthetic_clips(SPEC, 8)
    recipe.int8_onnx_from_fp32(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", clips)
    model = onnx.load(str(tmp_path / "int8.onnx"))
    assert onnx.TensorProto.UINT8 not in {t.data_type for t in model.graph.initializer}
    reference = run_onnx(onnx.load(str(tmp_path / "fp32.onnx")), clips)
    assert fidelity.compare(reference, run_onnx(model, clips)).max_abs < 0.05


def test_attention_pooling_and_head_stay_float(files: tuple[Path, Path]) -> None:
    model = onnx.load(str(files[1]))
    producers = {o: n.op_type for n in model.graph.node for o in n.output}
    for node in model.graph.node:
        if node.op_type == "MatMul" and recipe.FLOAT_ALWAYS.search(node.name):
            assert "DequantizeLinear" not in [producers.get(i) for i in node.input], node.name


def test_counts_by_precision(files: tuple[Path, Path], bundle: Bundle) -> None:
    fp32, quantized = (precisions_of_onnx(path) for path in files)
    assert set(fp32) == {"fp32"}
    layers = recipe.quantizable_layers(onnx.load(str(files[0])))
    assert quantized["int8"] == len(layers)
    assert quantized["fp32"] + quantized["int8"] == fp32["fp32"]
    assert precisions_of_openvino(bundle.path_of("int8.openvino")).get("int8", 0) > 30


def test_int8_needs_real_clips(tmp_path: Path) -> None:
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    with pytest.raises(SvfapError, match=r"real clips.*--calib"):
        export_bundle(checkpoint, tmp_path / "b", ExportOptions(TINY_TASK, artifacts=BOTH))


def test_too_few_clips(tmp_path: Path, crops: Path) -> None:
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    options = ExportOptions(TINY_TASK, artifacts=BOTH, calib=crops, detector="none")
    steps: list[str] = []
    one = sorted(crops.rglob("*.png"))[0]
    few = ExportOptions(TINY_TASK, artifacts=BOTH, calib=one, detector="none")
    with pytest.raises(SvfapError, match="Only 1 calibration clips"):
        export_bundle(checkpoint, tmp_path / "b", few)
    export_bundle(checkpoint, tmp_path / "b", options, steps.append)
    assert any("warning: only 40 calibration clips" in step for step in steps)


def test_black_calibration_clips_are_refused(tmp_path: Path) -> None:
    (tmp_path / "black").mkdir()
    for index in range(20):
        cv2.imwrite(str(tmp_path / "black" / f"{index}.png"), np.zeros((40, 40, 3), np.uint8))
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    options = ExportOptions(TINY_TASK, artifacts=BOTH, calib=tmp_path / "black", detector="none")
    with pytest.raises(QualityGateError, match="gives the same answer for all"):
        export_bundle(checkpoint, tmp_path / "b", options)
    assert set(Bundle.open(tmp_path / "b").manifest.artifacts) == {"fp32.onnx"}


def _wreck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate to the middle of every range behind the exporter's back."""
    inner = nncf.quantize
    middle = RangeEstimatorParameters(
        min=StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE, quantile_outlier_prob=0.45
        ),
        max=StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE, quantile_outlier_prob=0.45
        ),
    )

    def collapsed(*args: Any, advanced_parameters: Any, **options: Any) -> Any:
        advanced_parameters.activations_range_estimator_params = middle
        return inner(*args, advanced_parameters=advanced_parameters, **options)

    monkeypatch.setattr(nncf, "quantize", collapsed)


@pytest.mark.parametrize("name", ["int8.onnx", "int8.openvino"])
def test_the_gate_refuses_wrecked_int8(
    tmp_path: Path, crops: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _wreck(monkeypatch)
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    options = ExportOptions(TINY_TASK, artifacts=[name], calib=crops, detector="none")
    with pytest.raises(QualityGateError, match=rf"'{name}' .* too far from PyTorch"):
        export_bundle(checkpoint, tmp_path / "b", options)
    assert [p.name for p in tmp_path.iterdir()] == ["m.pth"]


def test_float_layers_by_surgery(files: tuple[Path, Path]) -> None:
    """All layers in float is the float model again; one layer in float is one INT8 layer less."""
    plain, quantized = (onnx.load(str(path)) for path in files)
    layers = recipe.quantizable_layers(plain)
    clips = synthetic_clips(SPEC, 3, seed=9)
    reference = run_onnx(plain, clips)
    everything = sensitivity.with_float_layers(quantized, plain, layers)
    assert np.abs(run_onnx(everything, clips) - reference).max() < 1e-4
    onnx.checker.check_model(everything)
    damage = fidelity.compare(reference, run_onnx(quantized, clips)).error
    assert damage > 1e-3
    one = sensitivity.with_float_layers(quantized, plain, [layers[0]])
    assert np.abs(run_onnx(one, clips) - reference).max() > 0


@pytest.mark.usefixtures("exact_int8")
def test_ranking_finds_the_layer_that_hurts(files: tuple[Path, Path], tmp_path: Path) -> None:
    """One layer gets ranges far too small; it must come first."""
    plain, quantized = (onnx.load(str(path)) for path in files)
    victim = "blocks.3.mlp.fc1"
    node = next(n for n in quantized.graph.node if n.name == f"{victim}.matmul")
    producers = {o: n for n in quantized.graph.node for o in n.output}
    scale_name = producers[node.input[1]].input[1]
    for tensor in quantized.graph.initializer:
        if tensor.name == scale_name:
            wrong = onnx.numpy_helper.to_array(tensor) * np.float32(0.02)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wrong, tensor.name))
    onnx.save(quantized, str(tmp_path / "bad.onnx"))
    ranked = sensitivity.rank_layers(files[0], tmp_path / "bad.onnx", synthetic_clips(SPEC, 2))
    assert ranked[0].layer == victim
    assert ranked[0].error > 3 * ranked[1].error
    assert len(ranked) == len(recipe.quantizable_layers(plain))


def test_fewest_float_layers_searches_the_head_of_the_ranking() -> None:
    ranked = [sensitivity.LayerDamage(f"l{i}", 1 / (i + 1)) for i in range(40)]
    for need in (1, 2, 3, 7, 16):
        calls: list[int] = []

        def passes(layers: list[str], need: int = need, calls: list[int] = calls) -> bool:
            calls.append(len(layers))
            return len(layers) >= need

        assert sensitivity.fewest_float_layers(ranked, passes) == [f"l{i}" for i in range(need)]
        assert len(calls) <= 12
    assert sensitivity.fewest_float_layers(ranked, lambda layers: len(layers) > 30) is None


def test_rescue_leaves_layers_in_float_and_says_which(
    tmp_path: Path, crops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With limits that full INT8 misses by a little, a few float layers bring it back."""
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    options = ExportOptions(
        TINY_TASK, artifacts=["int8.onnx"], calib=crops, detector="none", rescue=True
    )
    plain = export_bundle(checkpoint, tmp_path / "plain", options)
    parity = plain.manifest.quality["int8.onnx"]["parity"]
    error = max(found["error"] for found in parity.values())
    limits = {**fidelity.LIMITS, "int8": {"error": 0.85 * error}}
    monkeypatch.setattr(fidelity, "LIMITS", limits)
    rescued = export_bundle(checkpoint, tmp_path / "rescued", options)
    facts = rescued.manifest.quantization
    assert 0 < len(facts["float_layers"]) <= 20
    assert facts["damage"][0]["layer"] == facts["float_layers"][0]
    counts = precisions_of_onnx(rescued.path_of("int8.onnx"))
    before = precisions_of_onnx(plain.path_of("int8.onnx"))
    assert counts["int8"] == before["int8"] - len(facts["float_layers"])


def test_tensorrt_plans_in_a_bundle(tmp_path: Path, crops: Path) -> None:
    """Real plans, built ahead of time; the ONNX files they come from passed the gate."""
    try:
        find_builder("rtx")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    options = ExportOptions(
        TINY_TASK,
        artifacts=["fp32.onnx", "fp16.tensorrt", "int8.tensorrt"],
        calib=crops,
        detector="none",
        compute_capabilities=("8.9",),
    )
    bundle = export_bundle(checkpoint, tmp_path / "b", options)
    assert {p.name for p in bundle.path.iterdir()} == {"check.npz", 
        "manifest.json", "fp32.onnx", "fp16.plan", "int8.plan",
    }  # fmt: skip
    for name, kind in (("fp16.tensorrt", "float16"), ("int8.tensorrt", "int8")):
        assert bundle.manifest.artifacts[name].needs["compute_capability"] == ["8.9"]
        assert bundle.manifest.quality[name]["layers"][kind] > 10
        assert bundle.manifest.quality[name]["checked_as"]["parity"]
    if not present_capability():
        with pytest.raises(BackendUnavailable, match="CUDA driver not found"):
            Engine.load(bundle, artifact="fp16.tensorrt")


def test_max_drop_needs_labelled_files(tmp_path: Path, crops: Path) -> None:
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    options = ExportOptions(TINY_TASK, artifacts=BOTH, calib=crops, max_drop=1.0)
    with pytest.raises(SvfapError, match="--validate"):
        export_bundle(checkpoint, tmp_path / "b", options)


def test_max_drop_measures_and_rescues(
    tmp_path: Path, crops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are what the float model says, so every flip is a drop; one layer is spoiled."""
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    judged = tmp_path / "judged"
    judged.mkdir()
    lines = []
    model = model_with_weights(TINY)
    pictures = synthetic_clips(ClipSpec(1, 0.1, TINY.size), 60, seed=11)[:, 0]
    answers = torch_logits(model, np.repeat(pictures[:, None], TINY.frames, 1)).argmax(1)
    for index, (picture, answer) in enumerate(zip(pictures, answers, strict=True)):
        cv2.imwrite(str(judged / f"{index}.png"), picture[..., ::-1])
        lines.append(f"{index}.png {answer}")
    (judged / "list.txt").write_text("\n".join(lines))
    options = ExportOptions(
        TINY_TASK,
        artifacts=["fp32.onnx", "int8.onnx"],
        span_s=SPAN_S,
        calib=crops,
        detector="none",
        max_drop=15.0,
        validate=judged / "list.txt",
    )
    _worsen_one_layer(monkeypatch, "blocks.3.mlp.fc1")
    steps: list[str] = []
    bundle = export_bundle(checkpoint, tmp_path / "b", options, steps.append)
    facts = bundle.manifest.quantization
    assert "blocks.3.mlp.fc1" in facts["float_layers"]
    assert all(drop <= 15 for drop in bundle.manifest.quality["int8.onnx"]["drop"].values())
    assert "stay in float (" in facts["float_cost"]
    assert any("times as long as in full INT8" in step for step in steps)


def _worsen_one_layer(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    """Make the quantizer spoil one layer's weights, unless it is left in float."""
    inner = recipe.sign_activations

    def spoiled(model: onnx.ModelProto) -> None:
        inner(model)
        node = next(n for n in model.graph.node if n.name == f"{layer}.matmul")
        producers = {o: n for n in model.graph.node for o in n.output}
        source = producers.get(node.input[1])
        if source is None:
            return
        for tensor in model.graph.initializer:
            if tensor.name == source.input[1]:
                wrong = onnx.numpy_helper.to_array(tensor) * np.float32(-1)
                tensor.CopyFrom(onnx.numpy_helper.from_array(wrong, tensor.name))

    monkeypatch.setattr(recipe, "sign_activations", spoiled)


def test_interrupt_while_quantizing_leaves_nothing(
    tmp_path: Path, crops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "_quantize", stop)
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    options = ExportOptions(TINY_TASK, artifacts=BOTH, calib=crops, detector="none")
    with pytest.raises(KeyboardInterrupt):
        export_bundle(checkpoint, tmp_path / "b", options)
    assert [p.name for p in tmp_path.iterdir()] == ["m.pth"]
    assert pipeline.ARTIFACTS
