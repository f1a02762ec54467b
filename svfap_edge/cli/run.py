"""`svfap-edge run`: what the faces of videos and cameras express."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svfap_edge.errors import ConfigError, SourceError

from . import options
from .console import console, count, print_json, progress, reporting, stopping_cleanly, warn

if TYPE_CHECKING:
    from rich.console import Console

    from svfap_edge.runner.account import RunSummary
    from svfap_edge.sinks.sink import Sink
    from svfap_edge.sources.frames import Source
    from svfap_edge.sources.live import LiveSettings
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
    bundle: options.BundleOption = None,
    artifact: options.ArtifactName = None,
    engine: options.EngineName = "auto",
    detector: options.DetectorName = "auto",
    face_model: options.FaceModel = None,
    hop: options.Hop = 0.5,
    detect_size: options.DetectSize = "320",
    detect_every: options.DetectEvery = 1,
    min_coverage: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of a clip's slots, up to 1, that must hold a frame for a prediction.",
        ),
    ] = 0.5,
    smooth: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Time constant of smoothed scores, written beside the raw ones; 0 for none.",
        ),
    ] = 0.0,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            help="Milliseconds that a frame may take on average (with several sources: a frame of "
            "each). To keep it, faces are looked for and people predicted less often.",
        ),
    ] = None,
    max_people: Annotated[
        int | None,
        typer.Option(help="People followed at a time in each source; by default 32.", min=1),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frame rate of a folder of images; by default 25.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this many seconds of a source's time.")
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Wait up to this long for a camera that is not there at the start; inf waits "
            "for ever.",
        ),
    ] = 0.0,
    read_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Open a URL again when it gave no frame for this long; by default 5.",
        ),
    ] = None,
    threads: options.Threads = None,
    mode: options.Mode = "latency",
    jsonl: Annotated[
        str | None, typer.Option(help="Write JSON lines to this file; - is standard output.")
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(
            help="Write an overlay video (.mp4). With several sources, {camera} in the path stands "
            "for each one's name."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write a timeline picture (.png); {camera} works as in --video."),
    ] = None,
    lsl: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Send the predictions to the local network as outlets NAME-1, NAME-2 and so on of "
            "Lab Streaming Layer, one for each person.",
        ),
    ] = None,
    require_signature: options.RequireSignature = None,
    as_json: options.Json = False,
) -> None:
    """Report what faces in videos or cameras express.

    A camera or URL is read until --seconds, Ctrl-C or SIGTERM; that is a good end. If one of
    several sources, named as in door=0 desk=1, fails, the others go on. Example:

    svfap-edge run talk.mp4 --jsonl talk.jsonl --video talk-faces.mp4 --plot talk.png
    """
    with reporting(as_json):
        options.check_positive(seconds=seconds, budget=budget, read_timeout=read_timeout)
        live = _live_settings(wait, read_timeout)
        if as_json and jsonl == "-":
            raise ConfigError("--json and --jsonl - both write standard output; choose one.")
        from svfap_edge.perception.detectors import check_detect_size, check_detector
        from svfap_edge.perception.tracking import MAX_PEOPLE
        from svfap_edge.perception.view import ViewSettings
        from svfap_edge.runner.run import run as run_sources
        from svfap_edge.runtimes import Engine
        from svfap_edge.sinks.paths import (
            PLACE,
            PLOT_SUFFIXES,
            VIDEO_SUFFIXES,
            camera_paths,
            check_kind,
            check_outputs,
        )
        from svfap_edge.sources.addresses import name_sources, split_name
        from svfap_edge.sources.opening import open_source, open_sources

        check_detector(detector)
        check_detect_size(detect_size)
        settings = {
            "hop_s": hop,
            "detect_every": detect_every,
            "smoothing_s": smooth,
            "min_coverage": min_coverage,
            "budget_s": None if budget is None else budget / 1e3,
            "max_people": max_people or MAX_PEOPLE,
        }
        ViewSettings(**settings)  # type: ignore[arg-type]  # refuses bad values before the work
        addresses = name_sources(sources)
        named = len(sources) > 1 or split_name(sources[0])[0] is not None
        names = list(addresses)
        videos = {} if video is None else camera_paths("--video", video, names, ".mp4")
        plots = {} if plot is None else camera_paths("--plot", plot, names, ".png")
        written = _written(jsonl, videos, plots)
        models = [] if face_model is None else [str(face_model)]
        check_outputs(written, [*addresses.values(), *models])
        check_kind("--video", videos.values(), VIDEO_SUFFIXES)
        check_kind("--plot", plots.values(), PLOT_SUFFIXES)
        options.spare_threads(mode)
        failed: dict[str, str] = {}
        with ExitStack() as stack:
            if named:
                opened, failed = open_sources(addresses, fps=fps, live=live, warn=warn)
            else:
                opened = {names[0]: open_source(sources[0], fps=fps, live=live)}
            for source in opened.values():
                stack.enter_context(source)
            stack.enter_context(stopping_cleanly(*opened.values()))
            loaded = stack.enter_context(
                Engine.load(
                    bundle, artifact=artifact, engine=engine, threads=threads,
                    mode=mode,  # type: ignore[arg-type]  # refused there if it is no mode
                    require_signature=require_signature,
                )
            )  # fmt: skip
            for pattern, paths in ((video, videos), (plot, plots)):
                for path in paths.values() if PLACE in str(pattern) else ():
                    with suppress(OSError):  # the sink then says that there is no folder
                        path.parent.mkdir(parents=True, exist_ok=True)
            sinks = _sinks(opened, loaded.manifest.task, jsonl, videos, plots, named)
            if lsl is not None:
                from svfap_edge.sinks.lsl import LslOutlets

                cameras = tuple(opened) if named else ()
                sinks.append(LslOutlets(lsl, loaded.manifest.task, cameras))
            quiet = as_json or jsonl == "-"
            report = stack.enter_context(progress(_title(opened, named), quiet))
            summary = run_sources(
                opened if named else opened[names[0]], loaded, sinks,
                seconds=seconds, progress=report, warn=warn, failed=failed,
                detector=detector, face_model=face_model, detect_size=detect_size, **settings,
            )  # fmt: skip
        if as_json:
            print_json(summary.to_json())
        else:
            _print_summary(summary, [path for path in written.values() if os.path.exists(path)])
            if detector == "auto" and summary.detector == "haar":
                print("YuNet finds more faces, three times as fast: svfap-edge doctor --fetch")
        if summary.failed:
            raise typer.Exit(SourceError.exit_code)


def _live_settings(wait: float, read_timeout: float | None) -> LiveSettings:
    from svfap_edge.sources.live import LiveSettings

    if not wait >= 0:
        raise ConfigError(f"--wait must be 0 or more seconds; got {wait:g}.")
    settings = LiveSettings(wait_for_first=wait > 0, first_s=wait if 0 < wait < math.inf else None)
    return settings if read_timeout is None else replace(settings, read_timeout_s=read_timeout)


def _written(jsonl: str | None, videos: dict[str, Path], plots: dict[str, Path]) -> dict[str, Path]:
    """Files that will be written, by the option and camera that they belong to."""
    files = {} if jsonl in (None, "-") else {"--jsonl": Path(str(jsonl))}
    for option, paths in (("--video", videos), ("--plot", plots)):
        for name, path in paths.items():
            files[option if len(paths) == 1 else f"{option} of '{name}'"] = path
    return files


def _title(opened: dict[str, Source], named: bool) -> str:
    return ", ".join(opened) if named else Path(next(iter(opened.values())).name).name


def _sinks(
    opened: dict[str, Source],
    task: Task,
    jsonl: str | None,
    videos: dict[str, Path],
    plots: dict[str, Path],
    named: bool,
) -> list[Sink]:
    from svfap_edge.sinks.jsonl import JsonLines

    sinks: list[Sink] = []
    for name, source in opened.items():
        if videos:
            from svfap_edge.sinks.overlay import OverlayVideo

            sinks.append(OverlayVideo(videos[name], task, source.fps, camera=name))
        if plots:
            from svfap_edge.sinks.timeline import Timeline

            title = name if named else Path(source.name).name
            sinks.append(Timeline(plots[name], task, title, camera=name))
    if jsonl is not None:
        sinks.append(JsonLines(jsonl))
    return sinks


def _print_summary(summary: RunSummary, written: list[Path]) -> None:
    out = console(stderr=False)
    for name, each in summary.cameras.items():
        out.print(f"{name}", style="bold")
        _print_people(each, out, "  ")
    for name, text in summary.failed.items():
        out.print(f"{name} failed: {text}")
    if summary.cameras:
        out.print("all", style="bold")
    _print_people(summary, out, "  " if summary.cameras else "")
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
    for path in written:
        out.print(f"wrote {path}")
    for warning in summary.warnings:
        out.print(f"warning: {warning}")


def _print_people(summary: RunSummary, out: Console, indent: str = "") -> None:
    out.print(
        f"{indent}{summary.frames} frames, {summary.duration_s:.1f} s of video; "
        f"{summary.predictions} predictions for {count(summary.people, 'person', 'people')}"
    )
    if summary.labels:
        ranked = sorted(summary.labels.items(), key=lambda item: -item[1])
        out.print(f"{indent}  " + ", ".join(f"{label} {count}" for label, count in ranked))
    if not summary.people:
        out.print(
            f"{indent}  No face was found in any frame. --detect-size auto finds smaller ones."
        )
    elif not summary.predictions:
        out.print(f"{indent}  No clip held enough frames of a face for a prediction.")
