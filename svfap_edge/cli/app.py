"""The command line as a whole. Each command imports what it needs when it runs, so that help is
quick. The exit codes are explained in `svfap_edge.errors`; 130 is Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .benchmark import benchmark, benchmark_cameras, benchmark_training
from .build import build
from .console import whole_output
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .inspect import inspect
from .prepare import prepare
from .run import run
from .selftest import selftest
from .serve import serve
from .sign import sign
from .train import finetune, pretrain

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Facial-affect recognition on small computers.",
    epilog="Exit codes: 0 fine, 1 engine failed, 2 bad input, 3 engine missing, "
    "4 quality gate failed, 5 incompatible artifact, 130 interrupted.",
)


def main() -> None:
    """Entry point of `svfap-edge`."""
    # Our own errors report a damaged file; OPENCV_LOG_LEVEL=WARNING shows the decoders' messages.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    with whole_output():
        app()


def _version(wanted: bool) -> None:
    if wanted:
        from svfap_edge import __version__

        print(f"svfap-edge {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


for _command in (
    run, serve, export, evaluate, inspect, benchmark, benchmark_cameras, benchmark_training, doctor,
    prepare, pretrain, finetune, sign, build, selftest,
):  # fmt: skip
    app.command()(_command)

if __name__ == "__main__":
    main()
