"""`svfap-edge prepare`: lists for training from the official release of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svfap_edge.errors import SvfapError

from .console import console, print_json, reporting, table
from .options import Json, split

if TYPE_CHECKING:
    from rich.console import Console

    from svfap_edge.training.datasets.split import Prepared

NAMES = "dfew, ferv39k, mafw, crema-d, ravdess, enterface05, or images"


def prepare(
    name: Annotated[
        str, typer.Argument(metavar="DATASET", help=f"Data set: {NAMES} (ROOT/LABEL/*.jpg).")
    ],
    root: Annotated[Path, typer.Argument(help="Folder of the release as it unpacks.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder that the lists are written into.")
    ],
    fold: Annotated[str, typer.Option(help="Number of the fold, or all.")] = "all",
    val_share: Annotated[
        float,
        typer.Option(
            help="Share of the training part that is taken for validation, group by group."
        ),
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the random choice for validation.")] = 0,
    clips: Annotated[
        Path | None,
        typer.Option(
            help="Folder of clips with the official names, such as your own face crops, to list "
            "instead of the release's."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Labels in the order of the model's outputs, separated by commas; only for images."
        ),
    ] = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="Write paths relative to the folder of the lists.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing lists that differ.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write lists for training from a data set's release.

    The lists are train.txt, val.txt and test.txt. Validation is taken from the training part,
    never from the test part, and shares no person with it where the data set names persons; where
    it does not, the output says so.
    """
    with reporting(as_json):
        from svfap_edge.training.datasets.prepare import find_fold, find_images
        from svfap_edge.training.datasets.split import write_lists

        if name.lower() == "images":
            if clips is not None or fold not in ("all", "1"):
                raise SvfapError("images has one fold and no --clips: ROOT holds the images.")
            found = [find_images(root, split(labels) or ())]
        elif labels is not None:
            raise SvfapError("--labels is for images; a data set's labels come with its task.")
        else:
            found = [find_fold(name, root, number, clips) for number in _folds(name, fold)]
        done = [
            write_lists(
                each, output, val_share=val_share, seed=seed, relative=relative, force=force
            )
            for each in found
        ]
        if as_json:
            print_json({"folds": [each.to_json() for each in done]})
            return
        out = console(stderr=False)
        for each in done:
            _show(each, out)
        for note in dict.fromkeys(note for each in done for note in each.notes):
            out.print(f"note  {note}")


def _folds(name: str, fold: str) -> list[int]:
    """The numbers of the wanted folds; whether they exist is checked where they are read."""
    from svfap_edge.training.datasets.prepare import DATASETS

    if fold == "all":
        return list(range(1, DATASETS[name.lower()].folds + 1)) if name.lower() in DATASETS else [1]
    if not fold.isdecimal():
        raise SvfapError(f"--fold must be a number or all; got '{fold}'.")
    return [int(fold)]


def _show(prepared: Prepared, out: Console) -> None:
    title = f"{prepared.name}, fold {prepared.fold} of {prepared.folds} ({prepared.citation})"
    out.print(title if prepared.folds > 1 else f"{prepared.name} ({prepared.citation})")
    rows = table("label", *prepared.lists)
    for label in prepared.labels:
        rows.add_row(label, *(str(prepared.counts[part][label]) for part in prepared.lists))
    sums = [sum(prepared.counts[part].values()) for part in prepared.lists]
    rows.add_row("clips", *map(str, sums))
    rows.add_row(f"by {prepared.group}", *(str(prepared.groups[p]) for p in prepared.lists))
    out.print(rows)
    for path in prepared.lists.values():
        out.print(f"wrote {path}")
