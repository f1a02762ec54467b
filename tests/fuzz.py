"""Hostile and damaged files: only our own errors may come out of the parsers.

`python -m tests.fuzz --minutes 5` tries for five minutes and prints what was tried;
tests/test_fuzz.py does the same for seconds.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
import typer
from google.protobuf import json_format
from hypothesis import HealthCheck, given, reject, seed, settings
from hypothesis import strategies as st

from svfap_edge.bundle import DEFAULT_BUNDLE, Bundle, parse_manifest, record_quality
from svfap_edge.cli.app import inspect
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError, SvfapError
from svfap_edge.lists import class_targets, find_items, read_list, value_targets
from svfap_edge.runtimes import Engine, available_engines
from svfap_edge.runtimes.choice import choose
from svfap_edge.sources.addresses import find_target, name_sources
from svfap_edge.sources.opening import open_source
from svfap_edge.sources.passwords import without_passwords
from svfap_edge.tasks import TASKS
from svfap_edge.training.checkpoint import load_checkpoint
from svfap_edge.training.config import load_config, to_table
from svfap_edge.training.config import settings as settings_of
from svfap_edge.training.model import TPSBT, TPSBTConfig
from svfap_edge.training.settings import FinetuneConfig, PretrainConfig

from .models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx, save_ours

NASTY: tuple[Any, ...] = (
    None, True, 0, -1, 1, 0.5, 1 << 63, 10**400, -(10**400), 1e308, math.nan, math.inf, -math.inf,
    "", " ", "\0", "\ud800", "\udcff", "a" * 5000, "9" * 5000, "\u202e", "\x1b[2J", "..", "../x",
    "/etc/passwd", "a/../../x", "C:\\x", "~", "manifest.json", ".", "fp32.onnx", "none", "inf",
    [], {}, [[]], [{}], {"": {}}, [None], ["a", "a"],
)  # fmt: skip
"""Values that parsers are known to get wrong."""

JSON = st.recursive(
    st.sampled_from(NASTY) | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["name", "file"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)
"""Anything that JSON can say, and what Python's JSON reads beyond it."""


@dataclass(frozen=True)
class Target:
    """A parser under attack: `attempt` parses one of `cases`; it may raise SvfapError, no other."""

    name: str
    cases: st.SearchStrategy[Any]
    attempt: Callable[[Any], None]


@dataclass(frozen=True)
class Mutation:
    """A change somewhere in a tree. `path` picks a branch at each level, modulo the number of
    branches; `value` is the new value, or the new name."""

    path: tuple[int, ...]
    kind: str
    value: Any


MUTATIONS = st.lists(
    st.builds(
        Mutation,
        st.lists(st.integers(0, 50), min_size=1, max_size=6).map(tuple),
        st.sampled_from(["replace", "replace", "delete", "rename", "twice", "nest"]),
        JSON,
    ),
    min_size=1,
    max_size=3,
)


def mutated(tree: Any, mutations: list[Mutation]) -> Any:
    """A copy of a JSON tree with the changes made."""
    tree = copy.deepcopy(tree)
    for mutation in mutations:
        _mutate(tree, mutation)
    return tree


def _mutate(tree: Any, mutation: Mutation) -> None:
    node, key = None, None
    for pick in mutation.path:
        inner = tree if node is None else node[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        node = inner
        key = list(node)[pick % len(node)] if isinstance(node, dict) else pick % len(node)
    if node is None:
        return
    if mutation.kind == "delete":
        del node[key]
    elif mutation.kind == "rename" and isinstance(node, dict):
        node[str(mutation.value)[:40]] = node.pop(key)
    elif mutation.kind == "twice" and isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    elif mutation.kind == "nest":
        node[key] = {"name": node[key]} if mutation.path[0] % 2 else [node[key]]
    else:
        node[key] = copy.deepcopy(mutation.value)


@dataclass(frozen=True)
class Damage:
    """Damage to a file: bits that are flipped, each (place as a share of the length, number of the
    bit), and the share of the length that is kept."""

    flips: tuple[tuple[float, int], ...]
    kept: float

    def of(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for place, bit in self.flips:
            changed[int(place * (len(data) - 1))] ^= 1 << bit
        return bytes(changed[: round(self.kept * len(data))])


FLIPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=4, unique=True).map(tuple)
DAMAGE = st.builds(Damage, FLIPS, st.just(1.0) | st.floats(0, 1))


def full_manifest() -> dict[str, Any]:
    """A valid manifest that uses every part of the format."""
    content: dict[str, Any] = json.loads((DEFAULT_BUNDLE / "manifest.json").read_text())
    files = content["artifacts"][0]["files"]
    needs = {
        "flavour": "tensorrt", "tensorrt": "10.3", "os": "linux", "machine": "x86_64",
        "compute_capability": ["8.7"],
    }  # fmt: skip
    content["artifacts"] += [
        {"name": name, "files": files, "built_by": {"tool": "1"}, "needs": needs}
        for name in ("int8.openvino", "fp16.tensorrt")
    ]
    content["quantization"] = {"files": ["0" * 16], "float_cost": "none"}
    content["quality"]["int8.openvino"] = {
        "layers": {"int8": 3},
        "parity": {"openvino": {"max_abs": 0.1, "clips": 4}},
        "measured": {"UAR": 0.5},
        "clips": "real",
    }
    return content


def manifest_targets(folder: Path) -> list[Target]:
    """Manifests: parsed, and as a file of a bundle that is then used."""
    clip = ClipSpec(4, 0.4, 8)
    small = bundle_of_onnx(folder / "small", brightness_model(clip), BRIGHTNESS_TASK, clip)
    model = (small.path / "fp32.onnx").read_bytes()
    own: dict[str, Any] = json.loads((small.path / "manifest.json").read_text())
    valid = full_manifest()
    for artifact in valid["artifacts"]:
        artifact["files"] = own["artifacts"][0]["files"]

    def parse(content: Any) -> None:
        manifest = parse_manifest(content)
        assert parse_manifest(manifest.to_json()) == manifest

    def open_and_use(text: bytes) -> None:
        (small.path / "manifest.json").write_bytes(text)
        bundle = Bundle.open(small.path)
        for name in (None, *bundle.manifest.artifacts):
            with suppress(SvfapError):  # TensorRT need not be here
                choose(bundle, name)
        for as_json in (False, True):
            with redirect_stdout(_utf8()), redirect_stderr(_utf8()), suppress(typer.Exit):
                inspect(small.path, as_json=as_json)
        record_quality(bundle, {next(iter(bundle.manifest.artifacts)): {"measured": {}}})
        for name in bundle.manifest.artifacts:
            bundle.verify(name)

    def open_damaged(damage: Damage) -> None:
        (small.path / "manifest.json").write_text(json.dumps(own))
        changed = damage.of(model)
        (small.path / "fp32.onnx").write_bytes(changed)
        try:
            Bundle.open(small.path).verify("fp32.onnx")
            assert changed == model
        except BundleError:
            assert changed != model
            raise
        finally:
            (small.path / "fp32.onnx").write_bytes(model)

    def text(content: Any) -> bytes:
        return json.dumps(content).encode()

    near = MUTATIONS.map(lambda changes: mutated(valid, changes))
    deep = st.integers(1, 200_000).map(lambda n: b'{"format": ' + b"[" * n)
    return [
        Target("manifest: any JSON", JSON, parse),
        Target("manifest: a valid one, changed", near, parse),
        Target("bundle: a valid manifest, changed", near.map(text), open_and_use),
        Target("bundle: any bytes as manifest", st.binary() | deep, open_and_use),
        Target("bundle: damaged manifest", DAMAGE.map(lambda d: d.of(text(valid))), open_and_use),
        Target("bundle: damaged model file", DAMAGE, open_damaged),
    ]


def _utf8() -> io.TextIOWrapper:
    """An output as strict as a terminal: what is not text cannot be printed."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


def list_target(folder: Path) -> Target:
    """Lists of labelled files, and the conversion of their labels."""
    word = st.sampled_from(
        [
            "a.mp4",
            "b c.jpg",
            "x",
            "0",
            "6",
            "happy",
            "1e999",
            "nan",
            "0.5,",
            "9" * 5000,
            "\0",
            "²",
            '"a b.png"',
            '"',
            "\t",
            ";",
            ",",
            "#",
            "path",
            "../" * 3000,
            "a" * 300 + ".png",
            "\udcff",
        ]
    )
    blank = st.sampled_from([" ", " ", "\t", ",", ";"])
    line = st.tuples(blank, st.lists(word | st.text(max_size=12), max_size=6)).map(
        lambda both: both[0].join(both[1])
    )
    text = st.lists(line, max_size=6).map("\n".join)
    coding = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    content = st.tuples(text, coding).map(lambda both: both[0].encode(both[1], errors="replace"))
    path = folder / "list.txt"

    def read(text: bytes) -> None:
        path.write_bytes(text)
        for item in find_items(path):
            assert item.target
        items = read_list(path)
        for convert, task in ((class_targets, "dfew"), (value_targets, "avcaffe")):
            try:
                assert len(convert(items, TASKS[task])) == len(items)
            except SvfapError:
                continue

    return Target("data list", content | st.binary(), read)


def config_target(folder: Path) -> Target:
    """Training configurations, as TOML and as overrides."""
    kinds = (FinetuneConfig, PretrainConfig)
    known = sorted({name for kind in kinds for name in settings_of(kind)})
    value = st.sampled_from(
        ["1", "-1", "0.5", "nan", "-inf", "1e999", "9" * 400, "true", '"a"', "none", "[1, 2]", "[]",
         "{a=1}", "[" * 3000, "1979-05-27", "'''", "", "[nan]", "1\nb=2", "\0"]
    ) | st.text(max_size=10)  # fmt: skip
    name = st.sampled_from([*known, "optim", "optim.rat", "." * 3000, "a." * 3000, "", "=", "[x]"])
    setting = st.tuples(name, value).map("=".join)
    sections = (
        st.lists(setting, max_size=4).map("\n".join).map(lambda t: t.encode(errors="replace"))
    )
    path = folder / "config.toml"

    def load(case: tuple[Any, bytes | None, list[str]]) -> None:
        kind, text, overrides = case
        if text is not None:
            path.write_bytes(text)
        found = load_config(kind, path if text is not None else None, overrides)
        for section in to_table(found).values():
            for entry in section.values():
                assert not isinstance(entry, float) or math.isfinite(entry)

    return Target(
        "training configuration",
        st.tuples(
            st.sampled_from(kinds),
            st.none() | sections | st.binary(max_size=50),
            st.lists(setting | st.text(max_size=20), max_size=3),
        ),
        load,
    )


SMALL = TPSBTConfig(
    size=8, patch=8, frames=2, width=8, heads=2, depths=(1,), bottleneck_tokens=(), outputs=2
)


def checkpoint_targets(folder: Path) -> list[Target]:
    """Checkpoints: damaged bytes, and intact files with odd contents."""
    model = TPSBT(SMALL)
    good = save_ours(folder / "good.pth", model).read_bytes()
    path = folder / "tried.pth"
    state, config = model.state_dict(), SMALL.to_dict()

    def open_bytes(data: bytes) -> None:
        path.write_bytes(data)
        load_checkpoint(path)

    def open_content(changes: list[Mutation]) -> None:
        content = {"model": dict(state), "config": config, "epoch": 1}
        changed = mutated({"config": config, "keys": list(state), "epoch": 1}, changes)
        keys = changed.get("keys", []) if isinstance(changed, dict) else []
        if isinstance(keys, list) and len(keys) == len(state):
            weights = zip(keys, state.values(), strict=True)
            content["model"] = {k if isinstance(k, int) else str(k): w for k, w in weights}
        content["config"] = changed.get("config")
        torch.save(content, path)
        load_checkpoint(path)

    return [
        Target("checkpoint: damaged", DAMAGE.map(lambda d: d.of(good)), open_bytes),
        Target("checkpoint: any bytes", st.binary(), open_bytes),
        Target("checkpoint: odd contents", MUTATIONS, open_content),
    ]


MODEL_VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 5, 7, 11, 1 << 20, 1 << 31, 1 << 62, "0", "-1", "3", "1000000", "1e30", "", "N",
    "clips", "float", "mean", "clean", "logits", "shape", "axes", "Identity", "Loop", "If", "Scan",
    "Range", "NonZero", "Cast", "MatMul", "Resize", "ConstantOfShape", "Gather", "Split", "Squeeze",
    "Reshape", "Expand", "Tile", "com.microsoft", "AAAAAA==", "//////////8=",
)  # fmt: skip
"""What stands in a model for a number, a name, an operator or bytes."""

MODEL_CHANGES = st.lists(
    st.builds(
        Mutation,
        st.lists(st.integers(0, 50), min_size=2, max_size=7).map(tuple),
        st.sampled_from(["replace", "replace", "delete", "twice"]),
        st.sampled_from(MODEL_VALUES),
    ),
    min_size=1,
    max_size=3,
)


def model_targets(folder: Path) -> list[Target]:
    """Models that do not fit their manifest, with digests that do: loaded, and run once."""
    clip = ClipSpec(4, 0.4, 8)
    model = brightness_model(clip)
    tree, whole = json_format.MessageToDict(model), model.SerializeToString()
    bundle = bundle_of_onnx(folder / "odd", model, BRIGHTNESS_TASK, clip)
    (entry,) = bundle.artifact("fp32.onnx").files
    clips = np.zeros((2, *clip.shape), np.uint8)

    def use(content: bytes) -> None:
        found = hashlib.sha256(content).hexdigest()
        file = dataclasses.replace(entry, sha256=found, bytes=len(content))
        artifact = dataclasses.replace(bundle.artifact("fp32.onnx"), files=(file,))
        (bundle.path / entry.file).write_bytes(content)
        changed = dataclasses.replace(bundle.manifest, artifacts={"fp32.onnx": artifact})
        refused: SvfapError | None = None
        for engine in available_engines("onnx"):
            try:
                with Engine.load(Bundle(bundle.path, changed), engine=engine) as loaded:
                    assert np.isfinite(loaded.infer(clips).logits).all()
            except SvfapError as error:
                refused = error
        if refused is not None:
            raise refused

    def use_tree(changes: list[Mutation]) -> None:
        changed = onnx.ModelProto()
        try:
            json_format.ParseDict(mutated(tree, changes), changed)
        except (json_format.ParseError, ValueError, TypeError, OverflowError):
            reject()
        if content := changed.SerializeToString():
            use(content)

    return [
        Target("model: odd, with the right digest", MODEL_CHANGES, use_tree),
        Target(
            "model: damaged, with the right digest",
            DAMAGE.map(lambda damage: damage.of(whole)).filter(len),
            use,
        ),
    ]


NAME_PARTS = st.sampled_from(
    [b"a", b" ", b"\n", b"\xff", b"\xc3\xa9", b"%03d", b"%s", b"concat:", b"file:", b"pipe:0", b"-",
     b"subfile,,start,0,end,9,,:", b"=", b"0", b"camera:0", b"rtsp:", b"http:", b"?x=y", b"#", b"@",
     b"\\", b"'", b'"', b"*", b"~", b"$HOME", b"a" * 100, b"sample", b"\xe2\x80\xae", b"\x1b[2J"]
) | st.binary(max_size=6)  # fmt: skip
NAMES = st.tuples(
    st.lists(NAME_PARTS, min_size=1, max_size=4).map(b"".join),
    st.sampled_from([b".mp4", b".png", b".jpg", b"", b".gif", b".PNG", b".heic", b".txt"]),
    st.sampled_from(["picture", "video", "folder", "nothing"]),
)


def name_target(folder: Path) -> Target:
    """Files by odd names: opened as those files, and read, or refused."""
    place = folder / "names"
    place.mkdir()
    picture = cv2.imencode(".png", np.full((16, 16, 3), 90, np.uint8))[1].tobytes()
    film = folder / "film.mp4"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    for level in range(4):
        writer.write(np.full((64, 64, 3), 40 * level, np.uint8))
    writer.release()
    contents = {"picture": picture, "video": film.read_bytes(), "nothing": b""}

    def open_name(case: tuple[bytes, bytes, str]) -> None:
        stem, suffix, kind = case
        name = os.fsdecode(stem + suffix)
        path = place / name
        try:
            if kind == "folder":
                path.mkdir()
                (path / "1.png").write_bytes(picture)
            else:
                path.write_bytes(contents[kind])
        except (OSError, ValueError):
            reject()  # the system has no such names
        try:
            with open_source(path) as source:
                frames = [frame.image.shape for frame, _ in zip(source, range(3), strict=False)]
            assert frames
            name_sources([str(path), f"x={path}"])
            find_items(path, labelled=False)
        finally:
            shutil.rmtree(place)
            place.mkdir()

    return Target("source: odd names", NAMES, open_name)


SECRET = "s3cr3tw0rd"
ADDRESS_PARTS = st.sampled_from(
    ["rtsp://", "RTSP://", "http:/", "https://", "//", "rtspsrc location=", " ! ", "appsink", "u:",
     f"{SECRET}@", f":{SECRET}@", "h", "127.0.0.1", ":8554", "/x", f"?key={SECRET}", "&", ";", "#",
     f"sig={SECRET}", f"&X-Amz-Signature={SECRET}", f"%70w={SECRET}", " ", "\n", "\udcff", "\0",
     f"user-pw={SECRET}", f'"{SECRET}@h"', "[", "]", "%", "@", "0", "camera:", "/dev/video9"]
)  # fmt: skip


def address_target() -> Target:
    """Addresses: what they stand for, and that no secret is shown where it stands as one."""

    def find(parts: list[str]) -> None:
        text = "".join(parts)
        shown = without_passwords(text)
        name_sources([text])
        user, query = rf"^[a-z]+://[^/?# ]*:{SECRET}@", rf"[?](?:.*[&;])?[\w-]+={SECRET}"
        asked = re.search(query, text, re.IGNORECASE)
        secret = asked or re.search(user, text, re.IGNORECASE)
        if secret and re.match(r"(rtsps?|https?)://", text, re.IGNORECASE):
            assert f":{SECRET}@" not in shown, shown
            assert not asked or SECRET not in shown.partition("?")[2], shown
        target = find_target(text)
        assert target is None or target.kind == "camera" or target.name == shown

    return Target("source: addresses", st.lists(ADDRESS_PARTS, max_size=8), find)


def toml_target(folder: Path) -> Target:
    """A whole training configuration in TOML with changes in it."""
    path = folder / "whole.toml"
    whole = to_table(FinetuneConfig())

    def load(changes: list[Mutation]) -> None:
        changed = mutated(whole, changes)
        lines = []
        for section, values in changed.items() if isinstance(changed, dict) else ():
            lines.append(f"[{json.dumps(section)}]" if isinstance(values, dict) else "[x]")
            for key, value in values.items() if isinstance(values, dict) else ():
                if value is not None:
                    lines.append(f"{json.dumps(key)} = {json.dumps(value)}")
        path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        load_config(FinetuneConfig, path)

    return Target("training configuration: a whole one, changed", MUTATIONS, load)


def targets(folder: Path) -> list[Target]:
    """Everything that is tried; scratch files go into `folder`."""
    return [
        *manifest_targets(folder),
        *model_targets(folder),
        name_target(folder),
        address_target(),
        list_target(folder),
        config_target(folder),
        toml_target(folder),
        *checkpoint_targets(folder),
    ]


def explore(target: Target, start: int, examples: int, deadline: float = math.inf) -> Counter[str]:
    """Try a target; count the cases that were accepted, and those refused by each error.

    Another seed `start` gives other cases. After `deadline` on the monotonic clock none is tried,
    except the first. What must not come out of the target comes out here, with the smallest case
    that hypothesis found.
    """
    outcomes: Counter[str] = Counter()

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.cases)
    def attempt(case: Any) -> None:
        if outcomes and time.monotonic() > deadline:
            return
        try:
            target.attempt(case)
            outcomes["accepted"] += 1
        except SvfapError as error:
            outcomes[type(error).__name__] += 1

    attempt()
    return outcomes


def explore_for(target: Target, start: int, seconds: float) -> Counter[str]:
    """`explore` with one seed after the other, for `seconds`."""
    deadline = time.monotonic() + seconds
    outcomes = explore(target, start, 1000, deadline)
    while time.monotonic() < deadline:
        start += 1
        outcomes += explore(target, start, 1000, deadline)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0, help="another seed tries other cases")
    parser.add_argument("--only", default="", help="try only targets with this in their name")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="svfap-edge-fuzz-") as scratch:
        os.environ["SVFAP_EDGE_CACHE"] = str(Path(scratch) / "cache")  # thousands of models
        everything = [t for t in targets(Path(scratch)) if options.only in t.name]
        for target in everything:
            share = options.minutes * 60 / len(everything)
            try:
                outcomes = explore_for(target, options.seed * 1_000_000, share)
            except Exception as error:
                failed += 1
                notes = "\n".join(getattr(error, "__notes__", ()))
                print(f"{target.name}: {type(error).__name__}: {error!s:.500}\n{notes:.1500}")
                continue
            counts = ", ".join(f"{name} {count}" for name, count in outcomes.most_common())
            print(f"{target.name}: {outcomes.total()} tried; {counts}", flush=True)
    print(f"{len(everything)} targets, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
