"""What predicts: the model in the package, the engines, NVIDIA's driver and packages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .doctor_check import Answer, Check, one_line, version_of
from .errors import SvfapError

GPU_PACKAGES = (
    ("tensorrt", ("tensorrt",), "tensorrt", "tensorrt", 'pip install "svfap-edge[tensorrt]"'),
    ("tensorrt for rtx", ("tensorrt_rtx", "tensorrt_rtx_bindings"), "tensorrt", "rtx",
     'pip install "svfap-edge[tensorrt-rtx]"'),
    ("pycuda", ("pycuda",), "module", "pycuda.driver", "pip install pycuda"),
    ("cuda-python", ("cuda.bindings",), "module", "cuda.bindings.driver",
     "pip install cuda-python"),
)  # fmt: skip
"""Name, modules of which one is there if it is installed, its probe, and how to get it."""


def engine_table() -> tuple[dict[str, Any], list[Check]]:
    """Engines that can run the model in the package; none, and the reason, where even numpy is
    broken. TensorRT, which runs plans only, is among the GPU's packages."""
    try:
        from .runtimes.backend import ENGINES
    except Exception as error:  # a broken numpy raises all kinds of errors
        return {}, [
            Check(
                "engines", "all", "broken", one_line(str(error)),
                "pip install --force-reinstall numpy",
            )
        ]  # fmt: skip
    return {name: entry for name, entry in ENGINES.items() if "onnx" in entry.formats}, []


def check_package_model(answer: Answer) -> Check:
    name = "model in the package"
    if isinstance(answer, SvfapError):
        advice = "Install svfap-edge again: pip install --force-reinstall --no-deps svfap-edge"
        return Check("model", name, "broken", one_line(str(answer)), advice)
    return Check("model", name, "ok", f"{answer['name']}: {', '.join(answer['artifacts'])}")


def check_engine(name: str, entry: Any, answer: Answer | None, model: Answer) -> Check:
    if answer is None:
        return Check("engines", name, "missing", "not installed", f"{entry.install}")
    if isinstance(answer, dict):
        ran = f"{answer['version']}: ran {answer['artifact']} in {answer['precision']}"
        offers = f"; offers {', '.join(answer['offers'])}" if answer.get("offers") else ""
        return Check("engines", name, "ok", (ran + offers).removeprefix(": "))
    if isinstance(model, SvfapError):
        return Check("engines", name, "note", "installed; not tried without an intact model")
    formats = {artifact.partition(".")[2] for artifact in model["artifacts"]}
    if not formats & set(entry.formats):
        reason = "installed; not tried, for the model in the package has no artifact for it"
        return Check("engines", name, "note", reason, "Try it: svfap-edge benchmark BUNDLE")
    advice = f"Install it again: {entry.install} --force-reinstall"
    return Check("engines", name, "broken", one_line(str(answer)), advice)


def check_driver(answer: Answer) -> Check:
    advice = "Nothing, unless this machine should run TensorRT."
    if isinstance(answer, SvfapError):
        return Check("gpu", "nvidia driver", "broken", one_line(str(answer)), "Install it again.")
    if answer.get("problem") == "no NVIDIA driver":
        return Check("gpu", "nvidia driver", "missing", "not installed", advice)
    if "problem" in answer:
        return Check(
            "gpu", "nvidia driver", "broken", answer["problem"],
            "See nvidia-smi. In a container, start it with its GPUs (--gpus all).",
        )  # fmt: skip
    gpus = ", ".join(
        f"{gpu['name']} (compute capability {gpu['compute_capability']}, {gpu['memory_mib']} MiB)"
        for gpu in answer["gpus"]
    )
    return Check("gpu", "nvidia driver", "ok", f"CUDA {answer['cuda']}: {gpus or 'no GPU'}")


def check_gpu_packages(answers: dict[str, Answer]) -> Iterator[Check]:
    for name, _, _, _, install in GPU_PACKAGES:
        answer = answers.get(name)
        if answer is None:
            advice = f"For NVIDIA GPUs only: {install}"
            yield Check("gpu", name, "missing", "not installed", advice)
        elif isinstance(answer, SvfapError):
            yield Check(
                "gpu", name, "broken", one_line(str(answer)), f"Install it again: {install}"
            )
        else:
            found = answer["version"] or version_of(name) or "unknown version"
            yield Check("gpu", name, "ok", f"{found}, loads")
