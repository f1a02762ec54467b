"""SmoothQuant on uint8 input, a trap: the gate must see it by itself.

SmoothQuant (Xiao et al. 2023) fits the scale of every channel to what calibration saw. Calibrated
on clips with black bars, it answers at random on clips without; plain min-max, with one range for a
whole layer, bears the same clips. Calibrated on clips like those of the gate it did no such harm to
these random models.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import nncf
import numpy as np
import onnx
import openvino as ov
import pytest
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
)
from onnx import helper, numpy_helper

from svfap_edge import bundle as bundles
from svfap_edge.bundle import Artifact, Bundle, Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import QualityGateError
from svfap_edge.evaluation import fidelity
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.export.int8 import recipe
from svfap_edge.export.onnx_from_model import (
    BYTE_CENTER,
    IMAGENET_MEAN,
    IMAGENET_STD,
    onnx_from_model,
)
from svfap_edge.export.pipeline import ExportOptions, export_bundle
from svfap_edge.export.reference import torch_logits
from svfap_edge.lists import find_items, stratified
from svfap_edge.runtimes import load_backend
from tests.models import SPAN_S, TINY, TINY_TASK, model_with_weights, save_ours

SPEC = ClipSpec(TINY.frames, SPAN_S, TINY.size)
ON = AdvancedSmoothQuantParameters()  # NNCF's default for transformers
ROWS = 4
"""Height of a black bar, of 32."""

OFF = AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)


def with_bars(clips: np.ndarray) -> np.ndarray:
    """The clips (..., H, W, 3), the first and the last rows black."""
    barred = clips.copy()
    barred[..., :ROWS, :, :] = barred[..., -ROWS:, :, :] = 0
    return barred


def plain_graph(path: Path) -> Path:
    """fp32.onnx of the tiny model as others write it: Cast, /255, -mean, /std, projection."""
    onnx_from_model(model_with_weights(TINY), path)
    model = onnx.load(str(path))
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    position = next(i for i, n in enumerate(graph.node) if n.name == "patch_embed.centered")
    source, target = graph.node[position].input[0], graph.node[position].output[0]
    project = next(n for n in graph.node if n.op_type == "MatMul" and n.input[0] == target)
    add = next(n for n in graph.node if project.output[0] in n.input)
    bias = next(name for name in add.input if name in constants)

    folded = numpy_helper.to_array(constants[project.input[1]]).astype(np.float64)
    pixels = len(folded) // 3
    mean, std = np.tile(IMAGENET_MEAN, pixels), np.tile(IMAGENET_STD, pixels)
    weight = folded * (255 * std)[:, None]
    moved = (weight * (mean / std)[:, None]).sum(0) - BYTE_CENTER * folded.sum(0)
    replaced = {
        project.input[1]: weight,
        bias: numpy_helper.to_array(constants[bias]) + moved,
    }
    for name, values in replaced.items():
        constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    steps = (("Div", "largest", np.array(255)), ("Sub", "mean", mean), ("Div", "std", std))
    del graph.node[position]
    for offset, (operator, name, values) in enumerate(steps):
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        output = target if name == "std" else f"less.{name}"
        node = helper.make_node(operator, [source, name], [output], name=f"normalize.{name}")
        graph.node.insert(position + offset, node)
        source = output
    onnx.save(model, str(path))
    return path


def quantized_bundle(folder: Path, source: Path, clips: np.ndarray, smooth: object) -> Bundle:
    """int8.openvino by NNCF, not by our exporter."""
    model = nncf.quantize(
        ov.Core().read_model(str(source)),
        nncf.Dataset(list(clips), lambda clip: {"clips": clip[None]}),
        subset_size=len(clips),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(types=["ScaledDotProductAttention"], validate=False),
        advanced_parameters=AdvancedQuantizationParameters(smooth_quant_alphas=smooth),
    )
    with bundles.writing(folder) as scratch:
        ov.save_model(model, str(scratch / "int8.xml"), compress_to_fp16=False)
        files = tuple(bundles.describe_file(scratch / f"int8.{end}") for end in ("xml", "bin"))
        artifacts = {"int8.openvino": Artifact("int8.openvino", files)}
        bundles.write_manifest(scratch, Manifest("b", TINY_TASK, SPEC, 0.0, artifacts))
    return Bundle.open(folder)


@pytest.mark.usefixtures("exact_int8")
def test_the_gate_sees_smooth_quant_on_a_plain_graph(tmp_path: Path) -> None:
    source = plain_graph(tmp_path / "plain.onnx")
    clips = synthetic_clips(SPEC, 24)
    held_back, calibration = clips[:8], with_bars(clips[8:])
    reference = torch_logits(model_with_weights(TINY), held_back)

    def check(name: str, smooth: object) -> fidelity.Fidelity:
        bundle = quantized_bundle(tmp_path / name, source, calibration, smooth)
        backend = load_backend(bundle, "int8.openvino", "openvino")
        return fidelity.check(backend, reference, held_back, "int8")

    assert check("off", OFF).error < 0.3
    with pytest.raises(QualityGateError, match=r"'int8\.openvino' on openvino is too far"):
        check("on", ON)


@pytest.fixture(scope="module")
def barred_crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures; those that the exporter holds back have no bars, all others have."""
    folder = tmp_path_factory.mktemp("crops")
    pictures = synthetic_clips(ClipSpec(1, 0.1, TINY.size), 40, seed=3)[:, 0]
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    for item in stratified(find_items(folder), 40)[8:]:
        cv2.imwrite(str(item.path), with_bars(cv2.imread(str(item.path))))
    return folder


@pytest.mark.parametrize("name", ["int8.onnx", "int8.openvino"])
def test_an_export_with_smooth_quant_is_refused(
    tmp_path: Path, barred_crops: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_ours(tmp_path / "m.pth", model_with_weights(TINY))
    options = ExportOptions(
        TINY_TASK, artifacts=[name], span_s=SPAN_S, calib=barred_crops, detector="none"
    )
    export_bundle(checkpoint, tmp_path / "off", options)
    monkeypatch.setattr(recipe, "AdvancedSmoothQuantParameters", lambda **off: ON)
    with pytest.raises(QualityGateError, match=rf"'{name}' .* too far from PyTorch"):
        export_bundle(checkpoint, tmp_path / "on", options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.pth", "off"]
