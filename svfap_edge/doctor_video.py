"""What brings frames and finds faces: OpenCV and the detectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from .cache import FACE_MODEL_NAME, cache_root
from .doctor_check import Answer, Check, one_line
from .errors import SvfapError

FACE_MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
"""Of YuNet's file in OpenCV Zoo, March 2023."""


def check_opencv(answer: Answer) -> Iterator[Check]:
    if isinstance(answer, SvfapError):
        advice = (
            'Install it again: pip install --force-reinstall "opencv-python>=4.10,<5"; on a '
            "machine without libGL, opencv-python-headless instead."
        )
        yield Check("video", "opencv", "broken", one_line(str(answer)), advice)
        return
    yield Check("video", "opencv", "ok", f"{answer['version']} ({answer['file']})")
    uses = {
        "FFmpeg": ("video files and streams", "Install opencv-python from PyPI, which has it."),
        "GStreamer": (
            "GStreamer pipelines",
            "Only if you need pipelines: use an OpenCV built with GStreamer, such as the "
            "system's on Jetson; PyPI's has none.",
        ),
        "V4L": ("cameras on Linux", "Only if you need cameras: use an OpenCV built with V4L."),
    }
    for name, (use, advice) in uses.items():
        if answer[name]:
            yield Check("video", name, "ok", f"built in, for {use}")
        else:
            yield Check("video", name, "missing", f"not built in: no {use}", advice)


def check_detectors(answer: Answer, face_model: Path | None) -> Iterator[Check]:
    facts = answer if isinstance(answer, dict) else {}
    haar = facts.get("haar", "not tried without OpenCV")
    if face_model is None:
        where = f"copy it to {cache_root() or 'the cache folder'}, or set SVFAP_EDGE_FACE_MODEL"
        yield Check(
            "video", "yunet", "missing", "no file, so that the Haar cascade finds the faces",
            f"Better faces: get {FACE_MODEL_NAME} from OpenCV Zoo and {where}.",
        )  # fmt: skip
    else:
        yield _yunet(face_model, facts.get("yunet", "not tried without OpenCV"))
    if haar:
        yield Check("video", "haar", "missing", one_line(haar), "Use YuNet, or --detector none.")
    else:
        yield Check("video", "haar", "ok", "OpenCV's frontal-face cascade")


def _yunet(path: Path, problem: str) -> Check:
    again = f"Copy {FACE_MODEL_NAME} from OpenCV Zoo again."
    if problem:
        return Check("video", "yunet", "broken", one_line(problem), again)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != FACE_MODEL_SHA256:
        fact = f"{path} works, but is another file (SHA-256 {found[:12]}...) than was tested"
        return Check("video", "yunet", "note", fact, again)
    return Check("video", "yunet", "ok", str(path))
