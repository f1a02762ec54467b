"""Shared fixtures: tiny bundles made on the spot, and the data that may lie beside the checkout."""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.machine import cpu_flags, int8_saturates

from . import models

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("SVFAP_EDGE_TEST_DATA", ROOT.parent / "shared"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SVFAP_EDGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("SVFAP_EDGE_FACE_MODEL", None)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a tiny TPSBT with random weights: 8 frames of 32 px over 0.8 s, 4 classes."""
    return models.tiny_bundle(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def _needs(path: Path, what: str) -> Path:
    if not path.exists():
        pytest.skip(f"{what} are not beside the checkout (set SVFAP_EDGE_TEST_DATA)")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    return _needs(SHARED / "golden", "the reference outputs")


@pytest.fixture(scope="session")
def videos() -> Path:
    return _needs(SHARED / "data" / "videos", "the real videos")


@pytest.fixture(scope="session")
def faces() -> Path:
    return _needs(SHARED / "data" / "faces", "the face photographs")


@pytest.fixture(scope="session")
def yunet() -> Path:
    model = SHARED / "data" / "models" / "face_detection_yunet_2023mar.onnx"
    return _needs(model, "the YuNet weights")


@pytest.fixture(scope="session")
def exact_int8() -> None:
    """Skips where INT8 gives other results than the arithmetic of the graph."""
    if int8_saturates(cpu_flags(), platform.machine()):
        pytest.skip("without VNNI this processor adds products of INT8 in 16 bits, and saturates")


def skip_if_ignored(number: int) -> None:
    """Skip where the signal cannot reach this process or its children."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("a background job ignores Ctrl-C, and so do its children")


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of grey noise: a video without a face."""
    path = tmp_path_factory.mktemp("v") / "noise.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (160, 120))
    random = np.random.default_rng(0)
    for _ in range(50):
        writer.write(random.integers(90, 110, (120, 160, 3), dtype=np.uint8))
    writer.release()
    return path
