"""Plans by the real builder where one is installed (TensorRT for RTX needs no GPU to build)."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from svfap_edge.atomic import written_whole
from svfap_edge.bundle import Bundle, digest
from svfap_edge.cli.app import app
from svfap_edge.errors import BackendUnavailable, EngineIncompatible, SvfapError
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.export.half_from_onnx import half_from_onnx
from svfap_edge.export.model_files import adapt_to_tensorrt
from svfap_edge.export.onnx_from_model import onnx_from_model
from svfap_edge.export.trt import plan_from_onnx as tensorrt_from_onnx
from svfap_edge.export.trt.builder import (
    PlanSettings,
    configured,
    find_builder,
    plan_settings,
    present_capability,
)
from svfap_edge.export.trt.plan_from_onnx import PlanInfo, needs, plan_from_onnx
from svfap_edge.runtimes.trt import library
from svfap_edge.runtimes.trt.library import TensorRT, log_of
from svfap_edge.training.model import TPSBTConfig
from tests.conftest import skip_if_ignored
from tests.models import TINY, model_with_weights, save_ours

ADA = PlanSettings(compute_capabilities=("8.9",))
STEM = TPSBTConfig.from_dict({**TINY.to_dict(), "stem": (8, 12), "depths": (1, 2, 1)})


@pytest.fixture(scope="session")
def rtx() -> TensorRT:
    try:
        return find_builder("rtx")
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sources(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model in each precision, and one with a convolutional stem."""
    folder = tmp_path_factory.mktemp("onnx")
    files = {name: folder / f"{name}.onnx" for name in ("fp16", "int8", "int8-fp16")}
    files["fp32"] = tiny.path_of("fp32.onnx")
    half_from_onnx(files["fp32"], files["fp16"])
    quantized(files["fp32"], files["int8"], synthetic_clips(tiny.manifest.clip, 4))
    half_from_onnx(files["int8"], files["int8-fp16"])
    return files


def quantized(source: Path, target: Path, clips: np.ndarray) -> None:
    pytest.importorskip("nncf", reason="NNCF, which makes the INT8 model, is not installed")
    int8 = importlib.import_module("svfap_edge.export.int8.recipe")
    int8.int8_onnx_from_fp32(source, target, clips)


def logits(path: Path, clips: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(["logits"], {"clips": clips})
    return np.asarray(output)


def bytes_model(path: Path, *operators: str, shape: Sequence[str | int] = ("N", 4)) -> Path:
    """`clips` cast to float, through `operators`, to `logits`."""
    names = ["float", *(f"value{i}" for i in range(1, len(operators))), "logits"]
    nodes = [helper.make_node("Cast", ["clips"], ["float"], to=TensorProto.FLOAT)]
    for operator, source, target in zip(operators, names, names[1:], strict=False):
        nodes.append(helper.make_node(operator, [source], [target], name=f"my {operator}"))
    graph = helper.make_graph(
        nodes,
        "bytes",
        [helper.make_tensor_value_info("clips", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-fp16"])
def test_every_precision_builds(
    tmp_path: Path, rtx: TensorRT, sources: dict[str, Path], precision: str
) -> None:
    plan = tmp_path / "model.plan"
    info = plan_from_onnx(sources[precision], plan, ADA, rtx)
    assert [p.name for p in tmp_path.iterdir()] == ["model.plan"]
    assert plan.stat().st_size > 10_000
    assert info.builder == "TensorRT for RTX"
    assert info.version == rtx.version
    assert info.source_sha256 == digest(sources[precision])
    assert info.warnings == ()
    assert info.seconds > 0
    widest = "float16" if "fp16" in precision else "float32"
    assert max(info.layers, key=lambda name: info.layers[name]) == widest
    assert ("int8" in info.layers) == ("int8" in precision)
    content = json.loads(json.dumps(asdict(info)))
    assert content["settings"]["compute_capabilities"] == ["8.9"]


def test_capabilities_make_the_needs(
    tmp_path: Path, rtx: TensorRT, sources: dict[str, Path]
) -> None:
    def build(*capabilities: str) -> PlanInfo:
        settings = PlanSettings(compute_capabilities=capabilities)
        return plan_from_onnx(sources["fp16"], tmp_path / "model.plan", settings, rtx)

    one, two, turing, default = build("8.6"), build("8.6", "8.9"), build("7.5"), build()
    assert needs(one)["compute_capability"] == ["8.6"]
    assert needs(two)["compute_capability"] == ["8.6", "8.9"]
    assert needs(turing)["compute_capability"] == ["7.5"]
    assert needs(default)["compute_capability"] == []
    assert needs(one)["flavour"] == "rtx"
    assert needs(one)["tensorrt"] == rtx.version
    assert needs(one)["os"] == sys.platform
    assert set(needs(one)) == {"tensorrt", "flavour", "compute_capability", "os", "machine"}


@pytest.mark.parametrize("config", [TINY, STEM], ids=["patches", "stem"])
def test_half_stays_close(tmp_path: Path, tiny: Bundle, config: TPSBTConfig) -> None:
    fp32, half = tmp_path / "fp32.onnx", tmp_path / "half.onnx"
    onnx_from_model(model_with_weights(config), fp32)
    half_from_onnx(fp32, half)
    clips = synthetic_clips(tiny.manifest.clip, 4, seed=2)
    clips[0] = 255
    reference, found = logits(fp32, clips), logits(half, clips)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.abs(found - reference).max() < 5e-3 * np.abs(reference).max()
    assert half.stat().st_size < 0.75 * fp32.stat().st_size
    model = onnx.load(str(half))
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version <= 20
    (norm,) = (n for n in model.graph.node if n.name == "fc_norm")
    scale = next(t for t in model.graph.initializer if t.name == norm.input[1])
    assert scale.data_type == TensorProto.FLOAT


@pytest.mark.usefixtures("exact_int8")
@pytest.mark.parametrize("config", [TINY, STEM], ids=["patches", "stem"])
def test_half_of_int8_stays_close(tmp_path: Path, tiny: Bundle, config: TPSBTConfig) -> None:
    fp32, int8, half = (tmp_path / f"{name}.onnx" for name in ("fp32", "int8", "half"))
    onnx_from_model(model_with_weights(config), fp32)
    clips = synthetic_clips(tiny.manifest.clip, 4, seed=2)
    quantized(fp32, int8, clips)
    _kill_a_channel(int8)
    half_from_onnx(int8, half)
    reference, found = logits(int8, clips), logits(half, clips)
    assert np.abs(found - reference).max() < 3e-2 * np.abs(reference).max()


def _kill_a_channel(path: Path) -> None:
    """Give one weight channel a scale that half precision would round to zero."""
    model = onnx.load(str(path))
    scales = {t.name: t for t in model.graph.initializer if "fc2.weight" in t.name}
    name, tensor = next((n, t) for n, t in scales.items() if n.startswith("scale"))
    values = numpy_helper.to_array(tensor).copy()
    values[1] = 1e-9
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    del model.graph.value_info[:]
    onnx.save(model, str(path))


def test_unsigned_activations_become_signed() -> None:
    """TensorRT would read the bytes as signed with the scale as it is: half the range lost."""

    def model(zero: int) -> onnx.ModelProto:
        constants = {"s": np.array(0.01, np.float32), "z": np.array(zero, np.uint8)}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "unsigned",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    signed = model(0)
    adapt_to_tensorrt(signed)
    session = ort.InferenceSession(signed.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.array([0, 1, 2, 2.55], np.float32)
    np.testing.assert_allclose(session.run(None, {"x": values})[0], values, atol=0.0101)
    with pytest.raises(EngineIncompatible, match="'quantize' is unsigned"):
        adapt_to_tensorrt(model(128))


def test_parser_refusal_is_told_in_its_words(tmp_path: Path, rtx: TensorRT) -> None:
    source = bytes_model(tmp_path / "odd.onnx", "Frobnicate")
    with pytest.raises(EngineIncompatible, match=r"(?s)'odd.onnx'.*'my Frobnicate'.*not found"):
        plan_from_onnx(source, tmp_path / "odd.plan", ADA, rtx)
    assert [p.name for p in tmp_path.iterdir()] == ["odd.onnx"]


def test_unreadable_sources(tmp_path: Path, rtx: TensorRT) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"not a model " * 100)
    with pytest.raises(EngineIncompatible, match="not readable as ONNX"):
        plan_from_onnx(tmp_path / "junk.onnx", tmp_path / "x.plan", ADA, rtx)
    with pytest.raises(SvfapError, match="no ONNX file"):
        plan_from_onnx(tmp_path / "none.onnx", tmp_path / "x.plan", ADA, rtx)


def test_failed_build_leaves_nothing(
    tmp_path: Path, rtx: TensorRT, sources: dict[str, Path]
) -> None:
    """GPUs of compute capability 7.5 have no float32 matrix product in TensorRT for RTX."""
    (tmp_path / "model.plan").write_text("the old one")
    settings = PlanSettings(compute_capabilities=("7.5",))
    with pytest.raises(EngineIncompatible, match=r"(?s)cannot build.*FP32 GEMM"):
        plan_from_onnx(sources["fp32"], tmp_path / "model.plan", settings, rtx)
    assert [p.name for p in tmp_path.iterdir()] == ["model.plan"]
    assert (tmp_path / "model.plan").read_text() == "the old one"


@pytest.mark.skipif(os.name == "nt", reason="sends itself SIGINT")
def test_ctrl_c_stops_the_build(
    tmp_path: Path, rtx: TensorRT, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_if_ignored(signal.SIGINT)

    def interrupt(folder: Any) -> dict[str, int]:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return {}

    # Counting the layers comes just before the build.
    monkeypatch.setattr(tensorrt_from_onnx, "precisions_of_tensorrt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan_from_onnx(sources["fp32"], tmp_path / "model.plan", ADA, rtx)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with written_whole(tmp_path / "x") as partial:
            partial.write_text("half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_options_reach_the_builder(tmp_path: Path, rtx: TensorRT) -> None:
    source = bytes_model(tmp_path / "m.onnx", "Relu")

    def build(*texts: str) -> PlanInfo:
        settings = plan_settings(texts, ("8.9",))
        return plan_from_onnx(source, tmp_path / "m.plan", settings, rtx)

    info = build("builder_optimization_level=1", "profiling_verbosity=DETAILED", "flag.TF32=0")
    assert info.settings["flags"] == {"TF32": False}
    assert info.settings["builder_optimization_level"] == 1
    assert info.settings["profiling_verbosity"] == "DETAILED"
    with pytest.raises(SvfapError, match=r"no option 'optimization_level'.*builder_optimization"):
        build("optimization_level=3")
    with pytest.raises(SvfapError, match=r"no option 'flag.FP61'.*flag\."):
        build("flag.FP61=1")
    with pytest.raises(SvfapError, match="choose 0, 1"):
        build("flag.TF32=yes")
    with pytest.raises(SvfapError, match="'best' is no whole number"):
        build("builder_optimization_level=best")
    with pytest.raises(SvfapError, match="does not take builder_optimization_level=99"):
        build("builder_optimization_level=99")
    with pytest.raises(SvfapError, match=r"choose .*DETAILED"):
        build("profiling_verbosity=ALL")


def test_unknown_options_are_told_the_known_ones(rtx: TensorRT) -> None:
    def message(text: str) -> str:
        with pytest.raises(SvfapError, match="has no option") as caught:
            configured(rtx, plan_settings([text]))
        return str(caught.value)

    def known(text: str) -> list[str]:
        return message(text).partition("Known: ")[2].rstrip(".").split(", ")

    assert "builder_optimization_level? Known" in message("optimisation_level=3")
    ours = {"workspace_mib", "timing_cache", "batch"}
    theirs = {"builder_optimization_level", "profiling_verbosity"}
    assert ours | theirs | {"flag.NAME"} == set(known("optimisation_level=3"))
    assert "flag.REFIT" in known("flag.NONE=1")
    for hidden in ("flags", "profile_stream", "memory.TACTIC_DRAM", "compute_capabilities"):
        assert hidden not in known(f"{hidden}=1")


def test_every_kind_of_option_is_set(rtx: TensorRT) -> None:
    texts = ["workspace_mib=64", "batch=1,2,3", "builder_optimization_level=1", "flag.REFIT=1"]
    texts += ["flag.TF32=0", "profiling_verbosity=DETAILED"]
    settings = plan_settings(texts, ("8.9",))
    assert (settings.workspace_mib, settings.batch) == (64, (1, 2, 3))
    trt, (_, config) = rtx.trt, configured(rtx, settings)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.builder_optimization_level == 1
    assert config.get_flag(trt.BuilderFlag.REFIT)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    for name in trt.BuilderFlag.__members__:
        refusals = [_refusal(rtx, f"flag.{name}", value) for value in "01"]
        assert "" in refusals, name  # what it is already, at least
        assert all(not r or f"does not take flag.{name}=" in r for r in refusals)


def _refusal(builder: TensorRT, key: str, value: str) -> str:
    try:
        configured(builder, plan_settings([f"{key}={value}"]))
    except SvfapError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workspace_mib=much", "workspace_mib: 'much' is no whole number"),
        ("workspace_mib=0", "1 MiB or more"),
        ("batch=1,8", "give three, like 1,1,8"),
        ("batch=1,8,x", "batch: 'x' is no whole number"),
        ("flag.TF32=yes", "choose 0, 1"),
        ("timing_cache=/no/such/folder/t", "folder of the timing cache"),
    ],
)
def test_bad_values_of_our_own_options(text: str, words: str) -> None:
    with pytest.raises(SvfapError, match=words):
        plan_settings([text])


def export_call(folder: Path, *options: object) -> Result:
    """`svfap-edge export` of the tiny model to a plan."""
    checkpoint = save_ours(folder / "m.pth", model_with_weights(TINY))
    call = ["export", checkpoint, "--task", "moods", "--labels", "a,b,c,d", "-o", folder / "b"]
    call += ["--artifacts", "fp16.tensorrt", "--compute-capability", "8.9", *options]
    return CliRunner().invoke(app, [str(part) for part in call])


def test_options_are_refused_before_the_work(tmp_path: Path, rtx: TensorRT) -> None:
    for text, words in (
        ("speed=11", "Known: workspace_mib, timing_cache"),
        (f"timing_cache={tmp_path / 't'}", "TensorRT for RTX has no timing cache"),
        ("builder_optimization_level=-1", "does not take builder_optimization_level=-1"),
    ):
        result = export_call(tmp_path, "--trt", text)
        assert result.exit_code == 2, result.output
        assert words in result.output
        assert "Opening" not in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["m.pth"]


def test_options_of_the_command_line_reach_the_plan(tmp_path: Path, rtx: TensorRT) -> None:
    given = ("workspace_mib=256", "batch=1,2,4", "builder_optimization_level=2")
    result = export_call(tmp_path, *(part for text in given for part in ("--trt", text)))
    assert result.exit_code == 0, result.output
    build = Bundle.open(tmp_path / "b").manifest.quality["fp16.tensorrt"]["build"]
    assert build["settings"]["workspace_mib"] == 256
    assert build["settings"]["batch"] == [1, 2, 4]
    assert build["settings"]["builder_optimization_level"] == 2


def test_help_names_the_options() -> None:
    text = " ".join(CliRunner().invoke(app, ["export", "--help"]).output.split())
    for word in ("workspace_mib", "timing_cache", "builder_optimization_level", "flag.TF32"):
        assert word in text


def test_malformed_options() -> None:
    settings = plan_settings(["workspace_mib=1", " flag.B = 0 "])
    assert (settings.workspace_mib, settings.flags) == (1, (("B", False),))
    for text in ("a", "=1", "a="):
        with pytest.raises(SvfapError, match="is not KEY=VALUE"):
            plan_settings([text])
    with pytest.raises(SvfapError, match="given twice"):
        plan_settings(["batch=1,1,1", "batch=1,1,2"])


def test_impossible_settings() -> None:
    for batch in ((0, 1, 1), (2, 1, 4), (1, 8, 4)):
        with pytest.raises(SvfapError, match="Batch must be"):
            PlanSettings(batch=batch)
    for capability in ("89", "sm_89", "8.9 ", ""):
        with pytest.raises(SvfapError, match="is no compute capability"):
            PlanSettings(compute_capabilities=(capability,))
    with pytest.raises(SvfapError, match="workspace"):
        PlanSettings(workspace_mib=0)


def test_settings_of_the_other_flavour(tmp_path: Path, rtx: TensorRT) -> None:
    source = bytes_model(tmp_path / "m.onnx", "Relu")
    hopper = PlanSettings(compute_capabilities=("9.0",))
    with pytest.raises(SvfapError, match=r"not build for compute capability 9\.0; it does for 7"):
        plan_from_onnx(source, tmp_path / "m.plan", hopper, rtx)
    with pytest.raises(SvfapError, match="no timing cache"):
        plan_from_onnx(source, tmp_path / "m.plan", PlanSettings(timing_cache=tmp_path / "t"), rtx)
    regular = TensorRT("TensorRT", "10.3.0", rtx.trt)
    with pytest.raises(SvfapError, match="builds for the GPU that is present"):
        plan_from_onnx(source, tmp_path / "m.plan", ADA, regular)


@pytest.mark.filterwarnings("ignore:.*[Tt]iming cache:DeprecationWarning")
def test_timing_cache_is_written_back(tmp_path: Path, rtx: TensorRT) -> None:
    """The path of regular TensorRT, on the library at hand, whose cache does nothing."""
    regular = TensorRT("TensorRT", "10.3.0", rtx.trt)
    source, cache = bytes_model(tmp_path / "m.onnx", "Relu"), tmp_path / "timings"
    for _ in range(2):  # without a file, then with it
        info = plan_from_onnx(
            source, tmp_path / "m.plan", PlanSettings(timing_cache=cache), regular
        )
        assert cache.is_file()
    assert needs(info)["flavour"] == "tensorrt"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.plan", "timings"]


def test_fixed_batch(tmp_path: Path, rtx: TensorRT) -> None:
    source = bytes_model(tmp_path / "m.onnx", "Relu", shape=(2, 4))
    with pytest.raises(SvfapError, match="batches of 2 only"):
        plan_from_onnx(source, tmp_path / "m.plan", ADA, rtx)
    fixed = PlanSettings(batch=(2, 2, 2), compute_capabilities=("8.9",))
    assert plan_from_onnx(source, tmp_path / "m.plan", fixed, rtx).layers == {"float32": 1}


def test_missing_builder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*args: object) -> Any:
        raise ImportError("no such thing")

    monkeypatch.setattr(library.importlib, "import_module", nothing)
    monkeypatch.setattr(library, "_load_rtx_libraries", nothing)
    with pytest.raises(BackendUnavailable, match=r'"svfap-edge\[tensorrt\]"'):
        find_builder("tensorrt")
    with pytest.raises(BackendUnavailable, match=r'"svfap-edge\[tensorrt-rtx\]"'):
        find_builder("rtx")
    with pytest.raises(BackendUnavailable, match=r"(?s)\[tensorrt\].*\[tensorrt-rtx\]"):
        find_builder()
    with pytest.raises(SvfapError, match="Known: auto"):
        find_builder("trt")


def test_which_builder_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "rtx"):
        found = TensorRT(name, "1", None)
        monkeypatch.setattr(library, f"_find_{name}", lambda found=found: found)
    assert find_builder().name == "tensorrt"
    assert find_builder("auto", ("8.9",)).name == "rtx"
    assert find_builder("tensorrt", ("8.9",)).name == "tensorrt"


def test_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "8.6.1"

    monkeypatch.setattr(library.importlib, "import_module", lambda name: Old)
    with pytest.raises(BackendUnavailable, match=r"8\.6\.1 is here; 10\.x or 11\.x"):
        find_builder("tensorrt")


def test_import_needs_no_builder() -> None:
    code = (
        "import sys, svfap_edge.export.trt.plan_from_onnx\n"
        "assert not [m for m in sys.modules if 'tensorrt' in m and 'svfap' not in m]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
def test_plan_loads_on_the_gpu(tmp_path: Path, sources: dict[str, Path]) -> None:
    if not (present := present_capability()):
        pytest.skip("no NVIDIA GPU here")
    try:
        builder = find_builder()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    known = getattr(getattr(builder.trt, "ComputeCapability", None), "__members__", {})
    if builder.ahead_of_time and "SM" + present[0].replace(".", "") not in known:
        pytest.skip(f"{builder.name} does not support GPUs of compute capability {present[0]}")
    plan_from_onnx(sources["fp16"], tmp_path / "m.plan", builder=builder)
    runtime = builder.trt.Runtime(log_of(builder.trt))
    engine = runtime.deserialize_cuda_engine((tmp_path / "m.plan").read_bytes())
    assert engine is not None
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    assert names == ["clips", "logits"]
    assert engine.get_tensor_dtype("clips") == builder.trt.uint8
    assert engine.get_tensor_dtype("logits") == builder.trt.float32
