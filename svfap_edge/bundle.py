"""The bundle: a folder with a model's artifacts and `manifest.json`, the only truth about them.

A bundle is checked before any engine sees its bytes. Writing one is atomic: it appears complete,
by a rename, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .clip import ClipSpec
from .errors import BundleError, TaskError
from .facts import NEEDS, PROVENANCE, QUALITY, QUANTIZATION, TEXTS, misfit
from .tasks import Task

FORMAT = 1
MANIFEST = "manifest.json"
DEFAULT_BUNDLE = Path(__file__).parent / "models" / "lite-faces"
"""The model that ships with the package."""

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
    """What `manifest.json` says. See docs/bundle.md for the file format."""

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


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


class Bundle:
    """A verified bundle on disk.

    >>> bundle = Bundle.open(DEFAULT_BUNDLE)
    >>> bundle.path_of("fp32.onnx").name
    'fp32.onnx'
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None) -> Bundle:
        """Read and check the manifest; without a path, that of the model in the package.

        The digest of an artifact is checked when it is asked for, by `verify`.

        Raises:
            BundleError: no bundle there, or a manifest that is damaged, of a newer format, or
                that names files outside the folder.
        """
        folder = Path(path) if path is not None else DEFAULT_BUNDLE
        file = folder / MANIFEST
        if not file.is_file():
            raise BundleError(
                f"No bundle at '{folder}': it has no {MANIFEST}. "
                "Make one with: svfap-edge export CHECKPOINT --task TASK -o DIR"
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            # "\ud800" is JSON, but no text: it could be neither printed nor written.
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        except (ValueError, OSError, RecursionError) as error:
            raise BundleError(
                f"'{file}' is not readable JSON ({error}). Export the bundle again."
            ) from error
        return cls(folder, parse_manifest(content, str(file)))

    def artifact(self, name: str) -> Artifact:
        """Raises BundleError with the list of artifacts if there is none of that name."""
        if name not in self.manifest.artifacts:
            raise BundleError(
                f"Bundle '{self.path}' has no artifact '{name}'. "
                f"It has: {', '.join(self.manifest.artifacts)}."
            )
        return self.manifest.artifacts[name]

    def path_of(self, name: str) -> Path:
        """The file of an artifact to open first, not verified."""
        return self.path / self.artifact(name).files[0].file

    def verify(self, name: str) -> Path:
        """Check size and digest of every file of an artifact; return the one to open.

        Raises:
            BundleError: a file is missing, truncated or altered.
        """
        for entry in self.artifact(name).files:
            path = self.path / entry.file
            root = self.path.resolve()
            if not os.path.isfile(path):
                raise BundleError(
                    f"Bundle '{self.path}': file '{entry.file}' of artifact '{name}' is missing. "
                    "Copy the whole folder again, or export it again."
                )
            if root not in path.resolve().parents:
                raise BundleError(
                    f"Bundle '{self.path}': '{entry.file}' is a link that leaves the folder."
                )
            size = path.stat().st_size
            if size != entry.bytes:
                raise BundleError(
                    f"Bundle '{self.path}': '{entry.file}' has {size} bytes, the manifest says "
                    f"{entry.bytes}. The copy is incomplete; copy or export it again."
                )
            found = digest(path)
            if found != entry.sha256:
                raise BundleError(
                    f"Bundle '{self.path}': '{entry.file}' was altered (SHA-256 {found[:12]}..., "
                    f"the manifest says {entry.sha256[:12]}...). Copy or export it again."
                )
        return self.path_of(name)


def record_quality(bundle: Bundle, measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Add measured figures to the manifest's `quality`, by artifact; the file is replaced whole.

    Raises:
        BundleError: no such artifact.
    """
    for name, figures in measured.items():
        bundle.artifact(name)
        bundle.manifest.quality[name] = {**bundle.manifest.quality.get(name, {}), **figures}
    with tempfile.TemporaryDirectory(prefix=".record-", dir=bundle.path) as scratch:
        write_manifest(Path(scratch), bundle.manifest)
        (Path(scratch) / MANIFEST).replace(bundle.path / MANIFEST)


def parse_manifest(content: Any, where: str = MANIFEST) -> Manifest:
    """Check every field of a manifest.

    Raises:
        BundleError: naming the field, what it should be and what it is.
    """

    def fail(problem: str) -> BundleError:
        return BundleError(f"'{where}': {problem}")

    def get(mapping: Any, key: str, kind: type | tuple[type, ...], place: str = "") -> Any:
        name = f"{place}{key}"
        if not isinstance(mapping, Mapping) or key not in mapping:
            raise fail(f"'{name}' is missing.")
        value = mapping[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise fail(f"'{name}' has the wrong type: {value!r:.80}.")
        return value

    def number(mapping: Any, key: str, low: float, high: float, place: str) -> float:
        value = get(mapping, key, (int, float), place)
        if not low <= value <= high:  # NaN is in no range
            raise fail(f"'{place}{key}' must be in {low:g}..{high:g}; it is {value!r:.80}.")
        return float(value)

    def whole(mapping: Any, key: str, low: int, high: int, place: str) -> int:
        value = get(mapping, key, int, place)
        if not low <= value <= high:
            raise fail(f"'{place}{key}' must be in {low}..{high}; it is {value!r:.80}.")
        return int(value)

    def fitting(mapping: Any, key: str, shape: dict[str, Any], place: str = "") -> dict[str, Any]:
        found = get(mapping, key, dict, place)
        problem = misfit(found, shape, f"{place}{key}")
        if problem:
            raise fail(problem)
        return dict(found)

    def section(key: str, shape: dict[str, Any]) -> dict[str, Any]:
        return fitting(content, key, shape) if key in content else {}

    version = get(content, "format", int)
    if version != FORMAT:
        hint = "Upgrade svfap-edge." if version > FORMAT else "Export it again."
        raise fail(f"bundle format {version!r:.80}; this version reads format {FORMAT}. {hint}")

    clip = get(content, "clip", dict)
    spec = ClipSpec(
        frames=whole(clip, "frames", 1, 1024, "clip."),
        span_s=number(clip, "span_s", 1e-3, 3600, "clip."),
        size=whole(clip, "size", 8, 4096, "clip."),
    )
    task = _parse_task(get(content, "task", dict), fail, get, number, whole)
    crop = get(content, "crop", dict)
    margin = number(crop, "margin", -0.5, 4, "crop.")

    artifacts: dict[str, Artifact] = {}
    for position, entry in enumerate(get(content, "artifacts", list)):
        place = f"artifacts[{position}]."
        name = get(entry, "name", str, place)
        if name in artifacts:
            raise fail(f"artifact '{name}' is listed twice.")
        if name.partition(".")[2] not in FORMATS or not name.partition(".")[0]:
            raise fail(
                f"'{place}name' must be <precision>.<{'|'.join(FORMATS)}>; it is {name!r:.80}."
            )
        files = tuple(
            ArtifactFile(
                file=_inside(get(file, "file", str, place + "files."), fail),
                sha256=get(file, "sha256", str, place + "files."),
                bytes=whole(file, "bytes", 1, 1 << 40, place + "files."),
            )
            for file in get(entry, "files", list, place)
        )
        if not files:
            raise fail(f"artifact '{name}' lists no files.")
        built_by = fitting(entry, "built_by", TEXTS, place)
        needs = fitting(entry, "needs", NEEDS, place)
        artifacts[name] = Artifact(name, files, built_by, needs)
    if not artifacts:
        raise fail("it lists no artifacts.")
    return Manifest(
        name=get(content, "name", str),
        task=task,
        clip=spec,
        margin=margin,
        artifacts=artifacts,
        features=whole(content, "features", 0, 1 << 20, "") if "features" in content else 0,
        provenance=section("provenance", PROVENANCE),
        quantization=section("quantization", QUANTIZATION),
        quality=section("quality", QUALITY),
    )


def _parse_task(entry: Any, fail: Any, get: Any, number: Any, whole: Any) -> Task:
    fields: dict[str, Any] = {
        "name": get(entry, "name", str, "task."),
        "kind": get(entry, "kind", str, "task."),
        "labels": tuple(get(entry, "labels", list, "task.")),
    }
    if not all(isinstance(label, str) for label in fields["labels"]):
        raise fail("'task.labels' must be a list of strings.")
    for key in ("low", "high"):
        if key in entry:
            fields[key] = number(entry, key, -1e9, 1e9, "task.")
    if "stride" in entry:
        fields["stride"] = whole(entry, "stride", 1, 10_000, "task.")
    if "metrics" in entry:
        fields["metrics"] = tuple(str(m) for m in get(entry, "metrics", list, "task."))
    if "order_certain" in entry:
        fields["order_certain"] = get(entry, "order_certain", bool, "task.")
    if "note" in entry:
        fields["note"] = get(entry, "note", str, "task.")
    try:
        return Task(**fields)
    except TaskError as error:
        raise fail(str(error)) from error


def _inside(name: str, fail: Any) -> str:
    """A file name that stays in the bundle: relative, no '..', no backslash, no drive."""
    path = PurePosixPath(name)
    bad = path.is_absolute() or ".." in path.parts or not path.parts
    if bad or any(c in name for c in "\\:\0") or name == MANIFEST:
        raise fail(
            f"file name {name!r:.80} is not a plain path inside the bundle. "
            "The manifest was tampered with or written by another tool; do not use it."
        )
    return name


@contextmanager
def writing(target: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A scratch folder that becomes `target` when the block ends well, and vanishes otherwise.

    Args:
        target: The folder to make.
        replace: Allow an existing bundle there; it stays untouched until the new one is complete.

    Raises:
        BundleError: `target` exists and is not to be replaced, or is not a bundle.
    """
    final = Path(target)
    check_target(final, replace=replace)
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if final.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{final.name}.old-", dir=final.parent))
            final.rename(old / "bundle")
            try:
                scratch.rename(final)
            except OSError:
                (old / "bundle").rename(final)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            scratch.rename(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_target(final: Path, *, replace: bool) -> None:
    """Raises BundleError if a bundle cannot be written to `final`."""
    if final.is_dir() and not any(final.iterdir()):
        return
    if final.exists() and not replace:
        raise BundleError(
            f"'{final}' exists. Choose another folder, or replace it with --overwrite."
        )
    if final.exists() and not (final / MANIFEST).is_file():
        raise BundleError(f"'{final}' exists and is not a bundle; it is not overwritten.")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, after reading it back through the same checks a loader does."""
    content = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False)
    parse_manifest(json.loads(content))
    (folder / MANIFEST).write_text(content + "\n", encoding="utf-8")


def describe_file(path: Path) -> ArtifactFile:
    """The manifest entry of a file in the bundle being written."""
    return ArtifactFile(path.name, digest(path), path.stat().st_size)
