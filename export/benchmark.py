"""Every artifact of a bundle beside PyTorch, in fresh processes that alternate.

    python -m svfap_edge.export.benchmark CHECKPOINT BUNDLE [--rounds 5] [--isa AVX2]

Rows: PyTorch eager fp32 with the attention written out as in the published code (the reference of
all ratios), PyTorch bf16 with fused attention, and each artifact. For each artifact also the cold
start: from process start to the first prediction, and the peak memory, with the engine's cache
filled. Prints a Markdown table; quote it with the machine line above it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge.bundle import Bundle
from svfap_edge.machine import describe_machine
from svfap_edge.runtimes.backend import choose
from svfap_edge.timing import Timed, latencies_printed_by, time_artifacts, time_calls

COLD = """
import resource, sys, time
from svfap_edge import Engine
import numpy as np
with Engine.load(sys.argv[1], artifact=sys.argv[2], engine=sys.argv[3]) as engine:
    engine.infer(np.zeros((1, *engine.spec.clip.shape), np.uint8))
    print(time.time())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def torch_latencies(checkpoint: Path, mode: str, clips: int) -> list[float]:
    """Milliseconds a clip in this process; mode "plain" or "bf16"."""
    import torch
    from torch import Tensor

    from svfap_edge.training.checkpoint import load_checkpoint

    def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return scores.softmax(dim=-1) @ v

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
    return latencies_printed_by("svfap_edge.export.benchmark", options, f"PyTorch {mode}")


def cold_start(timed: Timed) -> tuple[float, float]:
    """(seconds from process start to the first prediction, peak memory in MB)."""
    command = [sys.executable, "-c", COLD, str(timed.bundle), timed.artifact, timed.engine]
    start = time.time()  # the one clock that two processes share everywhere
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    predicted, memory = map(float, result.stdout.split()[-2:])
    return predicted - start, memory


def run(checkpoint: Path, folder: Path, rounds: int, clips: int, cold: int) -> dict[str, Any]:
    """All rows; latencies in ms, cold start in s, memory in MB."""
    bundle = Bundle.open(folder)
    artifacts = []
    for name in bundle.manifest.artifacts:
        for engine in ("openvino", "onnxruntime"):
            try:
                artifacts.append(Timed(folder, *choose(bundle, name, engine)))
            except Exception as error:
                print(f"left out: {name} on {engine}: {error}", file=sys.stderr)
    rows: dict[str, list[float]] = {"torch fp32, plain": [], "torch bf16": []}
    rows.update({f"{a.artifact} on {a.engine}": [] for a in artifacts})
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        rows["torch fp32, plain"] += _torch_process(checkpoint, "plain", clips)
        rows["torch bf16"] += _torch_process(checkpoint, "bf16", clips)
        for artifact, found in zip(
            artifacts, time_artifacts(artifacts, clips=clips, rounds=1), strict=True
        ):
            rows[f"{artifact.artifact} on {artifact.engine}"] += found.tolist()
    starts = {}
    for artifact in artifacts:
        cold_start(artifact)  # fills the engine's cache
        found_cold = [cold_start(artifact) for _ in range(cold)]
        starts[f"{artifact.artifact} on {artifact.engine}"] = (
            float(np.median([s for s, _ in found_cold])),
            float(max(mb for _, mb in found_cold)),
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
        print(json.dumps(torch_latencies(args.checkpoint, args.torch, args.clips)))
        return
    if args.isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = args.isa
        os.environ["SVFAP_EDGE_CACHE"] = "off"  # the cache does not know the instruction set
    print(table(run(args.checkpoint, args.bundle, args.rounds, args.clips, args.cold)))


if __name__ == "__main__":
    main()
