"""`svfap-edge benchmark`, `benchmark-cameras`, `benchmark-training`: what this machine can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svfap_edge.errors import DependencyMissing, SvfapError

from . import options
from .console import console, print_json, reporting, requiring, steps, stopping_cleanly, table

if TYPE_CHECKING:
    from rich.console import Console

    from svfap_edge.benchmark.capacity import Capacity
    from svfap_edge.benchmark.results import Benchmark
    from svfap_edge.bundle import Bundle


def benchmark(
    bundle: options.BundleArgument = None,
    artifact: options.ArtifactNames = None,
    engine: Annotated[
        str,
        typer.Option(
            help="Engine: all, auto (the best for each artifact), or one as `svfap-edge run` takes "
            "it, such as onnxruntime:cuda."
        ),
    ] = "all",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure this checkpoint in PyTorch too, and compare every row with its fp32 as "
            "in the published code.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Video for the whole application; by default 'sample'. 'none': no video."
        ),
    ] = None,
    detector: options.DetectorName = "auto",
    face_model: options.FaceModel = None,
    seconds: Annotated[
        float, typer.Option(help="Time for each measurement of an artifact, all rounds together.")
    ] = 5.0,
    rounds: Annotated[
        int, typer.Option(help="Fresh processes for each measurement; they take turns.", min=1)
    ] = 3,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Print the ratios of A to B; each is ARTIFACT or ARTIFACT@ENGINE."
        ),
    ] = None,
    threads: options.Threads = None,
    batch: Annotated[
        str, typer.Option(help="Numbers of clips in a call, separated by commas, besides 1.")
    ] = "4",
    cold: Annotated[int, typer.Option(help="Cold starts of each artifact; 0 for none.", min=0)] = 3,
    isa: Annotated[
        str | None,
        typer.Option(
            help="Hold OpenVINO and PyTorch to a smaller CPU's instruction set, such as AVX2 or "
            "AVX2_VNNI."
        ),
    ] = None,
    overhead: Annotated[
        bool,
        typer.Option(
            "--overhead", help="Measure only what Engine.step adds to the engine's own call."
        ),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Measure only the processor time of live cameras with one face, at several hops.",
        ),
    ] = False,
    require_signature: options.RequireSignature = None,
    as_json: options.Json = False,
) -> None:
    """Measure latency, throughput and memory of a bundle.

    Every artifact is measured on every engine that runs it here: the cold start, calls of the model
    alone, and the whole application by stage. Example:

    svfap-edge benchmark dfew-bundle --compare int8.onnx,fp32.onnx
    """
    with reporting(as_json):
        options.check_positive(seconds=seconds)
        batches = _batches(batch)
        names = options.split(compare) or []
        if compare is not None and len(names) < 2:
            raise SvfapError(f"--compare needs two or more, such as A,B; got '{compare}'.")
        from svfap_edge.benchmark.results import BenchmarkOptions
        from svfap_edge.benchmark.rounds import benchmark as measure
        from svfap_edge.bundle import Bundle
        from svfap_edge.perception.detectors import check_detector

        check_detector(detector)
        opened = Bundle.open(bundle, require_signature=require_signature)
        if overhead:
            if checkpoint is not None or isa is not None:
                raise SvfapError(
                    "--overhead measures artifacts on this machine as it is; leave out "
                    "--checkpoint and --isa, or --overhead."
                )
            _overhead(opened, options.split(artifact), engine, seconds, threads, as_json)
            return
        if live:
            if checkpoint is not None or isa is not None or source == "none":
                raise SvfapError(
                    "--live plays a video to an engine of this machine; leave out --checkpoint, "
                    "--isa and --source none, or --live."
                )
            loaded = {"engine": "auto" if engine == "all" else engine, "threads": threads}
            faces = {"detector": detector, "face_model": face_model}
            each = options.split(artifact) or (None,)
            _live(opened, each, loaded, source or "sample", seconds, faces, as_json)
            return
        wanted = BenchmarkOptions(
            artifacts=options.split(artifact),
            engine=engine,
            compare=names,
            checkpoint=checkpoint,
            source=_source(source, detector, face_model),
            detector=detector,
            face_model=face_model,
            seconds=seconds,
            rounds=rounds,
            cold=cold,
            threads=threads,
            batches=batches,
            isa=isa,
        )
        if checkpoint is not None:
            with requiring("export", "Measuring a checkpoint"):
                import torch  # noqa: F401
        with stopping_cleanly(), steps(as_json) as step:
            found = measure(opened, wanted, step)
        if as_json:
            print_json(found.to_json())
        else:
            _print(found, console(stderr=False))


def benchmark_cameras(
    video: Annotated[str, typer.Argument(help="A video with one face.")],
    bundle: options.BundleArgument = None,
    artifact: options.ArtifactName = None,
    engine: options.EngineName = "auto",
    mode: options.Mode = "throughput",
    threads: options.Threads = None,
    workers: Annotated[int, typer.Option(help="Threads that search frames for faces.", min=1)] = 1,
    detector: options.DetectorName = "auto",
    face_model: options.FaceModel = None,
    detect_every: options.DetectEvery = 1,
    hop: options.Hop = 0.5,
    seconds: Annotated[
        float, typer.Option(help="Simulated time for each number of cameras.")
    ] = 4.0,
    require_signature: options.RequireSignature = None,
    as_json: options.Json = False,
) -> None:
    """Find how many cameras this machine holds.

    The frames of the video are played to more and more cameras at 30 frames a second, until a
    second of all of them takes longer than a second. Decoding is not counted. Example:

    svfap-edge benchmark-cameras face.mp4 --detect-every 3
    """
    with reporting(as_json), stopping_cleanly(), steps(as_json) as step:
        options.check_positive(hop=hop, seconds=seconds)
        from svfap_edge.benchmark.capacity import find_capacity, read_frames
        from svfap_edge.machine import describe_machine
        from svfap_edge.runtimes import Engine

        options.spare_threads(mode)
        frames, decode_ms = read_frames(video, seconds)
        with Engine.load(
            bundle, artifact=artifact, engine=engine, threads=threads,
            mode=mode,  # type: ignore[arg-type]  # refused there if it is no mode
            require_signature=require_signature,
        ) as loaded:  # fmt: skip
            found = find_capacity(
                loaded, frames, seconds=seconds, workers=workers,
                progress=step, detector=detector, face_model=face_model,
                detect_every=detect_every, hop_s=hop,
            )  # fmt: skip
            spec = loaded.spec
        facts: dict[str, Any] = {
            "artifact": spec.artifact,
            "engine": spec.engine,
            "precision": spec.precision,
            "mode": mode,
            "workers": workers,
            "detector": detector,
            "hop_s": hop,
            "detect_every": detect_every,
            "frame": frames[0].shape,
            "decode_ms": round(decode_ms, 3),
        }
        machine = describe_machine()
        if as_json:
            limit = found.at_limit.limit
            print_json({**asdict(found), "limit": limit, **facts, "machine": machine})
        else:
            _print_capacity(found, facts, machine, console(stderr=False))


def benchmark_training(
    preset: Annotated[
        str, typer.Option(help="Configurations of the model, separated by commas.")
    ] = "lite,base",
    batch: Annotated[int, typer.Option(help="Clips of a training step.", min=1)] = 8,
    rounds: Annotated[
        int, typer.Option(help="Fresh processes for each row; they take turns.", min=1)
    ] = 3,
    step_count: Annotated[
        int, typer.Option("--steps", help="Counted steps of a process.", min=1)
    ] = 3,
    as_json: options.Json = False,
) -> None:
    """Measure clips a second of training on the CPU.

    Each row is compared with the same step in fp32 with attention written out, as in the published
    code. Example:

    svfap-edge benchmark-training --preset lite --batch 16
    """
    with reporting(as_json):
        from svfap_edge.benchmark.training_steps import time_training
        from svfap_edge.machine import describe_machine

        with requiring("train", "Training"):
            import torch  # noqa: F401
        with stopping_cleanly(), steps(as_json) as step:
            presets = options.split(preset) or []
            found = time_training(
                presets, batch=batch, rounds=rounds, steps=step_count, progress=step
            )
        machine = describe_machine()
        if as_json:
            print_json({"machine": machine, "rows": found})
            return
        out = console(stderr=False)
        _print_machine(machine, out)
        rows = table("model, training step", "clips/s", "x plain")
        for row in found:
            name = f"{row.preset}, {row.variant}"
            rows.add_row(name, f"{row.clips_per_s:.2f}", f"{row.ratio:.2f}")
        out.print(rows)


def _overhead(
    bundle: Bundle,
    artifacts: list[str] | None,
    engine: str,
    seconds: float,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the overhead of every artifact on every engine, for `--overhead`."""
    from svfap_edge.benchmark.overhead import time_overhead
    from svfap_edge.benchmark.processes import run_apart
    from svfap_edge.benchmark.rounds import nothing_runs, runnable
    from svfap_edge.machine import describe_machine

    wanted, left_out = runnable(bundle, artifacts, engine)
    if not wanted:
        raise nothing_runs(bundle, left_out)
    with stopping_cleanly(), steps(as_json) as step:
        found = []
        for timed in wanted:
            step(f"Timing {timed}")
            job: dict[str, Any] = {"timed": timed, "seconds": seconds, "threads": threads}
            found.append(run_apart(time_overhead, f"Timing {timed}", **job))
    if as_json:
        print_json({"bundle": bundle.path, "machine": describe_machine(), "overhead": found})
        return
    out = console(stderr=False)
    for row in found:
        out.print(
            f"{row.name} ({row.precision}): Engine.step adds {row.added_ms:.3f} ms "
            f"({row.share:.1%}; {row.low_ms:.3f} to {row.high_ms:.3f}) to {row.raw} of "
            f"{row.raw_ms:.2f} ms; {row.turns} turns. Stream.add: {row.add_ms:.3f} ms a frame."
        )


def _live(
    bundle: Bundle, artifacts: Sequence[str | None], loaded: dict[str, Any], source: str,
    seconds: float, faces: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    """Measure live cameras with each artifact, for `--live`."""
    from svfap_edge.benchmark.capacity import read_frames
    from svfap_edge.benchmark.live import CAMERAS, LiveRow, time_live
    from svfap_edge.machine import describe_machine
    from svfap_edge.runtimes import Engine

    rows: list[LiveRow] = []
    with stopping_cleanly(), steps(as_json) as step:
        frames, decode_ms = read_frames(source, seconds)
        for count, mode in CAMERAS:  # what throughput mode spares is spared to the end
            options.spare_threads(mode)
            for name in artifacts:
                with Engine.load(bundle, artifact=name, mode=mode, **loaded) as engine:
                    rows += time_live(
                        engine, frames, count, seconds=seconds, progress=step, **faces
                    )
    machine = describe_machine()
    if as_json:
        print_json({"source": source, "decode_ms": decode_ms, "machine": machine, "live": rows})
        return
    out = console(stderr=False)
    _print_machine(machine, out)
    height, width = frames[0].shape[:2]
    out.print(
        f"{width}x{height} at 30 fps, one face; decoding, not counted: {decode_ms:.1f} ms a frame. "
        "Milliseconds for a second of one camera:"
    )
    shown = table(
        "artifact, engine, precision", "cameras", "hop s", "processor", "wall", "detect", "crop",
        "model", "rest", "p50", "p95",
    )  # fmt: skip
    for row in rows:
        stages = (row.stages_ms[name] for name in ("detect", "crop", "model", "rest"))
        figures = (row.cpu_ms, row.wall_ms, *stages, *row.latency_ms)
        what = f"{row.artifact}, {row.engine}, {row.precision}"
        times = (f"{ms:.1f}" for ms in figures)
        shown.add_row(what, str(row.cameras), f"{row.hop_s:g}", *times)
    out.print(shown)


def _batches(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in options.split(text) or ())
    except ValueError:
        found = (0,)
    if not all(0 < number <= 256 for number in found):
        raise SvfapError(f"--batch must be numbers of 1..256, such as 4,16; got '{text}'.")
    return found


def _source(source: str | None, detector: str, face_model: Path | None) -> str | None:
    """The source that can be opened, before minutes are spent; None for none."""
    from svfap_edge.perception.detectors import open_detector
    from svfap_edge.sources.opening import open_source

    if source == "none":
        return None
    open_detector(detector, face_model)
    try:
        open_source(source or "sample").close()
    except DependencyMissing:
        if source is not None:
            raise
        return None
    return source or "sample"


def _print(found: Benchmark, out: Console) -> None:
    _print_machine(found.machine, out)
    _print_model(found, out)
    _print_application(found, out)
    for ratio in found.comparisons:
        out.print(
            f"{ratio.what}: {ratio.first} has {ratio.ratio:.3f} x that of {ratio.second} "
            f"({ratio.low:.3f} to {ratio.high:.3f} in {ratio.rounds} rounds)"
        )
    for each in found.left_out:
        out.print(f"left out  {each.artifact} on {each.engine}: {each.reason}")
    for note in found.notes:
        out.print(f"note  {note}")


def _print_machine(machine: dict[str, str], out: Console) -> None:
    out.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['instruction sets']}")


def _print_model(found: Benchmark, out: Console) -> None:
    batches = [batch for batch in found.rows[0].throughput() if batch > 1]
    rows = table(
        "model: one clip, ms", "p50", "p95", "p99", "clips/s", *(f"of {b}" for b in batches),
        "cold start s", "with cache s", "peak MB",
    )  # fmt: skip
    for row in found.rows:
        latency, rates, content = row.latency(), row.throughput(), row.to_json()["cold_start_s"]
        starts = [content["without_cache"], content["with_cache"]]
        rows.add_row(
            f"{row.name} ({row.precision})",
            f"{latency.p50:.2f}",
            f"{latency.p95:.2f}",
            "-" if latency.p99 is None else f"{latency.p99:.2f}",
            f"{rates[1]:.1f}",
            *(f"{rates[batch]:.1f}" for batch in batches),
            *(f"{start['median']:.2f}" if start else "-" for start in starts),
            f"{row.peak_mb:.0f}" if row.peak_mb else "-",
        )
    out.print(rows)


def _print_application(found: Benchmark, out: Console) -> None:
    contents = [(row.name, row.application()) for row in found.rows]
    measured = [(name, content) for name, content in contents if content is not None]
    if not measured:
        return
    stages = measured[0][1]["stages"]
    names = [name + ("*" if stage["per"] != "frame" else "") for name, stage in stages.items()]
    title = f"application on {found.options.source_name}: p50 / p95 ms"
    rows = table(title, "frames/s", *names, "peak MB")
    for name, content in measured:
        cells = []
        for stage in content["stages"].values():
            ms = stage["ms"]
            times = f"{ms.p50:.2f} / {ms.p95:.2f}" if ms else "-"
            cells.append(f"{times} ({stage['share']:.0%})")
        rows.add_row(name, f"{content['fps']:.0f}", *cells, f"{content['peak_mb']:.0f}")
    out.print(rows)
    out.print(
        f"Faces by {measured[0][1]['detector']}. Milliseconds a frame; * a frame that brought "
        "predictions. In brackets the share of all time."
    )


def _print_capacity(
    found: Capacity, facts: dict[str, Any], machine: dict[str, str], out: Console
) -> None:
    from svfap_edge.benchmark.capacity import CAMERA_FPS

    _print_machine(machine, out)
    out.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for trial in found.trials:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in trial.share.items())
        out.print(
            f"{trial.cameras:4d} cameras: {trial.load:.2f} s of work a second ({shares}); "
            f"predictions {trial.predictions} of {trial.expected}, latency p50 / p95 "
            f"{trial.latency_ms[0]:.0f} / {trial.latency_ms[1]:.0f} ms"
        )
    last = found.at_limit
    out.print(
        f"Held in real time: {found.cameras} cameras of {CAMERA_FPS:.0f} fps; {last.limit} limits "
        f"it. Decoding is not counted ({facts['decode_ms']} ms a frame of this video)."
    )
    if not 0.9 * last.expected <= last.predictions <= 1.1 * last.expected:
        out.print(
            "note  The video has not one face in every frame; choose another video or detector."
        )
