"""`svfap-edge pretrain` and `svfap-edge finetune`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import console, reporting, stopping_cleanly

if TYPE_CHECKING:
    from svfap_edge.training.settings import FinetuneConfig, PretrainConfig

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.toml] [SECTION.NAME=VALUE]...",
        help="A configuration, and settings that overrule it; without it the defaults.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in run.output.")]
Show = Annotated[
    bool, typer.Option("--show", help="Print the effective configuration as TOML and stop.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]


def pretrain(
    settings: Settings = None, resume: Resume = False, show: Show = False, as_json: Json = False
) -> None:
    """Pre-train an encoder by masked auto-encoding of unlabelled clips.

    For example: svfap-edge pretrain model.preset=lite data.train=clips.txt run.output=pretrained
    """

    def run(found: PretrainConfig) -> Path:
        from svfap_edge.training.trainer.train import pretrain as train

        return train(found, resume=resume)

    _command("PretrainConfig", settings, show, as_json, run)


def finetune(
    settings: Settings = None,
    resume: Resume = False,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="Train with INT8's rounding in the forward pass.")
    ] = False,
    show: Show = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model for classes, values or traits.

    For example: svfap-edge finetune model.start=pretrained/best.pth data.task=dfew
    data.train=train.txt data.val=val.txt run.output=tuned
    """

    def run(found: FinetuneConfig) -> Path:
        from svfap_edge.training.trainer.train import finetune as train

        return train(found, resume=resume, quantize=quantize)

    _command("FinetuneConfig", settings, show, as_json, run)


def _command(
    kind: str, settings: Sequence[str] | None, show: bool, as_json: bool,
    run: Callable[[Any], Path],
) -> None:  # fmt: skip
    first = _is_first()
    with reporting(as_json and first):
        from svfap_edge.errors import ConfigError, DependencyMissing

        try:
            import lightning  # noqa: F401

            from svfap_edge.training import settings as kinds
            from svfap_edge.training.config import load_config, write_toml
        except ImportError as error:
            raise DependencyMissing(
                f"Training needs '{error.name}': pip install \"svfap-edge[train]\""
            ) from error
        words = list(settings or [])
        path = Path(words.pop(0)) if words and "=" not in words[0] else None
        found = load_config(getattr(kinds, kind), path, words)
        if show:
            print(write_toml(found), end="")
            return
        if not found.run.output:
            raise ConfigError("Where to? Set run.output to a folder.")
        with stopping_cleanly():
            best = run(found)
        if not first:
            return
        report = best.parent / "report.json"
        if as_json:
            content = json.loads(report.read_text(encoding="utf-8"))
            final = {"final": content["final"], "epochs": content["epochs"]}
            print(json.dumps({"checkpoint": str(best), "report": str(report), **final}))
        else:
            out = console(stderr=False)
            out.print(f"wrote {best}")
            out.print(f"wrote {report}")


def _is_first() -> bool:
    """Whether this is the first of the processes that torchrun or Fabric starts: it speaks for
    all. Fabric's own processes are told no rank, only their number on a node and the node's."""
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)
