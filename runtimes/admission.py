"""What a model file may hold before an engine opens it.

A digest says that the bytes are those of the manifest, not that they mean well. Our own artifacts
are one graph of standard operators with all weights in the files of the manifest; anything that
reads another file, runs code of its own or repeats itself (a loop of 2^62 turns obeys no signal) is
refused here, by its bytes alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn
from xml.parsers import expat

from svfap_edge.bundle import Artifact
from svfap_edge.errors import BundleError

DOMAINS = (b"", b"ai.onnx")
"""Operator sets of ONNX that artifacts may use."""

MAX_OPSET = 100
"""Highest version of an operator set; ONNX 1.23 is at 28, and this SDK writes 20."""

REPEATING = ("If", "Loop", "TensorIterator")
"""Operators of OpenVINO that hold graphs of their own."""


def admit(artifact: Artifact, contents: list[bytes | memoryview]) -> None:
    """Raise BundleError for an artifact that is not a plain graph; plans are left to TensorRT.

    Args:
        contents: Bytes of the files of the artifact, in their order.
    """
    try:
        if artifact.format == "onnx":
            _admit_onnx(artifact, memoryview(contents[0]))
        elif artifact.format == "openvino":
            _admit_openvino(artifact, bytes(contents[0]))
    except (ValueError, LookupError) as error:
        form = "an OpenVINO model" if artifact.format == "openvino" else "ONNX"
        raise BundleError(
            f"'{artifact.name}' is not readable as {form}. Export the bundle again."
        ) from error


def _refuse(artifact: Artifact, what: str) -> NoReturn:
    raise BundleError(
        f"'{artifact.name}' holds {what}, which no artifact of this SDK does. It is not opened; "
        "export the bundle again, and do not use models of unknown origin."
    )


def _admit_onnx(artifact: Artifact, content: memoryview) -> None:
    """Numbers of fields: onnx.proto of ONNX 1.23."""
    for field, value in _fields(content):
        if field == 7:  # graph
            _admit_graph(artifact, value)
        elif field == 8:  # opset_import
            _admit_operators(artifact, value)
        elif field in (20, 25):  # training_info, functions
            _refuse(artifact, "functions of its own")


def _admit_operators(artifact: Artifact, entry: memoryview) -> None:
    """OpenVINO looks for an operator in all versions down from the one that is named."""
    domain = _text(entry, 1)
    if domain not in DOMAINS:
        _refuse(artifact, f"operators of the domain '{domain.decode(errors='replace'):.80}'")
    for field, value in _fields(entry):
        if field == 2 and len(value) and _varint(value, 0)[0] > MAX_OPSET:
            _refuse(artifact, f"operators of version {_varint(value, 0)[0]}")


def _admit_graph(artifact: Artifact, graph: memoryview) -> None:
    for field, value in _fields(graph):
        if field == 1:  # node
            _admit_node(artifact, value)
        elif field == 5:  # initializer
            _admit_tensor(artifact, value)
        elif field == 15:  # sparse_initializer
            _refuse(artifact, "sparse weights")


def _admit_node(artifact: Artifact, node: memoryview) -> None:
    for field, value in _fields(node):
        if field == 7 and bytes(value) not in DOMAINS:
            domain = bytes(value).decode(errors="replace")
            _refuse(artifact, f"an operator of the domain '{domain:.80}'")
        for part, content in _fields(value) if field == 5 else ():  # attribute
            if part in (6, 11):  # g, graphs
                _refuse(artifact, f"a graph within '{_text(node, 4).decode(errors='replace'):.80}'")
            elif part in (22, 23):  # sparse_tensor, sparse_tensors
                _refuse(artifact, "sparse weights")
            elif part in (5, 10):  # t, tensors
                _admit_tensor(artifact, content)


def _admit_tensor(artifact: Artifact, tensor: memoryview) -> None:
    if any(field in (13, 14) and value for field, value in _fields(tensor)):
        _refuse(artifact, "weights in another file")  # external_data, data_location


def _text(message: memoryview, wanted: int) -> bytes:
    return next((bytes(value) for field, value in _fields(message) if field == wanted), b"")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Fields of a Protocol Buffers message: their numbers, and their bytes. A number that is 0 has
    none, like a field that is not there."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind, start = tag & 7, at
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, message[start:at] if value else message[:0]
            continue
        size, start = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        at = start + size
        if at > end:
            raise ValueError("a field is longer than the message")
        yield tag >> 3, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")


def _admit_openvino(artifact: Artifact, content: bytes) -> None:
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag != "layer":
            return
        kind, operators = attributes.get("type", ""), attributes.get("version", "")
        if kind in REPEATING:
            _refuse(artifact, f"a graph within '{kind}'")
        if not re.fullmatch(r"opset[0-9]+", operators):
            _refuse(artifact, f"an operator of the set '{operators:.80}'")

    def declare(*_: object) -> None:
        _refuse(artifact, "a document type")  # whose entities can name other files, or grow

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = declare
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
