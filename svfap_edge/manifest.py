"""What `manifest.json` says, and the check of every field of it. The format: docs/bundle.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from .clip import ClipSpec
from .errors import BundleError, TaskError
from .tasks import Task

FORMAT = 1
MANIFEST = "manifest.json"
FORMATS = ("onnx", "openvino", "tensorrt")
"""What an artifact can be: the part of its name after the dot."""


@dataclass(frozen=True)
class ArtifactFile:
    """One file of an artifact, relative to the bundle."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Artifact:
    """One runnable form of the model, named `<precision>.<format>`.

    Attributes:
        name: For example "fp32.onnx", "int8.openvino", "fp16.tensorrt".
        files: Its files, the one to open first.
        built_by: Versions of the tools that made it.
        needs: What the machine must have, for example {"opset": 20} or a compute capability.
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
    """A bundle's model, and its artifacts by name."""

    name: str
    task: Task
    clip: ClipSpec
    margin: float
    artifacts: dict[str, Artifact]
    features: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "task": self.task.to_dict(),
            "clip": {
                "frames": self.clip.frames,
                "span_s": self.clip.span_s,
                "size": self.clip.size,
            },
            "crop": {"margin": self.margin},
            "features": self.features,
            "artifacts": [
                {
                    "name": artifact.name,
                    "precision": artifact.precision,
                    "engine": artifact.format,
                    "files": [vars(file) for file in artifact.files],
                    "built_by": artifact.built_by,
                    "needs": artifact.needs,
                }
                for artifact in self.artifacts.values()
            ],
            "provenance": self.provenance,
            "quantization": self.quantization,
            "quality": self.quality,
        }


def parse_manifest(content: Any, where: str = MANIFEST) -> Manifest:
    """Check every field of a manifest.

    Raises:
        BundleError: naming the field, what it should be and what it is.
    """
    fields = _Fields(where)
    version = fields.get(content, "format", int)
    if version != FORMAT:
        hint = "Upgrade svfap-edge." if version > FORMAT else "Export it again."
        raise fields.error(
            f"bundle format {version!r:.80}; this version reads format {FORMAT}. {hint}"
        )
    clip = fields.get(content, "clip", dict)
    spec = ClipSpec(
        frames=fields.whole(clip, "frames", 1, 1024, "clip."),
        span_s=fields.number(clip, "span_s", 1e-3, 3600, "clip."),
        size=fields.whole(clip, "size", 8, 4096, "clip."),
    )
    return Manifest(
        task=_task(fields, fields.get(content, "task", dict)),
        clip=spec,
        margin=fields.number(fields.get(content, "crop", dict), "margin", -0.5, 4, "crop."),
        artifacts=_artifacts(fields, fields.get(content, "artifacts", list)),
        name=fields.get(content, "name", str),
        features=fields.whole(content, "features", 0, 1 << 20) if "features" in content else 0,
        provenance=fields.section(content, "provenance", PROVENANCE),
        quantization=fields.section(content, "quantization", QUANTIZATION),
        quality=fields.section(content, "quality", QUALITY),
    )


class _Fields:
    """Reads fields of a manifest; what is missing or wrong is a BundleError that names it."""

    def __init__(self, where: str) -> None:
        self._where = where

    def error(self, problem: str) -> BundleError:
        return BundleError(f"'{self._where}': {problem}")

    def get(self, mapping: Any, key: str, kind: type | tuple[type, ...], place: str = "") -> Any:
        name = f"{place}{key}"
        if not isinstance(mapping, Mapping) or key not in mapping:
            raise self.error(f"'{name}' is missing.")
        value = mapping[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(f"'{name}' has the wrong type: {value!r:.80}.")
        return value

    def number(self, mapping: Any, key: str, low: float, high: float, place: str = "") -> float:
        value = self.get(mapping, key, (int, float), place)
        if not low <= value <= high:  # NaN is in no range
            raise self.error(f"'{place}{key}' must be in {low:g}..{high:g}; it is {value!r:.80}.")
        return float(value)

    def whole(self, mapping: Any, key: str, low: int, high: int, place: str = "") -> int:
        value = self.get(mapping, key, int, place)
        if not low <= value <= high:
            raise self.error(f"'{place}{key}' must be in {low}..{high}; it is {value!r:.80}.")
        return int(value)

    def fitting(
        self, mapping: Any, key: str, shape: dict[str, Any], place: str = ""
    ) -> dict[str, Any]:
        """An object of a shape; see `misfit`."""
        found = self.get(mapping, key, dict, place)
        problem = misfit(found, shape, f"{place}{key}")
        if problem:
            raise self.error(problem)
        return dict(found)

    def section(self, content: Any, key: str, shape: dict[str, Any]) -> dict[str, Any]:
        """The same, and empty where it is not there."""
        return self.fitting(content, key, shape) if key in content else {}


def _task(fields: _Fields, entry: Any) -> Task:
    found: dict[str, Any] = {
        "name": fields.get(entry, "name", str, "task."),
        "kind": fields.get(entry, "kind", str, "task."),
        "labels": tuple(fields.get(entry, "labels", list, "task.")),
    }
    if not all(isinstance(label, str) for label in found["labels"]):
        raise fields.error("'task.labels' must be a list of strings.")
    for key in ("low", "high"):
        if key in entry:
            found[key] = fields.number(entry, key, -1e9, 1e9, "task.")
    if "stride" in entry:
        found["stride"] = fields.whole(entry, "stride", 1, 10_000, "task.")
    if "metrics" in entry:
        found["metrics"] = tuple(str(m) for m in fields.get(entry, "metrics", list, "task."))
    if "order_certain" in entry:
        found["order_certain"] = fields.get(entry, "order_certain", bool, "task.")
    if "note" in entry:
        found["note"] = fields.get(entry, "note", str, "task.")
    try:
        return Task(**found)
    except TaskError as error:
        raise fields.error(str(error)) from error


def _artifacts(fields: _Fields, entries: list[Any]) -> dict[str, Artifact]:
    artifacts: dict[str, Artifact] = {}
    for position, entry in enumerate(entries):
        artifact = _artifact(fields, entry, f"artifacts[{position}].")
        if artifact.name in artifacts:
            raise fields.error(f"artifact '{artifact.name}' is listed twice.")
        artifacts[artifact.name] = artifact
    if not artifacts:
        raise fields.error("it lists no artifacts.")
    return artifacts


def _artifact(fields: _Fields, entry: Any, place: str) -> Artifact:
    name = fields.get(entry, "name", str, place)
    precision, _, form = name.partition(".")
    if form not in FORMATS or not precision:
        raise fields.error(
            f"'{place}name' must be <precision>.<{'|'.join(FORMATS)}>; it is {name!r:.80}."
        )
    files = tuple(
        ArtifactFile(
            file=_inside(fields, fields.get(file, "file", str, place + "files.")),
            sha256=fields.get(file, "sha256", str, place + "files."),
            bytes=fields.whole(file, "bytes", 1, 1 << 40, place + "files."),
        )
        for file in fields.get(entry, "files", list, place)
    )
    if not files:
        raise fields.error(f"artifact '{name}' lists no files.")
    built_by = fields.fitting(entry, "built_by", TEXTS, place)
    return Artifact(name, files, built_by, fields.fitting(entry, "needs", NEEDS, place))


def _inside(fields: _Fields, name: str) -> str:
    """A file name that stays in the bundle: relative, no '..', no backslash, no drive."""
    path = PurePosixPath(name)
    bad = path.is_absolute() or ".." in path.parts or not path.parts
    if bad or any(c in name for c in "\\:\0") or name == MANIFEST:
        raise fields.error(
            f"file name {name!r:.80} is not a plain path inside the bundle. "
            "The manifest was tampered with or written by another tool; do not use it."
        )
    return name


ANY = "*"
"""Key of a shape that stands for every key."""


MAX_TEXT = 1000


NUMBER, WHOLE, TEXT = "a number", "a whole number", f"text of at most {MAX_TEXT} characters"


TEXTS: dict[str, Any] = {ANY: TEXT}


NEEDS: dict[str, Any] = {
    "flavour": TEXT,
    "tensorrt": TEXT,
    "os": TEXT,
    "machine": TEXT,
    "compute_capability": [TEXT],
}


PROVENANCE: dict[str, Any] = {"parameters": NUMBER}


QUANTIZATION: dict[str, Any] = {"files": [TEXT]}


QUALITY: dict[str, Any] = {
    ANY: {
        "layers": {ANY: WHOLE},
        "parity": {ANY: {"max_abs!": NUMBER, "clips!": WHOLE}},
        "measured": {ANY: NUMBER},
    }
}


def misfit(value: Any, shape: Any, place: str) -> str | None:
    """What of `value` does not have the shape, by its place; None if all has.

    A shape is NUMBER, WHOLE, TEXT, a list with the shape of every entry, or a dict with the shapes
    of some keys; a key that ends in "!" has to be there. Other keys may hold anything.
    """
    if isinstance(shape, dict):
        return _misfit_object(value, shape, place)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"'{place}' must be a list; it is {value!r:.80}."
        found = (misfit(entry, shape[0], f"{place}[{i}]") for i, entry in enumerate(value))
        return next(filter(None, found), None)
    return None if _is_plain(value, shape) else f"'{place}' must be {shape}; it is {value!r:.80}."


def _misfit_object(value: Any, shape: dict[str, Any], place: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"'{place}' must be an object; it is {value!r:.80}."
    for key in (key[:-1] for key in shape if key.endswith("!")):
        if key not in value:
            return f"'{place}.{key}' is missing."
    for key, entry in value.items():
        inner = next((shape[k] for k in (key, f"{key}!", ANY) if k in shape), None)
        problem = misfit(entry, inner, f"{place}.{key:.80}") if inner is not None else None
        if problem:
            return problem
    return None


def _is_plain(value: Any, shape: str) -> bool:
    if shape == TEXT:
        return isinstance(value, str) and len(value) <= MAX_TEXT
    if isinstance(value, bool) or not isinstance(value, int if shape == WHOLE else (int, float)):
        return False
    return isinstance(value, float) or abs(value) < 1 << 63
