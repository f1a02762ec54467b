"""What `manifest.json` says, and the check of every field of it. The format: docs/bundle.md."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, TypedDict

from msgspec import Meta, Struct

from .clip import ClipSpec
from .errors import BundleError, TaskError
from .schema import Number, Text, Whole, fitted
from .tasks import Task

FORMAT = 1
MANIFEST = "manifest.json"
MAX_CLIP_BYTES = 1 << 28
"""Size of the largest clip that a model may read: what it asks for in memory many times over."""

FORMATS = ("onnx", "openvino", "tensorrt")
"""What an artifact can be: the part of its name after the dot."""


@dataclass(frozen=True)
class ArtifactFile:
    """One file of an artifact: its path in the bundle, its digest and its size in bytes."""

    file: str
    sha256: str
    bytes: Annotated[int, Meta(ge=1, le=1 << 40)]


@dataclass(frozen=True)
class Artifact:
    """One runnable form of the model, named `<precision>.<format>`.

    Attributes:
        name: Name like "fp32.onnx", "int8.openvino" or "fp16.tensorrt".
        files: Files of the artifact; the first one is the one to open.
        built_by: Versions of the tools that made it, by name of the tool.
        needs: Requirements on the machine, like {"opset": 20} or a compute capability.
    """

    name: str
    files: tuple[ArtifactFile, ...]
    built_by: dict[str, str] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        return self.name.partition(".")[0]

    @property
    def format(self) -> str:
        return self.name.partition(".")[2]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True)
class Manifest:
    """Description of a bundle's model, and its artifacts by name.

    Attributes:
        name: Name of the bundle.
        task: Task that the model was trained for.
        clip: Geometry of the clip that the model reads.
        margin: Share of the face box's longer side by which the cropped square is larger.
        artifacts: Runnable forms of the model, by name.
        checks: The file of check clips, see `svfap_edge.checks`; None if there is none.
        weights: The file of the weights that the artifacts were made of, in half precision, for
            fine-tuning; None if there is none.
        features: Width of the feature output; 0 if there is none.
        provenance: Checkpoint, tool versions and date of the export.
        quantization: Scheme, calibration files and float layers of the INT8 artifacts.
        quality: Parity, layers and measured figures, by name of the artifact.
    """

    name: str
    task: Task
    clip: ClipSpec
    margin: float
    artifacts: dict[str, Artifact]
    features: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    checks: ArtifactFile | None = None
    weights: ArtifactFile | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "task": self.task.to_dict(),
            "clip": asdict(self.clip),
            "crop": {"margin": self.margin},
            "features": self.features,
            "artifacts": [
                {"name": name, "precision": each.precision, "engine": each.format, **asdict(each)}
                for name, each in self.artifacts.items()
            ],
            **{
                name: asdict(file)
                for name, file in (("checks", self.checks), ("weights", self.weights))
                if file is not None
            },
            "provenance": self.provenance,
            "quantization": self.quantization,
            "quality": self.quality,
        }


def parse_manifest(content: Any, where: str = MANIFEST) -> Manifest:
    """Check every field of a manifest; BundleError names the field, what it should be and what it
    is."""

    def error(problem: str) -> BundleError:
        return BundleError(f"'{where}': {problem}")

    version = fitted(content, _Version, error).format
    if version != FORMAT:
        hint = "Upgrade svfap-edge." if version > FORMAT else "Export it again."
        raise error(f"bundle format {version!r:.80}; this version reads format {FORMAT}. {hint}")
    try:
        found = fitted(content, _Content, error)
    except TaskError as problem:
        raise error(str(problem)) from problem
    if (size := math.prod(found.clip.shape)) > MAX_CLIP_BYTES:
        raise error(
            f"a clip of {found.clip.frames} frames of {found.clip.size} px has {size / 1e6:.0f} MB;"
            f" at most {MAX_CLIP_BYTES / 1e6:.0f} MB are taken."
        )
    artifacts: dict[str, Artifact] = {}
    for entry, raw in zip(found.artifacts, content["artifacts"], strict=True):
        if entry.name in artifacts:
            raise error(f"artifact '{entry.name}' is listed twice.")
        artifacts[entry.name] = Artifact(
            entry.name, entry.files, entry.built_by, dict(raw["needs"])
        )
    return Manifest(
        name=found.name,
        task=found.task,
        clip=found.clip,
        margin=found.crop.margin,
        artifacts=artifacts,
        features=found.features,
        checks=found.checks,
        weights=found.weights,
        **{name: dict(content.get(name, {})) for name in ("provenance", "quantization", "quality")},
    )


# What `manifest.json` has to hold. The `TypedDict`s check some keys and let others hold anything.


class _Version(Struct):
    format: int


class _Crop(Struct):
    margin: Annotated[float, Meta(ge=-0.5, le=4)]


class _Needs(TypedDict, total=False):
    flavour: Text
    tensorrt: Text
    os: Text
    machine: Text
    compute_capability: list[Text]


class _Artifact(Struct):
    name: str
    files: tuple[ArtifactFile, ...]
    built_by: dict[str, Text]
    needs: _Needs

    def __post_init__(self) -> None:
        precision, _, form = self.name.partition(".")
        if form not in FORMATS or not precision:
            raise ValueError(
                f"its name must be <precision>.<{'|'.join(FORMATS)}>; got {self.name!r:.80}."
            )
        if not self.files:
            raise ValueError(f"artifact '{self.name}' lists no files.")
        for file in self.files:
            _check_inside(file.file)


class _Provenance(TypedDict, total=False):
    parameters: Number


class _Quantization(TypedDict, total=False):
    files: list[Text]


class _Parity(TypedDict):
    max_abs: Number
    clips: Whole


class _Quality(TypedDict, total=False):
    layers: dict[str, Whole]
    parity: dict[str, _Parity]
    measured: dict[str, Number]


class _Content(Struct):
    name: str
    task: Task
    clip: ClipSpec
    crop: _Crop
    artifacts: list[_Artifact]
    features: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    provenance: _Provenance = {}
    quantization: _Quantization = {}
    quality: dict[str, _Quality] = {}
    checks: ArtifactFile | None = None
    weights: ArtifactFile | None = None

    def __post_init__(self) -> None:
        for file in (self.checks, self.weights):
            if file is not None:
                _check_inside(file.file)
        if not self.artifacts:
            raise ValueError("it lists no artifacts.")


def _check_inside(name: str) -> None:
    """Refuse a file name that could leave the bundle: absolute, '..', a backslash, a drive."""
    path = PurePosixPath(name)
    bad = path.is_absolute() or ".." in path.parts or not path.parts
    if bad or any(c in name for c in "\\:\0") or name == MANIFEST:
        raise ValueError(
            f"file name {name!r:.80} is not a plain path inside the bundle. "
            "The manifest was tampered with or written by another tool; do not use it."
        )
