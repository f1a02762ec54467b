"""What is refused before an engine opens it, though its digest is right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from svfap_edge.bundle import DEFAULT_BUNDLE, Artifact, Bundle, describe_file, write_manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError
from svfap_edge.runtimes import Engine, available_engines
from svfap_edge.runtimes.admission import admit
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

CLIP = ClipSpec(4, 0.4, 8)
IR = b'<net name="n" version="11"><layers>%s</layers><edges/></net>'
ONNX, OPENVINO = Artifact("fp32.onnx", ()), Artifact("fp32.openvino", ())


def _external(model: onnx.ModelProto) -> None:
    weights = model.graph.initializer[1]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")


def _external_without_saying_so(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].external_data.add(key="location", value="x.bin")


def _external_constant(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "t")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="x.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _branch(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node("If", ["wrong"], ["x"], then_branch=body, else_branch=body)
    model.graph.node.append(node)


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["x"], body=body))


def _version(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 1 << 31


def _graphs(model: onnx.ModelProto) -> None:
    node = helper.make_node("Add", ["one", "one"], ["x"])
    node.attribute.append(helper.make_attribute("some", [helper.make_graph([], "b", [], [])]))
    model.graph.node.append(node)


def _domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.evil", 1))


def _node_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.evil"


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(1 << 40)


def _function(model: onnx.ModelProto) -> None:
    model.functions.add().name = "Cast"


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_external, "another file"),
        (_external_without_saying_so, "another file"),
        (_external_constant, "another file"),
        (_branch, "graph within 'If'"),
        (_loop, "graph within 'Loop'"),
        (_graphs, "graph within 'Add'"),
        (_version, "version 2147483648"),
        (_domain, "domain 'com.evil'"),
        (_node_domain, "domain 'com.evil'"),
        (_sparse, "sparse"),
        (_function, "functions"),
    ],
)
def test_onnx(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], what: str, engine: str
) -> None:
    if engine not in available_engines("onnx"):
        pytest.skip(f"{engine} is not installed")
    model = brightness_model(CLIP)
    change(model)
    bundle = bundle_of_onnx(tmp_path / "x", model, BRIGHTNESS_TASK, CLIP)
    with pytest.raises(BundleError, match=what):
        Engine.load(bundle.path, engine=engine)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (IR % b'<layer id="0" type="TensorIterator" version="opset1"/>', "TensorIterator"),
        (IR % b'<layer id="0" type="Loop" version="opset5"/>', "Loop"),
        (IR % b'<layer id="0" type="Mine" version="extension"/>', "the set 'extension'"),
        (IR % b'<layer id="0" type="Mine"/>', "the set ''"),
        (b'<!DOCTYPE n [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + IR % b"&a;", "document"),
        ((IR % b"")[:-3], "not readable"),
        (b"", "not readable"),
    ],
)
def test_openvino(content: bytes, what: str) -> None:
    with pytest.raises(BundleError, match=what):
        admit(OPENVINO, [content, b""])


def test_our_own_are_admitted() -> None:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    for name in bundle.manifest.artifacts:
        admit(bundle.artifact(name), bundle.read(name))
    admit(ONNX, [brightness_model(CLIP).SerializeToString()])
    admit(OPENVINO, [IR % b'<layer id="0" type="Result" version="opset1"/>', b""])


def test_bytes_that_are_no_message() -> None:
    whole = brightness_model(CLIP).SerializeToString()
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole[: random.integers(1, len(whole))])
        data[random.integers(len(data))] = random.integers(256)
        with contextlib.suppress(BundleError):
            admit(ONNX, [bytes(data)])


def test_weights_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    """The file beside it is not read, though OpenVINO would take it by its name."""
    ov = pytest.importorskip("openvino")
    bundle = bundle_of_onnx(tmp_path / "x", brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)
    model = ov.convert_model(str(bundle.path_of("fp32.onnx")))
    ov.save_model(model, bundle.path / "fp32.xml", compress_to_fp16=False)
    entry = Artifact("fp32.openvino", (describe_file(bundle.path / "fp32.xml"),))
    bundle.manifest.artifacts["fp32.openvino"] = entry
    write_manifest(bundle.path, bundle.manifest)
    with pytest.raises(BundleError, match="OpenVINO cannot load"):
        Engine.load(bundle.path, artifact="fp32.openvino", engine="openvino")


def test_a_clip_that_would_not_fit_into_memory(tmp_path: Path) -> None:
    bundle = bundle_of_onnx(tmp_path / "x", brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)
    text = (bundle.path / "manifest.json").read_text()
    (bundle.path / "manifest.json").write_text(
        text.replace('"size": 8', '"size": 4096').replace('"frames": 4', '"frames": 1024')
    )
    with pytest.raises(BundleError, match="51540 MB; at most 268 MB"):
        Bundle.open(bundle.path)
