"""`svfap-edge prepare`: lists for training from the official release of a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Json, console, reporting, split

if TYPE_CHECKING:
    from rich.console import Console

    from svfap_edge.training.datasets.split import Prepared

NAMES = "dfew, ferv39k, mafw, crema-d, ravdess, enterface05, or images"


def prepare(
    name: Annotated[str, typer.Argument(metavar="DATASET", help=f"{NAMES} (root/LABEL/*.jpg).")],
    root: Annotated[Path, typer.Argument(help="Folder of the release as it unpacks.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the lists.")],
    fold: Annotated[str, typer.Option(help="Number of a fold, or all.")] = "all",
    val_share: Annotated[
        float, typer.Option(help="Share of the training part for validation, in whole groups.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the choice for validation.")] = 0,
    clips: Annotated[
        Path | None,
        typer.Option(help="Clips of the official names elsewhere, such as face crops of yours."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="images: comma-separated labels in output order.")
    ] = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="Write paths relative to the lists.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace lists that are there and differ.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write train.txt, val.txt and test.txt from the official release of a data set.

    Validation is taken from the training part, never from the test part, and shares no person
    with it where the data set tells persons; where it does not, the output says so.
    """
    with reporting(as_json):
        from svfap_edge.errors import SvfapError
        from svfap_edge.training.datasets.prepare import prepare as write_lists
        from svfap_edge.training.datasets.prepare import prepare_images

        if name.lower() == "images":
            if clips is not None or fold not in ("all", "1"):
                raise SvfapError("images has one fold and no --clips: ROOT holds the images.")
            order = tuple(split(labels) or ())
            done = [
                prepare_images(
                    root, output, labels=order, val_share=val_share, seed=seed,
                    relative=relative, force=force,
                )
            ]  # fmt: skip
        elif labels is not None:
            raise SvfapError("--labels is for images; a data set's labels come with its task.")
        else:
            done = [
                write_lists(
                    name, root, output, number, val_share=val_share, seed=seed, clips=clips,
                    relative=relative, force=force,
                )
                for number in _folds(name, fold)
            ]  # fmt: skip
        if as_json:
            print(json.dumps({"folds": [each.to_json() for each in done]}, ensure_ascii=False))
            return
        out = console(stderr=False)
        for each in done:
            _show(each, out)
        for note in dict.fromkeys(note for each in done for note in each.notes):
            out.print(f"note  {note}")


def _folds(name: str, fold: str) -> list[int]:
    """Numbers of the folds asked for; whether they exist is checked where they are read."""
    from svfap_edge.errors import SvfapError
    from svfap_edge.training.datasets.prepare import DATASETS

    if fold == "all":
        return list(range(1, DATASETS[name.lower()].folds + 1)) if name.lower() in DATASETS else [1]
    if not fold.isdecimal():
        raise SvfapError(f"--fold must be a number or all; got '{fold}'.")
    return [int(fold)]


def _show(prepared: Prepared, out: Console) -> None:
    from rich.table import Table

    title = f"{prepared.name}, fold {prepared.fold} of {prepared.folds} ({prepared.citation})"
    out.print(title if prepared.folds > 1 else f"{prepared.name} ({prepared.citation})")
    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    for part in prepared.lists:
        table.add_column(part, justify="right")
    for label in prepared.labels:
        table.add_row(label, *(str(prepared.counts[part][label]) for part in prepared.lists))
    sums = [sum(prepared.counts[part].values()) for part in prepared.lists]
    table.add_row("clips", *map(str, sums))
    table.add_row(f"by {prepared.group}", *(str(prepared.groups[p]) for p in prepared.lists))
    out.print(table)
    for path in prepared.lists.values():
        out.print(f"wrote {path}")
