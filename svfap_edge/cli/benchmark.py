"""`svfap-edge benchmark`: what the artifacts of a bundle do on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svfap_edge.errors import DependencyMissing, SvfapError

from .console import Json, console, reporting, split, steps, stopping_cleanly

if TYPE_CHECKING:
    from rich.console import Console

    from svfap_edge.benchmark.rounds import Benchmark
    from svfap_edge.bundle import Bundle


def benchmark(
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle; the one in the package by default.")
    ] = None,
    artifact: Annotated[
        str | None, typer.Option(help="Comma-separated; all that run here by default.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="all, auto (the best for each artifact), or an engine, as run takes it: "
            "onnxruntime:cuda."
        ),
    ] = "all",
    source: Annotated[
        str | None,
        typer.Option(help="Video for the whole application; 'sample' by default, or 'none'."),
    ] = None,
    detector: Annotated[
        str, typer.Option(help="Face detector: auto, yunet, haar, or none (frame = face).")
    ] = "auto",
    face_model: Annotated[Path | None, typer.Option(help="YuNet's ONNX file.")] = None,
    seconds: Annotated[
        float, typer.Option(help="Of each measurement of an artifact, all rounds together.")
    ] = 5.0,
    rounds: Annotated[int, typer.Option(help="Fresh processes of each, taking turns.", min=1)] = 3,
    compare: Annotated[
        str | None,
        typer.Option(help="A,B: ratios of A to B; each an artifact, or ARTIFACT@ENGINE."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine.", min=1)] = None,
    batch: Annotated[str, typer.Option(help="Comma-separated: clips in a call, beside 1.")] = "4",
    cold: Annotated[int, typer.Option(help="Cold starts of each; 0 for none.", min=0)] = 3,
    overhead: Annotated[
        bool,
        typer.Option("--overhead", help="Only what Engine.step adds to the engine's own call."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure cold start, latency by stage, throughput and memory of every artifact.

    For example: svfap-edge benchmark dfew-bundle --compare int8.onnx,fp32.onnx
    """
    with reporting(as_json):
        if not 0 < seconds < float("inf"):
            raise SvfapError(f"--seconds must be a positive number; got {seconds}.")
        batches = _batches(batch)
        names = split(compare) or []
        if compare is not None and len(names) < 2:
            raise SvfapError(f"--compare needs two or more, such as A,B; got '{compare}'.")
        from svfap_edge.benchmark.rounds import BenchmarkOptions
        from svfap_edge.benchmark.rounds import benchmark as measure
        from svfap_edge.bundle import Bundle
        from svfap_edge.perception.detectors import check_detector

        check_detector(detector)
        opened = Bundle.open(bundle)
        if overhead:
            _overhead(opened, split(artifact), engine, seconds, threads, as_json)
            return
        options = BenchmarkOptions(
            artifacts=split(artifact),
            engine=engine,
            compare=names,
            source=_source(source, detector, face_model),
            detector=detector,
            face_model=face_model,
            seconds=seconds,
            rounds=rounds,
            cold=cold,
            threads=threads,
            batches=batches,
        )
        with stopping_cleanly(), steps(as_json) as step:
            found = measure(opened, options, step)
        if as_json:
            print(json.dumps(found.to_json(), ensure_ascii=False))
        else:
            _print(found, console(stderr=False))


def _overhead(
    bundle: Bundle,
    artifacts: list[str] | None,
    engine: str,
    seconds: float,
    threads: int | None,
    as_json: bool,
) -> None:
    """`--overhead`: of every artifact on every engine."""
    from svfap_edge.benchmark.overhead import time_overhead
    from svfap_edge.benchmark.rounds import runnable
    from svfap_edge.errors import BackendUnavailable
    from svfap_edge.machine import describe_machine

    wanted, left_out = runnable(bundle, artifacts, engine)
    if not wanted:
        reasons = "\n".join(f"{o.artifact} on {o.engine}: {o.reason}" for o in left_out)
        raise BackendUnavailable(f"No artifact of '{bundle.path}' runs here.\n{reasons}")
    with stopping_cleanly(), steps(as_json) as step:
        found = []
        for timed in wanted:
            step(f"Timing {timed}")
            found.append(time_overhead(timed, seconds, threads))
    if as_json:
        rows = [row.to_json() for row in found]
        content = {"bundle": str(bundle.path), "machine": describe_machine(), "overhead": rows}
        print(json.dumps(content, ensure_ascii=False))
        return
    out = console(stderr=False)
    for row in found:
        out.print(
            f"{row.name} ({row.precision}): Engine.step adds {row.added_ms:.3f} ms "
            f"({row.share:.1%}; {row.low_ms:.3f} to {row.high_ms:.3f}) to {row.raw} of "
            f"{row.raw_ms:.2f} ms; {row.turns} turns. Stream.add: {row.add_ms:.3f} ms a frame."
        )


def _batches(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in split(text) or ())
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
    facts = found.machine
    out.print(f"{facts['cpu']}, {facts['cores']} cores, {facts['instruction sets']}")
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


def _print_model(found: Benchmark, out: Console) -> None:
    from rich.table import Table

    batches = [batch for batch in found.rows[0].throughput() if batch > 1]
    table = Table(box=None, pad_edge=False)
    table.add_column("model: one clip, ms")
    for heading in ("p50", "p95", "p99", "clips/s", *(f"of {b}" for b in batches)):
        table.add_column(heading, justify="right")
    for heading in ("cold start s", "with cache s", "peak MB"):
        table.add_column(heading, justify="right")
    for row in found.rows:
        latency, rates, content = row.latency(), row.throughput(), row.to_json()["cold_start_s"]
        starts = [content["without_cache"], content["with_cache"]]
        table.add_row(
            f"{row.name} ({row.precision})",
            f"{latency.p50:.2f}",
            f"{latency.p95:.2f}",
            "-" if latency.p99 is None else f"{latency.p99:.2f}",
            f"{rates[1]:.1f}",
            *(f"{rates[batch]:.1f}" for batch in batches),
            *(f"{start['median']:.2f}" if start else "-" for start in starts),
            f"{row.peak_mb:.0f}" if row.peak_mb else "-",
        )
    out.print(table)


def _print_application(found: Benchmark, out: Console) -> None:
    from rich.table import Table

    contents = [(row.name, row.application()) for row in found.rows]
    measured = [(name, content) for name, content in contents if content is not None]
    if not measured:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column(f"application on {found.options.source_name}: p50 / p95 ms")
    table.add_column("frames/s", justify="right")
    stages = measured[0][1]["stages"]
    for name, stage in stages.items():
        table.add_column(name + ("*" if stage["per"] != "frame" else ""), justify="right")
    table.add_column("peak MB", justify="right")
    for name, content in measured:
        cells = []
        for stage in content["stages"].values():
            ms = stage["ms"]
            times = f"{ms['p50']:.2f} / {ms['p95']:.2f}" if ms else "-"
            cells.append(f"{times} ({stage['share']:.0%})")
        table.add_row(name, f"{content['fps']:.0f}", *cells, f"{content['peak_mb']:.0f}")
    out.print(table)
    out.print(
        f"Faces by {measured[0][1]['detector']}. Milliseconds a frame; * a frame that brought "
        "predictions. In brackets the share of all time."
    )
