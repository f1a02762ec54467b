"""`svfap-edge pretrain` and `svfap-edge finetune`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import console, print_json, reporting, requiring, say, stopping_cleanly, warn
from .options import Json

if TYPE_CHECKING:
    from rich.console import Console

    from svfap_edge.training.settings import FinetuneConfig, PretrainConfig

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.toml] [SECTION.NAME=VALUE]...",
        help="A configuration file, and settings that overrule it; by default all settings have "
        "their defaults.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in the folder run.output.")
]
Show = Annotated[
    bool, typer.Option("--show", help="Print the effective configuration as TOML and stop.")
]


def pretrain(
    settings: Settings = None, resume: Resume = False, show: Show = False, as_json: Json = False
) -> None:
    """Pre-train an encoder on unlabelled clips.

    It learns by masked auto-encoding. Example:

    svfap-edge pretrain model.preset=lite data.train=clips.txt run.output=pretrained
    """

    def run(found: PretrainConfig) -> Path:
        from svfap_edge.training.trainer.train import pretrain as train

        return train(found, resume=resume)

    _command("PretrainConfig", settings, show, as_json, run)


def finetune(
    settings: Settings = None,
    resume: Resume = False,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="Round in the forward pass as INT8 does.")
    ] = False,
    show: Show = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model for classes, values or traits.

    Example:

    svfap-edge finetune model.start=pretrained/best.pth data.task=dfew
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
        from svfap_edge.errors import ConfigError

        with requiring("train", "Training"):
            import lightning  # noqa: F401

            from svfap_edge.training import settings as kinds
            from svfap_edge.training.config import load_config, write_toml
        words = list(settings or [])
        path = Path(words.pop(0)) if words and "=" not in words[0] else None
        found = load_config(getattr(kinds, kind), path, words)
        if show:
            print(write_toml(found), end="")
            return
        if not found.run.output:
            raise ConfigError("No folder for the results: set run.output, as in run.output=tuned.")
        with stopping_cleanly():
            try:
                best = run(found)
            except KeyboardInterrupt:
                if first:
                    _say_how_to_go_on(Path(found.run.output))
                raise
        if not first:
            return
        report = best.parent / "report.json"
        content = json.loads(report.read_text(encoding="utf-8"))
        if as_json:
            final = {"final": content["final"], "epochs": content["epochs"]}
            print_json({"checkpoint": str(best), "report": str(report), **final})
        else:
            out = console(stderr=False)
            out.print(f"wrote {best}")
            out.print(f"wrote {report}")
            if kind == "FinetuneConfig":
                _show_final(content["final"], out)
                out.print(f"next  svfap-edge export {shlex.quote(str(best))} -o BUNDLE")


def _say_how_to_go_on(folder: Path) -> None:
    """What an interrupted run leaves."""
    if not (folder / "resume.pth").is_file():
        say("Stopped before anything was saved.")
        return
    words = [word for word in sys.argv[1:] if word != "--resume"]
    again = shlex.join(["svfap-edge", *words, "--resume"])
    say(f"'{folder}/resume.pth' holds the last saved step. Go on with: {again}")


def _show_final(final: dict[str, Any], out: Console) -> None:
    """The figures of each list, and a remark where a model has learned nothing."""
    for name, protocols in final.items():
        for protocol, figures in protocols.items():
            numbers = {k: v for k, v in figures.items() if isinstance(v, float)}
            text = ", ".join(f"{key} {value:.3f}" for key, value in numbers.items())
            out.print(f"{name}, {protocol}: {text}")
        matrix = protocols.get("published", {}).get("confusion", [])
        answered = sum(any(column) for column in zip(*matrix, strict=True))
        if answered == 1 and sum(any(row) for row in matrix) > 1:
            warn(f"the model gives every file of {name} one class: it has learned nothing yet.")


def _is_first() -> bool:
    """Whether this is the first of the processes that torchrun or Fabric starts, which speaks for
    all. Fabric gives its own processes no rank, only their number on a node and the node's."""
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)
