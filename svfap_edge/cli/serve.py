"""`svfap-edge serve`: a page in the browser."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svfap_edge.errors import ConfigError, SourceError, SvfapError

from . import options
from .console import on_signals, print_json, reporting, requiring, say, warn

if TYPE_CHECKING:
    from svfap_edge.serve.server import PageServer
    from svfap_edge.sources.frames import Source

TOKEN_VARIABLE = "SVFAP_EDGE_SERVE_TOKEN"


def serve(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE ...]",
            help="What `run` takes: a camera's number, a URL, a video, each named after itself or "
            "as NAME=SOURCE. Without any, the page shows the visitor's own webcam alone.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Any but this machine's own (127.0.0.1) needs the token "
            f"that is printed at the start; {TOKEN_VARIABLE} sets one of your own."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for a free one.", min=0, max=65535)] = 8420,
    bundle: options.BundleOption = None,
    artifact: options.ArtifactName = None,
    engine: options.EngineName = "auto",
    detector: options.DetectorName = "auto",
    face_model: options.FaceModel = None,
    detect_size: options.DetectSize = "320",
    hop: options.Hop = 0.5,
    threads: options.Threads = None,
    repeat: Annotated[bool, typer.Option("--repeat", help="Play videos again and again.")] = False,
    max_clients: Annotated[
        int, typer.Option(metavar="N", help="Connections at a time.", min=1)
    ] = 12,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="CERT.pem",
            help="Serve HTTPS: browsers give the webcam to pages of other machines only then.",
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="KEY.pem", help="Private key of --certificate.")
    ] = None,
    jsonl: Annotated[
        str | None, typer.Option(help="Write JSON lines of the sources to this file as well.")
    ] = None,
    require_signature: options.RequireSignature = None,
    as_json: options.Json = False,
) -> None:
    """Show on a page in the browser what faces express.

    Cameras and videos of this machine are shown, and the visitor's own webcam. Its frames are
    looked at and forgotten: nothing is stored, nothing leaves this machine. Videos play at their
    own pace, from when the page is first open. Ctrl-C ends it. Example:

    svfap-edge serve talk.mp4 --repeat
    """
    with reporting(as_json):
        if key is not None and certificate is None:
            raise ConfigError("--key belongs to a certificate; give --certificate, too.")
        with requiring("serve", "`svfap-edge serve`"):
            from svfap_edge.serve.server import PageServer
        from svfap_edge.bundle import Bundle
        from svfap_edge.perception.detectors import check_detect_size, open_detector
        from svfap_edge.perception.view import ViewSettings
        from svfap_edge.serve.client import ServeSettings
        from svfap_edge.serve.models import Models

        ViewSettings(hop_s=hop)  # refuses bad values before the work
        detection: dict[str, Any] = {
            "detector": detector, "face_model": _text(face_model), "detect_size": detect_size,
        }  # fmt: skip
        open_detector(detector, face_model, check_detect_size(detect_size))
        with ExitStack() as stack:
            sets = Sets(sources or [], hop=hop, **detection)
            opened = sets.open()
            opened_bundle = Bundle.open(bundle, require_signature=require_signature)
            models = stack.enter_context(Models(opened_bundle, artifact, engine, threads))
            server = stack.enter_context(
                PageServer(
                    models,
                    host=host,
                    port=port,
                    token=os.environ.get(TOKEN_VARIABLE),
                    certificate=None if certificate is None else (str(certificate), _text(key)),
                    cameras=sets.cameras,
                    settings=ServeSettings(max_clients=max_clients, hop_s=hop, **detection),
                )
            )
            ending = stack.enter_context(ending_by_signal())
            _announce(server, as_json)
            failed = sets.play(server, opened, models.first, ending, repeat, jsonl)
        if failed:
            raise typer.Exit(SourceError.exit_code)


class Sets:
    """The sources of the command, run again and again where that is asked for."""

    def __init__(self, texts: list[str], **options: Any) -> None:
        from svfap_edge.sources.addresses import name_sources, split_name

        self._texts = texts
        self._addresses = name_sources(texts) if texts else {}
        self._named = len(texts) > 1 or bool(texts and split_name(texts[0])[0] is not None)
        self._hop_s, self._detection = options.pop("hop"), options
        self._failed: dict[str, str] = {}
        self._sources: dict[str, Source] = {}

    @property
    def cameras(self) -> list[str]:
        """Names as the sinks are given them; "" for one source without a name."""
        return list(self._addresses) if self._named else [""] * len(self._texts)

    def open(self) -> dict[str, Source]:
        """Open all; SourceError if that fails, of several if none can be opened."""
        from svfap_edge.sources.opening import open_source, open_sources

        if not self._texts:
            return {}
        if not self._named:
            return {"": open_source(self._texts[0])}
        opened, failed = open_sources(self._addresses, warn=warn)
        self._failed |= failed
        return dict(opened)

    def counts(self, camera: str) -> dict[str, int]:
        """What became of the frames of a live source so far."""
        source = self._sources.get(camera)
        counts = None if source is None else source.counts
        return {} if counts is None else asdict(counts)

    def play(
        self,
        server: PageServer,
        opened: dict[str, Source],
        engine: Any,
        ending: threading.Event,
        repeat: bool,
        jsonl: str | None,
    ) -> bool:
        """Run the sources in a thread until they end, and wait for the end of the command. Returns
        whether a source failed."""
        from svfap_edge.serve.outlet import WebOutlet
        from svfap_edge.sinks.jsonl import JsonLines

        file = [] if jsonl is None else [JsonLines(jsonl)]

        def rounds() -> None:
            again = opened
            try:
                while again and not ending.is_set():
                    self._run(again, engine, server, [WebOutlet(server.hub, self.counts), *file])
                    file.clear()  # it holds the first round
                    again = self.open() if repeat else {}
            except (SvfapError, OSError) as error:
                self._failed[""] = str(error)
                warn(str(error))
                server.failed(str(error))

        thread = threading.Thread(target=rounds, name="svfap-sources", daemon=True)
        thread.start()
        while not ending.wait(0.5):
            pass
        for source in self._sources.values():
            source.stop()
        thread.join()
        return bool(self._failed)

    def _run(
        self, opened: dict[str, Source], engine: Any, server: PageServer, sinks: list[Any]
    ) -> None:
        from svfap_edge.runner.run import run
        from svfap_edge.serve.pacing import Paced

        begin = server.hub.watched
        self._sources = {
            name: source if source.live else Paced(source, begin) for name, source in opened.items()
        }
        summary = run(
            self._sources if self._named else self._sources[""],
            engine, sinks, warn=warn, hop_s=self._hop_s, failed=self._failed, **self._detection,
        )  # fmt: skip
        self._failed |= summary.failed


@contextmanager
def ending_by_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or SIGHUP sets; the second signal interrupts."""
    event = threading.Event()

    def stop(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    with on_signals(stop):
        yield event


def _announce(server: PageServer, as_json: bool, out: Callable[[str], None] = say) -> None:
    if as_json:
        print_json({"url": server.url, "token": server.access.token})
        return
    out(f"The page is at {server.url}")
    if server.access.token is not None:
        out("Whoever has this address can watch. It is printed once, and made anew at each start.")
    out("Ctrl-C ends it.")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
