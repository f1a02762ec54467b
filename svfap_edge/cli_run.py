"""`svfap-edge run`: what the faces of videos and cameras express."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_common import Json, console, count, progress, reporting, stopping_cleanly, warn
from .errors import SvfapError

if TYPE_CHECKING:
    from .frames import Source
    from .runner import RunSummary
    from .sinks import Sink
    from .tasks import Task


def run(
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
