"""Hostile and damaged files: only our own errors may come out of the parsers.

`python -m tests.fuzz --minutes 5` tries for five minutes and prints what was tried;
tests/test_fuzz.py does the same for seconds.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from svfap_edge.bundle import DEFAULT_BUNDLE, Bundle, parse_manifest, record_quality
from svfap_edge.cli.app import inspect
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError, SvfapError
from svfap_edge.lists import class_targets, find_items, read_list, value_targets
from svfap_edge.runtimes.choice import choose
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
        ["a.mp4", "b c.jpg", "x", "0", "6", "happy", "1e999", "nan", "0.5,", "9" * 5000, "\0", "²"]
    )
    line = st.lists(word | st.text(max_size=12), max_size=6).map(" ".join)
    content = st.lists(line, max_size=6).map("\n".join).map(lambda t: t.encode(errors="replace"))
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


def targets(folder: Path) -> list[Target]:
    """Everything that is tried; scratch files go into `folder`."""
    return [
        *manifest_targets(folder),
        list_target(folder),
        config_target(folder),
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
