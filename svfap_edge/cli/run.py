"""`svfap-edge run`: what the faces of videos and cameras express."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svfap_edge.errors import SourceError, SvfapError

from .console import console, count, progress, reporting, stopping_cleanly, warn
from .options import Json

if TYPE_CHECKING:
    from rich.console import Console

    from svfap_edge.perception.detectors import Detector
    from svfap_edge.runner.account import CamerasSummary, RunSummary
    from svfap_edge.runtimes import Engine
    from svfap_edge.sinks.sink import Sink
    from svfap_edge.sources.frames import Source
    from svfap_edge.sources.reader import LiveSettings
    from svfap_edge.tasks import Task


def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="A video, a folder of images, an image, 'sample' (built in), a camera's number, "
            "a URL (rtsp://, http://), or a GStreamer pipeline. Several run on one engine, each "
            "named after itself or as NAME=SOURCE.",
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
    detect_every: Annotated[
        int, typer.Option(help="Look for faces in every n-th frame only.", min=1)
    ] = 1,
    smooth: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Time constant of smoothed scores, beside the raw ones in JSON lines; 0: none.",
        ),
    ] = 0.0,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            help="Milliseconds that a frame (of several sources: one of each) may take on average. "
            "To keep it, faces are looked for and people predicted less often.",
        ),
    ] = None,
    max_people: Annotated[
        int | None, typer.Option(help="People followed at a time in each source (32).", min=1)
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frame rate of a folder of images (25).")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after so many seconds of a source's time.")
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Wait so long for a camera that is not there at the start; inf: for ever.",
        ),
    ] = 0.0,
    read_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Without a frame for so long, a URL counts as lost and is opened again (5).",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine.", min=1)] = None,
    mode: Annotated[
        str,
        typer.Option(help="latency: all threads on one clip; throughput: each on one of its own."),
    ] = "latency",
    jsonl: Annotated[
        str | None, typer.Option(help="Write JSON lines to this file; - is standard output.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Write an overlay video (.mp4).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a timeline picture (.png).")] = None,
    as_json: Json = False,
) -> None:
    """Tell what the faces of videos or cameras express.

    A camera or URL is read until --seconds, Ctrl-C or SIGTERM; that is a good end. Of several
    sources, named as in door=0 desk=1, one that fails ends alone.
    """
    with reporting(as_json):
        _check_numbers(hop, seconds, smooth, budget)
        live = _live_settings(wait, read_timeout)
        if mode not in ("latency", "throughput"):
            raise SvfapError(f"--mode must be latency or throughput; got '{mode}'.")
        if as_json and jsonl == "-":
            raise SvfapError("--json and --jsonl - both write standard output; choose one.")
        from svfap_edge.perception.detectors import open_detector
        from svfap_edge.runtimes import Engine
        from svfap_edge.sources.opening import name_sources, split_name

        one = len(sources) == 1 and split_name(sources[0])[0] is None
        if not one and (video is not None or plot is not None):
            raise SvfapError(
                "--video and --plot show one source, without a name. For several sources write "
                "--jsonl, or run each by itself."
            )
        named = name_sources(sources)
        _check_outputs({"--jsonl": jsonl, "--video": video, "--plot": plot}, named, face_model)
        finder = open_detector(detector, face_model)
        loading = partial(
            Engine.load, bundle, artifact=artifact, engine=engine, threads=threads,
            mode="throughput" if mode == "throughput" else "latency",
        )  # fmt: skip
        options: dict[str, Any] = {
            "hop_s": hop,
            "detect_every": detect_every,
            "smoothing_s": smooth,
            "budget_s": None if budget is None else budget / 1e3,
            **({} if max_people is None else {"max_people": max_people}),
        }
        call = _Call(loading, options, fps, live, seconds, jsonl, as_json)
        if one:
            _run_one(sources[0], finder, call, video, plot)
        else:
            call.options.update(detector=detector, face_model=face_model)
            _run_several(named, call)


@dataclass(frozen=True)
class _Call:
    """What was asked for.

    Attributes:
        loading: Loads the engine.
        options: Of every `Perceiver`.
        live: Of every live source.
    """

    loading: Callable[[], Engine]
    options: dict[str, Any]
    fps: float | None
    live: LiveSettings
    seconds: float | None
    jsonl: str | None
    as_json: bool

    @property
    def quiet(self) -> bool:
        return self.as_json or self.jsonl == "-"

    @property
    def written(self) -> str | None:
        """The file of JSON lines."""
        return None if self.jsonl == "-" else self.jsonl


def _check_numbers(hop: float, seconds: float | None, smooth: float, budget: float | None) -> None:
    if not 0 < hop < math.inf:
        raise SvfapError(f"--hop must be a positive number of seconds; got {hop:g}.")
    if seconds is not None and not seconds > 0:
        raise SvfapError(f"--seconds must be a positive number; got {seconds:g}.")
    if not 0 <= smooth < math.inf:
        raise SvfapError(f"--smooth must be 0 or more seconds; got {smooth:g}.")
    if budget is not None and not 0 < budget < math.inf:
        raise SvfapError(f"--budget must be a positive number of milliseconds; got {budget:g}.")


def _live_settings(wait: float, read_timeout: float | None) -> LiveSettings:
    from svfap_edge.sources.reader import LiveSettings

    if not wait >= 0:
        raise SvfapError(f"--wait must be 0 or more seconds; got {wait:g}.")
    if read_timeout is not None and not 0 < read_timeout < math.inf:
        raise SvfapError(f"--read-timeout must be a positive number; got {read_timeout:g}.")
    settings = LiveSettings(wait_for_first=wait > 0, first_s=wait if 0 < wait < math.inf else None)
    return settings if read_timeout is None else replace(settings, read_timeout_s=read_timeout)


def _check_outputs(
    outputs: dict[str, str | Path | None], sources: dict[str, str], face_model: Path | None
) -> None:
    from svfap_edge.sinks.paths import check_outputs

    files = {name: Path(path) for name, path in outputs.items() if path not in (None, "-")}
    models = [] if face_model is None else [str(face_model)]
    check_outputs(files, [*sources.values(), *models])


def _run_one(
    source: str, finder: Detector, call: _Call, video: Path | None, plot: Path | None
) -> None:
    from svfap_edge.perception.perceiver import Perceiver
    from svfap_edge.runner import run as runner
    from svfap_edge.sources.opening import open_source

    with (
        open_source(source, fps=call.fps, live=call.live) as opened,
        stopping_cleanly(opened),
        call.loading() as engine,
    ):
        perceiver = Perceiver(engine, detector=finder, **call.options)
        sinks = _sinks(opened, engine.manifest.task, call.jsonl, video, plot)
        with progress(f"{Path(opened.name).name}", call.quiet) as report:
            summary = runner.run_one(
                opened, engine, perceiver, sinks, report, seconds=call.seconds, warn=warn
            )
    if call.as_json:
        print(json.dumps(summary.to_json(), ensure_ascii=False))
    else:
        _print_summary(summary, [call.written, video, plot])


def _run_several(addresses: dict[str, str], call: _Call) -> None:
    """Raises typer.Exit if a source failed."""
    from svfap_edge.perception.cameras import Cameras
    from svfap_edge.perception.tracking import MAX_PEOPLE
    from svfap_edge.runner.run import run
    from svfap_edge.sinks.jsonl import CameraLines

    sources, failed = run.open_sources(addresses, fps=call.fps, live=call.live, warn=warn)
    with ExitStack() as stack:
        for source in sources.values():
            stack.enter_context(source)
        stack.enter_context(stopping_cleanly(*sources.values()))
        engine = stack.enter_context(call.loading())
        options = dict(call.options)
        if not run.are_live(sources):  # nothing is late: all clips can wait their turn
            options["most"] = len(sources) * options.get("max_people", MAX_PEOPLE)
        cameras = stack.enter_context(Cameras(engine, sources, **options))
        lines = None if call.jsonl is None else CameraLines(call.jsonl)
        report = stack.enter_context(progress(", ".join(sources), call.quiet))
        summary = run.run(
            sources, engine, cameras, lines, report,
            seconds=call.seconds, warn=warn, failed=failed,
        )  # fmt: skip
    if call.as_json:
        print(json.dumps(summary.to_json(), ensure_ascii=False))
    else:
        _print_cameras(summary, call.written)
    if summary.failed:
        raise typer.Exit(SourceError.exit_code)


def _sinks(
    source: Source, task: Task, jsonl: str | None, video: Path | None, plot: Path | None
) -> list[Sink]:
    from svfap_edge.sinks.jsonl import JsonLines

    sinks: list[Sink] = []
    if video is not None:
        from svfap_edge.sinks.overlay import OverlayVideo

        sinks.append(OverlayVideo(video, task, source.fps))
    if plot is not None:
        from svfap_edge.sinks.timeline import Timeline

        sinks.append(Timeline(plot, task, Path(source.name).name))
    if jsonl is not None:
        sinks.append(JsonLines(jsonl))
    return sinks


def _print_summary(summary: RunSummary, written: list[Any]) -> None:
    out = console(stderr=False)
    _print_people(summary, out)
    _print_speed(summary, out)
    _print_end(summary, written, out)


def _print_cameras(summary: CamerasSummary, written: str | None) -> None:
    out = console(stderr=False)
    for name, each in summary.cameras.items():
        out.print(f"{name}", style="bold")
        _print_people(each, out, "  ")
    for name, text in summary.failed.items():
        out.print(f"{name} failed: {text}")
    out.print("all", style="bold")
    _print_people(summary.total, out, "  ")
    _print_speed(summary.total, out)
    _print_end(summary.total, [written], out)


def _print_people(summary: RunSummary, out: Console, indent: str = "") -> None:
    out.print(
        f"{indent}{summary.frames} frames, {summary.duration_s:.1f} s of video; "
        f"{summary.predictions} predictions for {count(summary.people, 'person', 'people')}"
    )
    if summary.labels:
        ranked = sorted(summary.labels.items(), key=lambda item: -item[1])
        out.print(f"{indent}  " + ", ".join(f"{label} {count}" for label, count in ranked))
    if not summary.people:
        out.print(f"{indent}  No face was found in any frame.")
    elif not summary.predictions:
        out.print(f"{indent}  No face stayed long enough for a prediction.")


def _print_speed(summary: RunSummary, out: Console) -> None:
    total = summary.wall_s or 1.0
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in summary.seconds.items())
    out.print(
        f"{summary.fps:.0f} frames/s, {summary.speed:.1f}x real time "
        f"({summary.artifact} on {summary.engine} in {summary.precision}, "
        f"faces by {summary.detector})"
    )
    out.print(f"  time: {shares}")


def _print_end(summary: RunSummary, written: list[Any], out: Console) -> None:
    if summary.counts:
        text = ", ".join(f"{name} {count}" for name, count in summary.counts.items() if count)
        out.print(f"  frames: {text}")
    for path in filter(None, written):
        out.print(f"wrote {path}")
    for warning in summary.warnings:
        out.print(f"warning: {warning}")
