"""ONNX to a TensorRT plan, by TensorRT 10 or 11 or by TensorRT for RTX: one path for all.

Precision lives in the ONNX file (float32, half, Q/DQ) and the network is strongly typed: there are
no FP16 or INT8 flags and no calibrators, which TensorRT 11 does not have any more.

- TensorRT builds for the GPU that is present, and the plan runs on that kind of GPU only.
- TensorRT for RTX builds without any GPU, ahead of time: by default for every GPU of compute
  capability 8.0, 8.6, 8.9, 12.0 and later, or for those asked for (7.5 must be asked for).

Our graphs need two changes first (`adapt_to_tensorrt`), because TensorRT moves no bytes about and
reads unsigned quantization as if it were signed. `half_from_onnx` makes the half-precision model.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from svfap_edge.bundle import digest
from svfap_edge.errors import BackendUnavailable, EngineIncompatible, SvfapError

Flavour = Literal["auto", "tensorrt", "rtx"]

INPUT = "clips"
RTX_LIBRARIES = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
"""The package that carries the libraries of TensorRT for RTX."""

HALF_MAX = 65504.0
HALF_SMALL = 2.0**-10
"""Half precision holds numbers up to the first; a weight matrix all below the second loses bits."""

HALF_SCALE_MIN = 2.0**-19
"""Smallest quantization scale made: 32 times the smallest number of half precision."""


@dataclass(frozen=True)
class Builder:
    """A TensorRT that is installed here.

    Attributes:
        name: "TensorRT" or "TensorRT for RTX".
        version: As the library says, "10.3.0".
        trt: Its Python module.
    """

    name: str
    version: str
    trt: Any

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for GPUs that are not present."""
        return self.name == "TensorRT for RTX"


def find_builder(flavour: Flavour = "auto", compute_capabilities: Sequence[str] = ()) -> Builder:
    """The builder to use.

    Args:
        flavour: "tensorrt", "rtx", or "auto": TensorRT if it is installed, but TensorRT for RTX
            first where compute capabilities are asked for, which only it can build for.
        compute_capabilities: Those asked for.

    Raises:
        BackendUnavailable: it is not installed, or does not load; says why and what to install.
    """
    finders = {"tensorrt": _find_tensorrt, "rtx": _find_rtx}
    if flavour != "auto" and flavour not in finders:
        raise SvfapError(f"Unknown TensorRT flavour '{flavour}'. Known: auto, tensorrt, rtx.")
    order = ("rtx", "tensorrt") if compute_capabilities else ("tensorrt", "rtx")
    reasons = []
    for name in order if flavour == "auto" else (flavour,):
        try:
            return finders[name]()
        except BackendUnavailable as error:
            reasons.append(str(error))
    raise BackendUnavailable(" ".join(reasons))


def _find_tensorrt() -> Builder:
    install = (
        'Install it on the device itself: pip install "svfap-edge[tensorrt]" '
        "(on Jetson: use the TensorRT that JetPack brings)."
    )
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise BackendUnavailable(f"TensorRT cannot be used here ({error}). {install}") from error
    version = str(getattr(trt, "__version__", "unknown"))
    if version.partition(".")[0] not in ("10", "11"):
        raise BackendUnavailable(f"TensorRT {version} is here; 10.x or 11.x is needed. {install}")
    return Builder("TensorRT", version, trt)


def _find_rtx() -> Builder:
    install = 'Install it: pip install "svfap-edge[tensorrt-rtx]".'
    try:
        if importlib.util.find_spec("tensorrt_rtx"):  # NVIDIA's own package brings its libraries
            trt = importlib.import_module("tensorrt_rtx")
        else:
            libraries = _load_rtx_libraries()
            trt = importlib.import_module("tensorrt_rtx_bindings")
            if not f"{trt.__version__}.".startswith(f"{libraries}."):
                raise ImportError(f"libraries {libraries} do not fit bindings {trt.__version__}")
    except (ImportError, OSError) as error:
        reason = f"TensorRT for RTX cannot be used here ({error})."
        raise BackendUnavailable(f"{reason} {install}") from error
    return Builder("TensorRT for RTX", str(getattr(trt, "__version__", "unknown")), trt)


@functools.cache
def _load_rtx_libraries() -> str:
    """Load the libraries for the bindings to find, each after what it depends on.

    Returns:
        The version of TensorRT for RTX: "1.7.1".

    Raises:
        ImportError, OSError: the package or a library is missing, or does not load.
    """
    files = importlib.metadata.distribution(RTX_LIBRARIES).files or []
    version = ""
    for library in ("libcudart.so.", "libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so."):
        found = [file for file in files if file.name.startswith(library)]
        if not found:
            raise ImportError(f"{RTX_LIBRARIES} has no {library}*")
        ctypes.CDLL(str(found[0].locate()), mode=ctypes.RTLD_GLOBAL)
        version = found[0].name.removeprefix(library)
    return version


@dataclass(frozen=True)
class PlanSettings:
    """How to build.

    Attributes:
        batch: Smallest, most likely and largest number of clips in one run.
        workspace_mib: Most memory a layer may use while it runs, MiB.
        compute_capabilities: GPUs to build for, "8.6", "8.9" (TensorRT for RTX only).
        timing_cache: File that makes the next build faster (TensorRT only): read if it is there,
            and written back.
        options: See `parse_options`.

    Raises:
        SvfapError: a value makes no sense.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_mib: int = 1024
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        low, likely, high = self.batch
        if not 1 <= low <= likely <= high:
            raise SvfapError(f"Batch must be 1 <= min <= opt <= max; it is {self.batch}.")
        if self.workspace_mib < 1:
            raise SvfapError(f"The workspace must be 1 MiB or more; it is {self.workspace_mib}.")
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d{1,2}\.\d", capability):
                raise SvfapError(
                    f"'{capability}' is no compute capability; write it like 8.6 or 12.0."
                )

    def to_dict(self) -> dict[str, Any]:
        cache = self.timing_cache
        return {**asdict(self), "timing_cache": None if cache is None else cache.name}


def parse_options(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Split "KEY=VALUE" texts, for `PlanSettings.options`.

    KEY is an attribute of TensorRT's builder config (`builder_optimization_level`,
    `profiling_verbosity`) or `flag.NAME` for a builder flag (`flag.REFIT`) with VALUE 0 or 1.

    Raises:
        SvfapError: not KEY=VALUE, or a key given twice. The builder checks the rest.
    """
    options: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise SvfapError(
                f"TensorRT option '{text}' is not KEY=VALUE, like builder_optimization_level=3 "
                "or flag.TF32=0."
            )
        if key in options:
            raise SvfapError(f"TensorRT option '{key}' is given twice.")
        options[key] = value
    return tuple(options.items())


@dataclass(frozen=True)
class PlanInfo:
    """What was built.

    Attributes:
        builder: `Builder.name`.
        version: `Builder.version`.
        compute_capabilities: GPUs the plan is for. Empty: TensorRT for RTX's default, 8.0 and
            later; or, with TensorRT, the GPU of the build, which could not be asked.
        source_sha256: Of the ONNX file.
        settings: `PlanSettings.to_dict`.
        layers: Number of computing layers by precision, counted in the network before the build;
            see `count_layers`. The builder fuses them, but, strongly typed, keeps the precision.
        warnings: TensorRT's, each once.
        seconds: Time it took.
    """

    builder: str
    version: str
    compute_capabilities: tuple[str, ...]
    source_sha256: str
    settings: dict[str, Any]
    layers: dict[str, int]
    warnings: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def needs(info: PlanInfo) -> dict[str, Any]:
    """What a machine must have to run the plan, for the manifest's `needs`."""
    return {
        "tensorrt": info.version,
        "flavour": "rtx" if info.builder == "TensorRT for RTX" else "tensorrt",
        "compute_capability": list(info.compute_capabilities),
        "os": sys.platform,
        "machine": platform.machine(),
    }


def plan_from_onnx(
    source: Path,
    target: Path,
    settings: PlanSettings | None = None,
    builder: Builder | None = None,
) -> PlanInfo:
    """Build a plan. Ctrl-C stops the build at its next step.

    Args:
        source: Our fp32.onnx, int8.onnx (Q/DQ), or what `half_from_onnx` made of them.
        target: The file to write; it appears complete or not at all.

    Raises:
        BackendUnavailable: no builder.
        SvfapError: a setting that this builder does not have.
        EngineIncompatible: the parser or the builder refuses the model; in its own words.
    """
    settings = settings or PlanSettings()
    builder = builder or find_builder("auto", settings.compute_capabilities)
    _check_settings(builder, settings)
    started = time.perf_counter()
    trt, log = builder.trt, _log_of(builder.trt)
    log.lines.clear()
    model = _load(source)
    source_sha256 = digest(source)
    adapt_to_tensorrt(model)
    try:
        maker = trt.Builder(log)
    except TypeError as error:  # a null pointer from the library: no GPU, no driver
        raise _refusal(f"{builder.name} {builder.version} does not start", log) from error
    network, _parser = _parse(maker, trt, model.SerializeToString(), source.name, log)
    del model  # the builder needs the memory
    config = _configure(maker, trt, network, settings, log)
    layers = count_layers(network)
    plan = _serialize(maker, trt, network, config)
    if plan is None:
        raise _refusal(f"{builder.name} {builder.version} cannot build '{source.name}'", log)
    with _complete(target) as partial:
        partial.write_bytes(plan)
    if settings.timing_cache is not None:
        with _complete(settings.timing_cache) as partial:
            partial.write_bytes(config.get_timing_cache().serialize())
    return PlanInfo(
        builder=builder.name,
        version=builder.version,
        compute_capabilities=settings.compute_capabilities
        or (() if builder.ahead_of_time else present_capability()),
        source_sha256=source_sha256,
        settings=settings.to_dict(),
        layers=layers,
        warnings=tuple(dict.fromkeys(text for kind, text in log.lines if kind == "WARNING")),
        seconds=round(time.perf_counter() - started, 2),
    )


def present_capability() -> tuple[str, ...]:
    """Compute capability of the first GPU, by NVIDIA's driver: ("8.7",); () if there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    device, values = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return ()
    for value, attribute in zip(values, (75, 76), strict=True):  # major, minor; see cuda.h
        if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return ()
    return (f"{values[0].value}.{values[1].value}",)


def count_layers(network: Any) -> dict[str, int]:
    """Layers that compute, by precision: {"float16": 210, "int8": 60}.

    A layer's precision is its output's; a matrix product or convolution all of whose inputs are
    dequantized counts as int8. Constants, casts, shapes and quantizers do not count.
    """
    idle = {"CONSTANT", "CAST", "SHAPE", "SHUFFLE", "IDENTITY", "QUANTIZE", "DEQUANTIZE"}
    names = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantized: set[str] = set()
    counts: Counter[str] = Counter()
    for layer in layers:
        kind = layer.type.name
        dtype = layer.get_output(0).dtype.name if layer.num_outputs else ""
        moved = kind == "SHUFFLE" and layer.get_input(0).name in dequantized
        if kind == "DEQUANTIZE" or moved:  # the parser reshapes weights behind the dequantizer
            dequantized.add(layer.get_output(0).name)
        if kind in idle or dtype not in names:
            continue
        data = 2 if kind == "MATRIX_MULTIPLY" else 1 if kind == "CONVOLUTION" else 0
        inputs = [layer.get_input(index).name for index in range(data)]
        quantized = bool(inputs) and all(name in dequantized for name in inputs)
        counts["int8" if quantized else names[dtype]] += 1
    return dict(sorted(counts.items()))


def _check_settings(builder: Builder, settings: PlanSettings) -> None:
    if builder.ahead_of_time:
        if settings.timing_cache is not None:
            raise SvfapError("TensorRT for RTX has no timing cache; build without that option.")
        known = {_capability(name): name for name in builder.trt.ComputeCapability.__members__}
        unknown = [c for c in settings.compute_capabilities if c not in known]
        if unknown:
            raise SvfapError(
                f"{builder.name} {builder.version} does not build for compute capability "
                f"{', '.join(unknown)}; it does for {', '.join(filter(None, known))}."
            )
    elif settings.compute_capabilities:
        raise SvfapError(
            f"{builder.name} builds for the GPU that is present, not for compute capability "
            f"{', '.join(settings.compute_capabilities)}. Build on the device itself, or ahead of "
            'time with TensorRT for RTX: pip install "svfap-edge[tensorrt-rtx]".'
        )


def _capability(name: str) -> str:
    """ "SM89" to "8.9"; "" for names that are none."""
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}" if digits.isdigit() else ""


@functools.cache
def _log_of(trt: Any) -> Any:
    """Keeps warnings and errors. One for the process: TensorRT ignores a second logger."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity.value <= trt.ILogger.Severity.WARNING.value:
                self.lines.append((severity.name, message))

    return Log()


def _refusal(what: str, log: Any, words: Sequence[str] = ()) -> EngineIncompatible:
    """The error with the given words, or else the last errors logged."""
    if not words:
        words = [message for severity, message in log.lines if severity != "WARNING"]
        # Without a GPU every error brings one more about the missing driver.
        words = [w for w in words if "catchCudaError" not in w] or words
    lines = dict.fromkeys(words or ["It gave no reason."])
    return EngineIncompatible(f"{what}:\n  " + "\n  ".join(list(lines)[-8:]))


def _parse(maker: Any, trt: Any, content: bytes, name: str, log: Any) -> tuple[Any, Any]:
    """The network, and its parser, which must live as long."""
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = maker.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        words = [_words(parser.get_error(index)) for index in range(parser.num_errors)]
        raise _refusal(f"TensorRT's parser refuses '{name}'", log, words)
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    if inputs != [INPUT]:
        raise EngineIncompatible(
            f"'{name}' must have the one input '{INPUT}'; it has: {', '.join(inputs)}."
        )
    return network, parser


def _words(error: Any) -> str:
    """A parser error on one line, with its node where this version names it."""
    description = " ".join(
        line for line in str(error.desc()).splitlines() if "catchCudaError" not in line
    )
    node, operator = (getattr(error, key, str)() for key in ("node_name", "node_operator"))
    return f"node '{node}' ({operator}): {description}" if node or operator else description


def _load(source: Path) -> onnx.ModelProto:
    if not source.is_file():
        raise SvfapError(f"There is no ONNX file '{source}'.")
    try:
        model = onnx.load(str(source))
    except Exception as error:  # protobuf's own, which differs between its versions
        raise EngineIncompatible(f"'{source}' is not readable as ONNX ({error}).") from error
    if not model.graph.node:
        raise EngineIncompatible(f"'{source}' is not an ONNX model, or an empty one.")
    return model


def _configure(maker: Any, trt: Any, network: Any, settings: PlanSettings, log: Any) -> Any:
    config = maker.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.compute_capabilities:
        config.num_compute_capabilities = len(settings.compute_capabilities)
        for index, text in enumerate(settings.compute_capabilities):
            capability = getattr(trt.ComputeCapability, "SM" + text.replace(".", ""))
            if not config.set_compute_capability(capability, index):
                raise _refusal(f"Compute capability {text} was refused", log)
    first, *shape = tuple(network.get_input(0).shape)
    low, likely, high = settings.batch if first == -1 else (first,) * 3
    if first != -1 and settings.batch != (first,) * 3:
        raise SvfapError(f"The model takes batches of {first} only; ask for that.")
    profile = maker.create_optimization_profile()
    profile.set_shape(INPUT, (low, *shape), (likely, *shape), (high, *shape))
    if config.add_optimization_profile(profile) < 0:
        raise _refusal(f"Batch {settings.batch} was refused", log)
    if settings.timing_cache is not None:
        _use_timing_cache(config, settings.timing_cache)
    for key, value in settings.options:
        _set_option(config, trt, key, value)
    return config


def _use_timing_cache(config: Any, path: Path) -> None:
    """Use the file's timings; an empty cache if it is missing, damaged or of another GPU."""
    cache = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _set_option(config: Any, trt: Any, key: str, value: str) -> None:
    """Set an attribute or flag of the builder config, in the type that it has.

    Raises:
        SvfapError: unknown key, with the nearest known ones; or a value that does not fit.
    """
    flags = {f"flag.{name}": flag for name, flag in trt.BuilderFlag.__members__.items()}
    ours = {"num_compute_capabilities", "num_optimization_profiles", "progress_monitor", "flags"}
    kind = type(config)
    names = {name for name in dir(kind) if isinstance(getattr(kind, name), property)} - ours
    if key not in names and key not in flags:
        known = sorted(flags) if key.startswith("flag.") else sorted(names)
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or known
        raise SvfapError(f"TensorRT has no option '{key}'. Nearest: {', '.join(near)}.")
    if key in flags:
        _check_value(key, value, ("0", "1"))
        (config.set_flag if value == "1" else config.clear_flag)(flags[key])
        return
    wanted = _in_type_of(getattr(config, key), key, value)
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # seen by reading it back
        setattr(config, key, wanted)
    if getattr(config, key) != wanted:
        raise SvfapError(
            f"TensorRT does not take {key}={value}; it keeps {getattr(config, key)}. Choose a "
            "value in its range."
        )


def _in_type_of(present: Any, key: str, value: str) -> Any:
    """`value` as the type of `present`: an enum by name, a bool, int or float."""
    members = getattr(type(present), "__members__", None)
    if members:
        _check_value(key, value, tuple(members))
        return members[value]
    if isinstance(present, bool):
        _check_value(key, value, ("0", "1"))
        return value == "1"
    if not isinstance(present, (int, float)):
        raise SvfapError(f"TensorRT option '{key}' is no number or name, and cannot be set here.")
    try:
        return type(present)(value)
    except ValueError as error:
        kind = type(present).__name__
        raise SvfapError(f"TensorRT option {key}={value}: the value must be {kind}.") from error


def _check_value(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SvfapError(f"TensorRT option {key}={value}: choose {', '.join(known)}.")


def _serialize(maker: Any, trt: Any, network: Any, config: Any) -> Any:
    """Build in a second thread, so that Ctrl-C is heard; None if the build failed."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        stopped = False

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            pass

        def phase_finish(self, phase: str) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            return not self.stopped

    config.progress_monitor = monitor = Monitor()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(maker.build_serialized_network, network, config)
        try:
            return job.result()
        except BaseException:
            monitor.stopped = True
            raise


@contextmanager
def _complete(target: Path) -> Iterator[Path]:
    """A name beside `target` to write to; it becomes `target` if the block ends well."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def adapt_to_tensorrt(model: onnx.ModelProto) -> None:
    """Change a model in place to what TensorRT takes; without effect where nothing is to change.

    - The bytes of `clips` become numbers first. We cut the patches while they are bytes, which
      TensorRT cannot do. Half precision holds 0..255 exactly, at half the traffic of float32.
    - Unsigned activations (NNCF's choice behind ReLU, zero point 0) become signed ones of the same
      range, at half the resolution. TensorRT would read them as signed with the scale as it is:
      a warning, and everything above half the range cut off.

    Raises:
        EngineIncompatible: unsigned quantization with another zero point, or of weights.
    """
    del model.graph.value_info[:]  # hints about types, no longer true
    _cast_clips_first(model.graph)
    _sign_activations(model.graph)


def _cast_clips_first(graph: onnx.GraphProto) -> None:
    users = [node for node in graph.node if INPUT in node.input]
    if all(node.op_type == "Cast" for node in users):
        return
    for node in users:
        node.input[:] = [f"{INPUT}.half" if name == INPUT else name for name in node.input]
    cast = helper.make_node(
        "Cast", [INPUT], [f"{INPUT}.half"], name=f"{INPUT}.half", to=TensorProto.FLOAT16
    )
    graph.node.insert(0, cast)


def _sign_activations(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made: set[str] = set()

    def constant(name: str, values: np.ndarray) -> str:
        if name not in made:
            graph.initializer.append(numpy_helper.from_array(values, name))
            made.add(name)
        return name

    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        source, scale, zero = node.input
        if zero not in constants or constants[zero].data_type != TensorProto.UINT8:
            continue
        zeros = numpy_helper.to_array(constants[zero])
        if zeros.any() or source in constants or scale not in constants:
            raise EngineIncompatible(
                f"TensorRT takes signed quantization only; '{node.name}' is unsigned. "
                "Export int8.onnx again with symmetric signed quantizers."
            )
        # uint8 0..255 of `scale` covers what int8 0..127 of this scale does
        wider = (numpy_helper.to_array(constants[scale]) * (255 / 127)).astype(np.float32)
        node.input[1] = constant(f"{scale}.signed", wider)
        node.input[2] = constant(f"{zero}.signed", zeros.astype(np.int8))


def half_from_onnx(source: Path, target: Path) -> None:
    """Write a half-precision version of our fp32.onnx, or of int8.onnx with its Q/DQ.

    Input `clips` stays uint8 and outputs stay float32. In float32 stay, between casts, what half
    precision is known to hurt (LayerNormalization, whose squares overflow, and the mean over
    tokens), what comes before the first layer, and layers whose weights are too large or too small
    for half precision. No matrix product of ours is among them, which GPUs of compute capability
    7.5 need.

    Raises:
        EngineIncompatible: not readable, or Q/DQ below opset 19, where they are float32 only.
    """
    model = _load(source)
    adapt_to_tensorrt(model)
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if quantized and opset < 19:
        raise EngineIncompatible(f"'{source}' has opset {opset}; half precision Q/DQ needs 19.")
    _Half(model).convert()
    onnx.checker.check_model(model)
    with _complete(target) as partial:
        onnx.save(model, str(partial))


class _Half:
    """Rewrites a graph. `x.half` and `x.float` are the versions of a value `x` made by a cast."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.dtypes: dict[str, int] = {  # of every float value; changes as nodes do
            value.name: TensorProto.FLOAT
            for value in (*inferred.value_info, *inferred.output, *inferred.input)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.made: set[str] = set()

    def convert(self) -> None:
        before = {INPUT}  # values from the input to the first layer
        for node in list(self.graph.node):
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                self._add_quantizer(node)
            elif node.op_type in ("MatMul", "Conv"):
                self._add_layer(node)
                continue
            else:
                exact = node.op_type in ("LayerNormalization", "ReduceMean", "Constant")
                exact = exact or bool(before & set(node.input))
                self._add(node, TensorProto.FLOAT if exact else TensorProto.FLOAT16)
            if before & set(node.input):
                before.update(node.output)
        for output in self.graph.output:
            if self.dtypes.get(output.name) == TensorProto.FLOAT16:
                self._restore(output.name)
        self._finish()

    def _add(self, node: onnx.NodeProto, dtype: int) -> None:
        """Add a node that computes in the type given."""
        node.input[:] = [self._value(name, dtype) for name in node.input]
        for name in node.output:
            if name in self.dtypes:
                self.dtypes[name] = dtype
        if node.op_type == "Cast" and node.output[0] in self.dtypes:
            next(a for a in node.attribute if a.name == "to").i = dtype
        self.nodes.append(node)

    def _add_layer(self, node: onnx.NodeProto) -> None:
        weight = self.constants.get(node.input[1])
        if weight is not None:
            largest = np.abs(numpy_helper.to_array(weight)).max(initial=0)
            exact = largest > HALF_MAX or 0 < largest < HALF_SMALL
            self._add(node, TensorProto.FLOAT if exact else TensorProto.FLOAT16)
        elif node.op_type == "Conv" and len(node.input) == 3:
            # ONNX Runtime rounds the bias of a quantized half convolution wrongly to int32.
            output, bias = node.output[0], node.input.pop()
            node.output[0] = f"{output}.unbiased"
            self.dtypes[node.output[0]] = TensorProto.FLOAT16
            self._add(node, TensorProto.FLOAT16)
            values = numpy_helper.to_array(self.constants[bias]).reshape(1, -1, 1, 1)
            bias = self._constant(f"{bias}.half", values.astype(np.float16))
            add = helper.make_node("Add", [node.output[0], bias], [output], name=bias)
            self._add(add, TensorProto.FLOAT16)
        else:
            self._add(node, TensorProto.FLOAT16)

    def _add_quantizer(self, node: onnx.NodeProto) -> None:
        """A quantizer or dequantizer, in half.

        Scales are rounded up to half, and to `HALF_SCALE_MIN` where a channel is all but dead;
        weights of a scale that grew are rounded again.
        """
        source, scale = node.input[:2]
        exact = numpy_helper.to_array(self.constants[scale])
        half = np.maximum(exact, HALF_SCALE_MIN).astype(np.float16)
        half = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
        node.input[1] = self._constant(f"{scale}.half", half)
        if source in self.constants:
            weights = numpy_helper.to_array(self.constants[source])
            ratio = exact / half.astype(np.float32)
            if ratio.ndim:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                ratio = np.expand_dims(ratio, [d for d in range(weights.ndim) if d != axis])
            again = np.rint(weights * ratio).astype(weights.dtype)
            node.input[0] = self._constant(f"{source}.half", again)
        else:
            node.input[0] = self._value(source, TensorProto.FLOAT16)
        if node.op_type == "DequantizeLinear":
            self.dtypes[node.output[0]] = TensorProto.FLOAT16
        self.nodes.append(node)

    def _value(self, name: str, dtype: int) -> str:
        """The name of a value in the type wanted; adds the cast or constant for it."""
        constant = self.constants.get(name)
        if constant is not None and constant.data_type == TensorProto.FLOAT:
            if dtype == TensorProto.FLOAT:
                return name
            # A mask's -1e9 becomes the lowest number there is; weights do not come here so large.
            values = numpy_helper.to_array(constant).clip(-HALF_MAX, HALF_MAX)
            return self._constant(f"{name}.half", values.astype(np.float16))
        if name not in self.dtypes or self.dtypes[name] == dtype:
            return name
        variant = name + (".half" if dtype == TensorProto.FLOAT16 else ".float")
        if variant not in self.made:
            self.made.add(variant)
            self.nodes.append(helper.make_node("Cast", [name], [variant], name=variant, to=dtype))
        return variant

    def _constant(self, name: str, values: np.ndarray) -> str:
        if name not in self.made:
            self.made.add(name)
            self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _restore(self, name: str) -> None:
        """Give an output, in float32 again, its old name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [f"{name}.half" if n == name else n for n in names]
        cast = helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
        self.nodes.append(cast)

    def _finish(self) -> None:
        used = {name for node in self.nodes for name in node.input}
        constants = [tensor for tensor in self.graph.initializer if tensor.name in used]
        for field, content in (
            (self.graph.node, self.nodes),
            (self.graph.initializer, constants),
        ):
            del field[:]
            field.extend(content)
