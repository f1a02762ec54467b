"""Every artifact of a bundle beside PyTorch, in fresh processes that alternate.

    python -m svfap_edge.export.benchmark CHECKPOINT BUNDLE [--rounds 5] [--isa AVX2]

Rows: PyTorch eager fp32 with the attention written out as in the published code (the reference of
all ratios), PyTorch bf16 with fused attention, and each artifact. For each artifact also the cold
start: from process start to the first prediction, and the peak memory, with the engine's cache
filled. Prints a Markdown table; quote it with the machine line above it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge.benchmark.processes import answer_of, answering
from svfap_edge.benchmark.rounds import runnable
from svfap_edge.benchmark.timing import cold_start, time_artifacts, time_calls
from svfap_edge.bundle import Bundle
from svfap_edge.machine import describe_machine


def torch_latencies(checkpoint: Path, mode: str, clips: int) -> list[float]:
    """Milliseconds a clip in this process; mode "plain" or "bf16"."""
    import torch

    from svfap_edge.training.benchmark import written_out
    from svfap_edge.training.checkpoint import load_checkpoint

    if mode == "plain":
        torch.nn.functional.scaled_dot_product_attention = written_out  # type: ignore[assignment]
    model = load_checkpoint(checkpoint).model
    if mode == "bf16":
        model = model.bfloat16()
    config = model.config
    kind = torch.bfloat16 if mode == "bf16" else torch.float32
    clip = torch.randn(1, 3, config.frames, config.size, config.size, dtype=kind)
    with torch.inference_mode():
        return time_calls(lambda: model(clip), clips)


def _torch_process(checkpoint: Path, mode: str, clips: int) -> list[float]:
    options = [str(checkpoint), "-", "--torch", mode, "--clips", str(clips)]
    module = ["-m", "svfap_edge.export.benchmark"]
    return [float(ms) for ms in answer_of([*module, *options], f"Timing PyTorch {mode}")]


def run(checkpoint: Path, folder: Path, rounds: int, clips: int, cold: int) -> dict[str, Any]:
    """All rows; latencies in ms, cold start in s, memory in MB."""
    bundle = Bundle.open(folder)
    artifacts, left_out = runnable(bundle)
    for each in left_out:
        print(f"left out: {each.artifact} on {each.engine}: {each.reason}", file=sys.stderr)
    rows: dict[str, list[float]] = {"torch fp32, plain": [], "torch bf16": []}
    rows.update({str(a): [] for a in artifacts})
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        rows["torch fp32, plain"] += _torch_process(checkpoint, "plain", clips)
        rows["torch bf16"] += _torch_process(checkpoint, "bf16", clips)
        for artifact, found in zip(
            artifacts, time_artifacts(artifacts, clips=clips, rounds=1), strict=True
        ):
            rows[str(artifact)] += found.tolist()
    starts = {}
    for artifact in artifacts:
        cold_start(artifact)  # fills the engine's cache
        found_cold = [cold_start(artifact) for _ in range(cold)]
        starts[str(artifact)] = (
            float(np.median([each.seconds for each in found_cold])),
            max(each.peak_mb for each in found_cold),
        )
    return {"machine": describe_machine(), "latency_ms": rows, "cold": starts}


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows, cold = found["latency_ms"], found["cold"]
    reference = float(np.median(rows["torch fp32, plain"]))
    lines = [
        "; ".join(f"{key}: {value}" for key, value in found["machine"].items()),
        "",
        "| variant | p50 ms | p95 ms | x torch fp32 | cold start s | peak MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, values in rows.items():
        p50, p95 = np.percentile(values, [50, 95])
        start, memory = cold.get(name, (None, None))
        tail = f"{start:.2f} | {memory:.0f}" if start is not None else "- | -"
        lines.append(f"| {name} | {p50:.1f} | {p95:.1f} | {reference / p50:.2f} | {tail} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=10, help="timed clips a process")
    parser.add_argument("--cold", type=int, default=5, help="cold starts an artifact")
    parser.add_argument("--isa", help="instruction set OpenVINO may use, as ONEDNN_MAX_CPU_ISA")
    parser.add_argument("--torch", choices=("plain", "bf16"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch:
        with answering() as answer:
            answer(torch_latencies(args.checkpoint, args.torch, args.clips))
        return
    if args.isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = args.isa
        os.environ["SVFAP_EDGE_CACHE"] = "off"  # the cache does not know the instruction set
    print(table(run(args.checkpoint, args.bundle, args.rounds, args.clips, args.cold)))


if __name__ == "__main__":
    main()
