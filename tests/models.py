"""Tiny models for tests, made on the spot."""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from svfap_edge import bundle as bundles
from svfap_edge.bundle import Artifact, Bundle, Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.export.pipeline import ExportOptions, export_bundle
from svfap_edge.tasks import Task
from svfap_edge.training.model import TPSBT, TPSBTConfig

TINY = TPSBTConfig(
    size=32,
    patch=8,
    frames=8,
    width=48,
    heads=4,
    depths=(2, 2, 2),
    bottleneck_tokens=(4, 4),
    outputs=4,
)
TINY_TASK = Task("moods", "classes", ("calm", "glad", "cross", "sad"))
SPAN_S = 0.8


def golden_weights(shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that the reference outputs were made with, by name and shape."""
    weights = {}
    for name, shape in shapes.items():
        seed = zlib.crc32(name.encode())
        values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.05
        if "norm" in name and name.endswith("weight"):
            values = values + np.float32(1)
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def model_with_weights(config: TPSBTConfig) -> TPSBT:
    """A model with random weights that make outputs vary, and with such running statistics."""
    model = TPSBT(config).eval()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights = golden_weights({n: s for n, s in shapes.items() if "num_batches" not in n})
    for name, value in weights.items():
        if name.endswith("running_var"):
            weights[name] = value.abs() + 0.5
    model.load_state_dict(weights, strict=False)
    return model


def save_like_authors(
    path: Path, model: TPSBT, state: dict[str, torch.Tensor] | None = None, key: str = "model"
) -> Path:
    """A checkpoint as the published code writes it."""
    config = model.config
    args = argparse.Namespace(
        model="svfap_base_patch16_160",
        input_size=config.size,
        num_frames=config.frames,
        stage_depths=list(config.depths),
        lr=1e-3,
        resume="",
    )
    content = {
        key: model.state_dict() if state is None else state,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 99,
        "scaler": {"scale": 65536.0},
        "args": args,
    }
    torch.save(content, path)
    return path


def save_ours(path: Path, model: TPSBT) -> Path:
    torch.save({"model": model.state_dict(), "config": model.config.to_dict()}, path)
    return path


def tiny_bundle(folder: Path, **options: Any) -> Bundle:
    """Export the tiny model to `folder`."""
    checkpoint = save_ours(folder.parent / "tiny.pth", model_with_weights(TINY))
    chosen = ExportOptions(**{"task": TINY_TASK, "span_s": SPAN_S, **options})
    return export_bundle(checkpoint, folder, chosen)


def labelled_crops(root: Path) -> Path:
    """Forty pictures in two folders of labels; any picture passes as a face crop here."""
    for index, clip in enumerate(synthetic_clips(ClipSpec(1, 0.1, 48), 40, seed=3)):
        folder = root / ("glad" if index % 4 else "sad")
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), clip[0])
    return root


def bundle_of_onnx(folder: Path, model: onnx.ModelProto, task: Task, clip: ClipSpec) -> Bundle:
    """A bundle around any ONNX model."""
    with bundles.writing(folder) as scratch:
        onnx.save(model, str(scratch / "fp32.onnx"))
        files = (bundles.describe_file(scratch / "fp32.onnx"),)
        artifacts = {"fp32.onnx": Artifact("fp32.onnx", files)}
        bundles.write_manifest(scratch, Manifest(folder.name, task, clip, 0.0, artifacts))
    return Bundle.open(folder)


def brightness_model(clip: ClipSpec, *, nan_above: float | None = None) -> onnx.ModelProto:
    """Two logits: mean brightness b of the clip in 0..1, and 1 - b.

    With `nan_above`, logits are NaN for clips brighter than that: an engine gone wrong.
    """
    constants = {
        "axes": np.array([1, 2, 3, 4], np.int64),
        "scale": np.array(255, np.float32),
        "one": np.array(1, np.float32),
        "shape": np.array([-1, 1], np.int64),
        "limit": np.array(2 if nan_above is None else nan_above, np.float32),
        "nan": np.array(np.nan, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["clips"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["sum"], keepdims=0),
        helper.make_node("Div", ["sum", "scale"], ["mean"]),
        helper.make_node("Reshape", ["mean", "shape"], ["clean"]),
        helper.make_node("Greater", ["clean", "limit"], ["wrong"]),
        helper.make_node("Where", ["wrong", "nan", "clean"], ["bright"]),
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Concat", ["bright", "dark"], ["logits"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("clips", TensorProto.UINT8, ["N", *clip.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


BRIGHTNESS_TASK = Task("brightness", "classes", ("bright", "dark"))
