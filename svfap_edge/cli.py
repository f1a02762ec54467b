"""The command line. Each command imports what it needs when it runs, so that help is quick.

Exit codes: 0 fine, 1 the engine failed while running, 2 usage or bad input, 3 engine or optional
package missing, 4 quality gate failed, 5 artifact incompatible with this machine, 130 interrupted
by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_benchmark import benchmark
from .cli_common import (
    Json,
    console,
    count,
    progress,
    reporting,
    split,
    steps,
    stopping_cleanly,
    warn,
)
from .cli_doctor import doctor
from .cli_prepare import prepare
from .cli_training import finetune, pretrain
from .errors import SvfapError

if TYPE_CHECKING:
    from .analysis import Analysis
    from .bundle import Bundle
    from .frames import Source
    from .runner import RunSummary
    from .sinks import Sink
    from .tasks import Task

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Facial-affect recognition on small computers.",
    epilog="Exit codes: 0 fine, 1 engine failed, 2 bad input, 3 engine missing, "
    "4 quality gate failed, 5 incompatible artifact, 130 interrupted.",
)


def main() -> None:
    """Entry point of `svfap-edge`."""
    # A damaged file is told in our words; the decoders' own go with OPENCV_LOG_LEVEL=WARNING.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    app()


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(f"svfap-edge {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command("run")
def run_command(
    source: Annotated[
        str,
        typer.Argument(
            help="A video, a folder of images, an image, 'sample' (built in), a camera's number, "
            "a URL (rtsp://, http://), or a GStreamer pipeline.",
        ),
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to run; the one in the package by default.")
    ] = None,
    artifact: Annotated[
        str | None, typer.Option(help="Artifact of the bundle, for example fp32.onnx.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="auto, onnxruntime, openvino or tensorrt; onnxruntime:cuda, "
            "onnxruntime:tensorrt or onnxruntime:nvtensorrtrtx for ONNX Runtime on a GPU."
        ),
    ] = "auto",
    detector: Annotated[
        str, typer.Option(help="Face detector: auto, yunet, haar, or none (frame = face).")
    ] = "auto",
    face_model: Annotated[Path | None, typer.Option(help="YuNet's ONNX file.")] = None,
    hop: Annotated[float, typer.Option(help="Seconds between predictions.")] = 0.5,
    fps: Annotated[
        float | None, typer.Option(help="Frame rate of a folder of images (25).")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after so many seconds of the source's time.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine.", min=1)] = None,
    jsonl: Annotated[
        str | None, typer.Option(help="Write JSON lines to this file; - is standard output.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Write an overlay video (.mp4).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a timeline picture (.png).")] = None,
    as_json: Json = False,
) -> None:
    """Tell what the faces of a video or camera express.

    A camera or URL is read until --seconds, Ctrl-C or SIGTERM; that is a good end.
    """
    with reporting(as_json):
        if not hop > 0:
            raise SvfapError(f"--hop must be a positive number of seconds; got {hop}.")
        if seconds is not None and not seconds > 0:
            raise SvfapError(f"--seconds must be a positive number; got {seconds}.")
        if as_json and jsonl == "-":
            raise SvfapError("--json and --jsonl - both write standard output; choose one.")
        from . import runner
        from .faces import open_detector
        from .perceiver import Perceiver
        from .runtimes import Engine
        from .sources import open_source

        finder = open_detector(detector, face_model)
        with open_source(source, fps=fps) as opened, stopping_cleanly(opened):
            loaded = Engine.load(bundle, artifact=artifact, engine=engine, threads=threads)
            with loaded:
                perceiver = Perceiver(loaded, detector=finder, hop_s=hop)
                sinks = _sinks(opened, loaded.manifest.task, jsonl, video, plot)
                with progress(f"{Path(opened.name).name}", as_json or jsonl == "-") as report:
                    summary = runner.run(
                        opened, loaded, perceiver, sinks, report, seconds=seconds, warn=warn
                    )
        if as_json:
            print(json.dumps(summary.to_json(), ensure_ascii=False))
        else:
            _print_summary(summary, [jsonl if jsonl != "-" else None, video, plot])


def _sinks(
    source: Source, task: Task, jsonl: str | None, video: Path | None, plot: Path | None
) -> list[Sink]:
    from .sinks import JsonLines

    sinks: list[Sink] = []
    if video is not None:
        from .overlay import OverlayVideo

        sinks.append(OverlayVideo(video, task, source.fps))
    if plot is not None:
        from .timeline import Timeline

        sinks.append(Timeline(plot, task, Path(source.name).name))
    if jsonl is not None:
        sinks.append(JsonLines(jsonl))
    return sinks


def _print_summary(summary: RunSummary, written: list[Any]) -> None:
    out = console(stderr=False)
    out.print(
        f"{summary.frames} frames, {summary.duration_s:.1f} s of video; "
        f"{summary.predictions} predictions for {count(summary.people, 'person', 'people')}"
    )
    if summary.labels:
        ranked = sorted(summary.labels.items(), key=lambda item: -item[1])
        out.print("  " + ", ".join(f"{label} {count}" for label, count in ranked))
    if not summary.people:
        out.print("  No face was found in any frame.")
    elif not summary.predictions:
        out.print("  No face stayed long enough for a prediction.")
    total = summary.wall_s or 1.0
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in summary.seconds.items())
    out.print(
        f"{summary.fps:.0f} frames/s, {summary.speed:.1f}x real time "
        f"({summary.artifact} on {summary.engine} in {summary.precision}, "
        f"faces by {summary.detector})"
    )
    out.print(f"  time: {shares}")
    if summary.counts:
        text = ", ".join(f"{name} {count}" for name, count in summary.counts.items() if count)
        out.print(f"  frames: {text}")
    for path in filter(None, written):
        out.print(f"wrote {path}")
    for warning in summary.warnings:
        out.print(f"warning: {warning}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="PyTorch checkpoint (.pth).")],
    task: Annotated[str, typer.Option(help="dfew, mafw, ...; or a name of your own + --labels.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new bundle.")],
    artifacts: Annotated[
        str,
        typer.Option(
            help="Comma-separated: fp32.onnx, fp16.onnx, bf16.openvino, int8.onnx, "
            "int8.openvino, fp16.tensorrt, int8.tensorrt."
        ),
    ] = "fp32.onnx",
    labels: Annotated[
        str | None, typer.Option(help="Comma-separated labels in output order.")
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(help="List or folder of real videos, frame folders or images of faces."),
    ] = None,
    calib_samples: Annotated[int, typer.Option(help="Calibration clips at most.")] = 300,
    detector: Annotated[
        str, typer.Option(help="Face detector for --calib: auto, yunet, haar, none.")
    ] = "auto",
    face_model: Annotated[Path | None, typer.Option(help="YuNet's ONNX file.")] = None,
    rescue: Annotated[
        bool,
        typer.Option("--rescue", help="Leave in float the fewest layers that bring INT8 back."),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Points INT8 may lose on --validate; beyond, as --rescue.", min=0),
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="GPUs to build TensorRT plans for: 8.6,8.9.")
    ] = None,
    trt: Annotated[
        list[str] | None,
        typer.Option(
            help="TensorRT setting KEY=VALUE, repeatable: workspace_mib=1024, batch=1,1,8 "
            "(smallest, likely, largest), timing_cache=FILE (not TensorRT for RTX); any number or "
            "name of the builder config, like builder_optimization_level=3; flag.TF32=0, "
            "preview.NAME=1, tactic.NAME=0, memory.NAME=MIB. An unknown key prints the known ones.",
        ),
    ] = None,
    validate: Annotated[
        Path | None, typer.Option(help="Labelled list or folder for --max-drop.")
    ] = None,
    span: Annotated[
        float | None, typer.Option(help="Seconds a clip covers; the task's stride by default.")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Face crop beyond the detector's box, as a share of it.")
    ] = 0.0,
    features: Annotated[
        bool, typer.Option("--features", help="Return the pooled feature as a second output.")
    ] = False,
    size: Annotated[int | None, typer.Option(help="Input side in pixels, if not known.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip, if not known.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads, if not known.")] = None,
    depths: Annotated[
        str | None, typer.Option(help="Blocks of each stage, if not known: 12-6-3.")
    ] = None,
    fresh_head: Annotated[
        bool, typer.Option("--fresh-head", help="Accept a pre-training checkpoint.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the bundle that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint into a bundle, each artifact checked against PyTorch."""
    with reporting(as_json):
        from .tasks import find_task

        chosen = find_task(task, split(labels))
        changes = _geometry(size=size, frames=frames, heads=heads, depths=depths)
        try:
            from .export.pipeline import ExportOptions, export_bundle
        except ImportError as error:
            from .errors import DependencyMissing

            raise DependencyMissing(
                f"Exporting needs '{error.name}': pip install \"svfap-edge[export]\""
            ) from error
        trt_options: tuple[tuple[str, str], ...] = ()
        if trt:
            from .export.tensorrt_settings import parse_options

            trt_options = parse_options(trt)
        options = ExportOptions(
            compute_capabilities=tuple(split(compute_capability) or ()),
            trt_options=trt_options,
            task=chosen,
            artifacts=split(artifacts) or [],
            calib=calib,
            calib_samples=calib_samples,
            detector=detector,
            face_model=face_model,
            rescue=rescue,
            max_drop=max_drop,
            validate=validate,
            span_s=span,
            margin=margin,
            features=features,
            fresh_head=fresh_head,
            overwrite=overwrite,
        )
        with stopping_cleanly(), steps(as_json) as step:
            bundle = export_bundle(checkpoint, output, options, step, **changes)
        if not chosen.order_certain:
            warn(f"the order of the labels is assumed ({chosen.note}); see --labels.")
        _show_bundle(bundle.path, as_json)


@app.command()
def evaluate(
    bundles: Annotated[list[Path], typer.Argument(help="One or more bundles of one task.")],
    data: Annotated[
        Path, typer.Option(help="Labelled list ('path label' a line), or a folder of labels.")
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Artifact the others are compared with (fp32.onnx).")
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="Comma-separated; all that run here by default.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="auto, onnxruntime[:PROVIDER], openvino or tensorrt.")
    ] = "auto",
    detector: Annotated[
        str, typer.Option(help="Face detector: auto, yunet, haar, or none (frame = face).")
    ] = "auto",
    face_model: Annotated[Path | None, typer.Option(help="YuNet's ONNX file.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Exit 4 if a metric loses more points than this.", min=0)
    ] = None,
    ignore: Annotated[
        str | None, typer.Option(help="Comma-separated labels whose files are left out.")
    ] = None,
    speed: Annotated[bool, typer.Option(help="Time the artifacts too.")] = True,
    report: Annotated[Path | None, typer.Option(help="Write a report into this folder.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write the figures into the bundles' manifests.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure what each artifact loses in accuracy against the baseline, and gains in speed."""
    with reporting(as_json):
        from . import analysis
        from .bundle import Bundle
        from .errors import QualityGateError
        from .evaluation import EvaluationOptions
        from .evaluation import evaluate as run_evaluation
        from .faces import open_detector

        opened = [Bundle.open(path) for path in bundles]
        options = EvaluationOptions(
            baseline=baseline,
            artifacts=split(artifacts),
            engine=engine,
            max_drop=max_drop,
            ignore=split(ignore) or (),
            speed=speed,
        )
        finder = open_detector(detector, face_model)
        with stopping_cleanly(), steps(as_json) as step:
            found = analysis.analyse(run_evaluation(opened, data, finder, options, step))
            if report is not None:
                from .report import write_report

                step(f"Writing {report}")
                write_report(found, report)
            if record:
                _record(opened, found)
        if as_json:
            print(json.dumps(found.to_json(), ensure_ascii=False))
        else:
            _print_evaluation(found)
        failed = [c.artifact.name for c in found.candidates if c.passed is False]
        if failed and not as_json:
            raise QualityGateError(
                f"{', '.join(failed)} lost more than {max_drop:g} points against "
                f"{found.baseline.name}."
            )
        if failed:
            raise typer.Exit(QualityGateError.exit_code)


def _record(bundles: list[Bundle], found: Analysis) -> None:
    from .bundle import record_quality

    rows: list[tuple[Any, dict[str, float]]] = [(found.baseline, {})]
    rows += [
        (c.artifact, {d.metric: round(d.points, 2) for d in c.drops}) for c in found.candidates
    ]
    for bundle in bundles:
        measured = {
            row.name.rpartition("/")[2]: {
                "measured": {m.name: round(m.value, 4) for m in row.metrics},
                "data": f"{found.data}, {found.files} files, {found.created[:10]}",
                **({"drop_points": drop} if drop else {}),
            }
            for row, drop in rows
            if row.bundle == bundle.manifest.name
        }
        record_quality(bundle, measured)


def _print_evaluation(found: Analysis) -> None:
    from rich.table import Table

    out = console(stderr=False)
    out.print(
        f"{found.files} files, {found.coverage:.1%} with a face; baseline {found.baseline.name}"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("artifact")
    primary = [m for m in found.baseline.metrics if m.low is not None]
    for heading in (*(m.name for m in primary), "p50 ms", "MB"):
        table.add_column(heading, justify="right")
    for row in (found.baseline, *(c.artifact for c in found.candidates)):
        cells = [f"{m.value:.3f}" for m in row.metrics if m.low is not None]
        latency = f"{row.latency.p50_ms:.1f}" if row.latency else "-"
        table.add_row(
            f"{row.name} ({row.engine}, {row.precision})", *cells, latency, f"{row.bytes / 1e6:.1f}"
        )
    out.print(table)
    for candidate in found.candidates:
        out.print(candidate.verdict)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, or a checkpoint (.pth).")],
    heads: Annotated[int | None, typer.Option(help="Attention heads, if not known.")] = None,
    depths: Annotated[str | None, typer.Option(help="Blocks of each stage: 12-6-3.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what a bundle or checkpoint holds, after checking it."""
    with reporting(as_json):
        if path.is_file():
            _show_checkpoint(path, _geometry(heads=heads, depths=depths), as_json)
        else:
            _show_bundle(path, as_json)


def _show_bundle(path: Path, as_json: bool) -> None:
    from .bundle import Bundle
    from .runtimes.backend import available_engines, obstacle

    bundle = Bundle.open(path)
    for name in bundle.manifest.artifacts:
        bundle.verify(name)
    manifest = bundle.manifest
    if as_json:
        print(json.dumps({"path": str(path), **manifest.to_json()}, ensure_ascii=False))
        return
    from rich.table import Table

    out = console(stderr=False)
    task, clip = manifest.task, manifest.clip
    out.print(f"bundle    {path} ({manifest.name})")
    certain = "" if task.order_certain else "  (order assumed)"
    out.print(f"task      {task.name}, {task.kind}: {', '.join(task.labels)}{certain}")
    out.print(
        f"clip      {clip.frames} frames of {clip.size} px over {clip.span_s:.2f} s "
        f"(one every {clip.spacing_s * 1e3:.0f} ms), face box +{manifest.margin:.0%}"
    )
    facts = manifest.provenance
    if facts:
        out.print(
            f"model     {facts.get('parameters', 0) / 1e6:.1f} M parameters, from "
            f"{facts.get('checkpoint')} ({str(facts.get('checkpoint_sha256'))[:12]}), "
            f"{facts.get('created')}"
        )
    table = Table(box=None, pad_edge=False)
    for heading in ("artifact", "MB", "runs here on", "made by", "SHA-256"):
        table.add_column(heading, justify="right" if heading == "MB" else "left")
    for artifact in manifest.artifacts.values():
        able = available_engines(artifact.format)
        here = [engine for engine in able if obstacle(artifact, engine) is None]
        none = "not this machine" if able else "nothing installed"
        made = ", ".join(f"{tool} {number}" for tool, number in artifact.built_by.items())
        table.add_row(
            artifact.name,
            f"{artifact.bytes / 1e6:.1f}",
            ", ".join(here) or none,
            made,
            artifact.files[0].sha256[:12],
        )
    out.print(table)
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
    try:
        from .training.checkpoint import load_checkpoint
    except ImportError as error:
        from .errors import DependencyMissing

        raise DependencyMissing(
            f"Opening a checkpoint needs '{error.name}': pip install \"svfap-edge[export]\""
        ) from error
    loaded = load_checkpoint(path, **changes)
    config = loaded.model.config
    facts = {
        "path": str(path),
        "kind": loaded.kind,
        "parameters": loaded.parameters,
        "config": config.to_dict(),
        **({"epoch": loaded.info["epoch"]} if "epoch" in loaded.info else {}),
        "args": {k: v for k, v in loaded.info.get("args", {}).items() if _plain(v)},
    }
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    out = console(stderr=False)
    out.print(f"checkpoint  {path}: {loaded.kind}, {loaded.parameters / 1e6:.1f} M parameters")
    out.print(
        f"model       TPSBT, {config.frames} frames of {config.size} px, width {config.width}, "
        f"{config.heads} heads, stages {'-'.join(map(str, config.depths))}"
    )
    out.print(f"outputs     {config.outputs}")
    for key in ("data_set", "epochs", "lr", "model"):
        if key in facts["args"]:
            out.print(f"{key:<11} {facts['args'][key]}")
    out.print(f"next        svfap-edge export {path} --task TASK -o DIR")


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _geometry(*, depths: str | None, **numbers: int | None) -> dict[str, Any]:
    """Fields of the model's configuration that were given."""
    changes: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if depths is not None:
        try:
            changes["depths"] = tuple(int(part) for part in depths.split("-"))
        except ValueError as error:
            raise SvfapError(f"--depths must look like 12-6-3; got '{depths}'.") from error
    return changes


app.command()(benchmark)
app.command()(doctor)
app.command()(prepare)
app.command()(pretrain)
app.command()(finetune)

if __name__ == "__main__":
    main()
