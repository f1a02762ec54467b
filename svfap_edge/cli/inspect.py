"""`svfap-edge inspect`: what a bundle or checkpoint holds."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from svfap_edge.errors import SourceError, SvfapError

from .console import console, print_json, reporting, requiring, table, warn
from .options import Depths, Heads, Json, RequireSignature, Weights, WhichWeights

PLAIN = (type(None), bool, int, float, str)
"""Types of a checkpoint's own settings that are shown."""


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of a bundle, lite-faces, or file of a checkpoint (.pth, .safetensors)."
        ),
    ],
    heads: Heads = None,
    depths: Depths = None,
    weights: WhichWeights = Weights.auto,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Verify a bundle or checkpoint and show its content."""
    with reporting(as_json):
        if os.path.isfile(path):
            _show_checkpoint(
                path, {"weights": weights.value, **geometry(heads=heads, depths=depths)}, as_json
            )
        else:
            from svfap_edge.bundle import find_bundle

            folder = find_bundle(path)
            if not os.path.exists(folder):
                raise SourceError(
                    f"No file or folder '{path}'. Expected the folder of a bundle, or a checkpoint."
                )
            show_bundle(folder, as_json, require_signature)


def show_bundle(path: Path, as_json: bool, require_signature: Path | None = None) -> None:
    from svfap_edge.bundle import Bundle
    from svfap_edge.runtimes.choice import available_engines, obstacle

    bundle = Bundle.open(path, require_signature=require_signature)
    bundle.verify_all()
    manifest = bundle.manifest
    if as_json:
        print_json({"path": path, **manifest.to_json()})
        return
    out = console(stderr=False)
    task, clip = manifest.task, manifest.clip
    out.print(f"bundle    {path} ({manifest.name})")
    if bundle.signed_by is not None:
        out.print(f"signed    by {bundle.signed_by}")
    certain = "" if task.order_certain else "  (order assumed)"
    out.print(f"task      {task.name}, {task.kind}: {', '.join(task.labels)}{certain}")
    out.print(
        f"clip      {clip.frames} frames of {clip.size} px over {clip.span_s:.2f} s "
        f"(one every {clip.spacing_s * 1e3:.0f} ms), face box +{manifest.margin:.0%}"
    )
    made = manifest.provenance
    if made:
        out.print(
            f"model     {made.get('parameters', 0) / 1e6:.1f} M parameters, from "
            f"{made.get('checkpoint')} ({str(made.get('checkpoint_sha256'))[:12]}), "
            f"{made.get('created')}"
        )
    if manifest.weights is not None:
        out.print(f"weights   {manifest.weights.file}, in half precision, to fine-tune from")
    rows = table("artifact", "MB")
    for heading in ("runs here on", "made by", "SHA-256"):
        rows.add_column(heading)
    for artifact in manifest.artifacts.values():
        able = available_engines(artifact.format)
        here = [engine for engine in able if obstacle(artifact, engine) is None]
        none = "not this machine" if able else "nothing installed"
        tools = ", ".join(f"{tool} {number}" for tool, number in artifact.built_by.items())
        rows.add_row(
            artifact.name,
            f"{artifact.bytes / 1e6:.1f}",
            ", ".join(here) or none,
            tools,
            artifact.files[0].sha256[:12],
        )
    out.print(rows)
    if "float_cost" in manifest.quantization:
        out.print(f"int8      {manifest.quantization['float_cost']}")
    for name, quality in manifest.quality.items():
        if "layers" in quality:
            counts = ", ".join(f"{n} {kind}" for kind, n in sorted(quality["layers"].items()))
            out.print(f"layers    {name}: {counts}")
        for engine, parity in quality.get("parity", {}).items():
            out.print(
                f"checked   {name} on {engine}: max abs difference of logits "
                f"{parity['max_abs']:.1e} on {parity['clips']} {quality.get('clips', '')} clips"
            )
        if "measured" in quality:
            figures = ", ".join(f"{k} {v:.3f}" for k, v in quality["measured"].items())
            out.print(f"measured  {name}: {figures} on {quality.get('data', '?')}")


def _show_checkpoint(path: Path, changes: dict[str, Any], as_json: bool) -> None:
    with requiring("export", "Opening a checkpoint"):
        from svfap_edge.training.checkpoint import load_checkpoint
    loaded = load_checkpoint(path, **changes)
    config = loaded.model.config
    content = {
        "path": path,
        "kind": loaded.kind,
        "parameters": loaded.parameters,
        "config": config.to_dict(),
        **({"epoch": loaded.info["epoch"]} if "epoch" in loaded.info else {}),
        **({"task": loaded.info["task"].to_dict()} if "task" in loaded.info else {}),
        **({"assumed": loaded.assumed} if loaded.assumed else {}),
        "args": {k: v for k, v in loaded.info.get("args", {}).items() if isinstance(v, PLAIN)},
    }
    if as_json:
        print_json(content)
        return
    out = console(stderr=False)
    out.print(f"checkpoint  {path}: {loaded.kind}, {loaded.parameters / 1e6:.1f} M parameters")
    out.print(
        f"model       TPSBT, {config.frames} frames of {config.size} px, width {config.width}, "
        f"{config.heads} heads, stages {'-'.join(map(str, config.depths))}"
    )
    task = loaded.info.get("task")
    if task is None:
        out.print(f"outputs     {config.outputs}")
    else:
        out.print(f"task        {task.name}, {task.kind}: {', '.join(task.labels)}")
    if loaded.info["weights"] not in ("", "model"):
        out.print(f"weights     of '{loaded.info['weights']}'")
    if loaded.assumed:
        warn(loaded.assumed)
    for key in ("data_set", "epochs", "lr", "model"):
        if key in content["args"]:
            out.print(f"{key:<11} {content['args'][key]}")
    known = "" if task is not None else " --task TASK"
    fresh = " --fresh-head" if loaded.kind == "pre-trained" else ""
    out.print(f"next        svfap-edge export {shlex.quote(str(path))}{known}{fresh} -o DIR")


def geometry(*, depths: str | None, **numbers: int | None) -> dict[str, Any]:
    """The fields of the model's configuration that were given."""
    changes: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if depths is not None:
        try:
            changes["depths"] = tuple(int(part) for part in depths.split("-"))
        except ValueError as error:
            raise SvfapError(f"--depths must look like 12-6-3; got '{depths}'.") from error
    return changes
