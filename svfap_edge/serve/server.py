"""One port: the page by HTTP, and the socket that feeds it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import re
import socket
import ssl
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from svfap_edge.errors import ConfigError

from .access import Access
from .client import Client, ServeSettings, Shared
from .hub import Hub
from .models import Models

DEFAULT_PORT = 8420

SOCKET, STATUS = "/socket", "/status"

_FULL = "Too many connections. Try again when somebody has left."


class PageServer:
    """Serves the page and the socket in a thread of its own, until it is closed.

        with Models(Bundle.open()) as models, PageServer(models) as server:
            print(server.url)
            run("talk.mp4", models.first, [WebOutlet(server.hub)])

    Attributes:
        hub: Everyone who watches the sources; for a `WebOutlet`.
        access: Who may connect, and the token.
        url: The address of the page, with the token where one is needed.
    """

    def __init__(
        self,
        models: Models,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        token: str | None = None,
        certificate: tuple[str, str | None] | None = None,
        cameras: list[str] | None = None,
        settings: ServeSettings | None = None,
    ) -> None:
        """Begin to serve.

        Args:
            models: The engines. Closed by the caller.
            host: Address to listen on. Any but a loopback address needs the token.
            port: Port to listen on; 0 for a free one.
            token: A token of one's own, 16 characters or more; by default a new one.
            certificate: Files in PEM, of a certificate and its key, for HTTPS.
            cameras: Names of the sources that are shown; [""] for one without a name.
            settings: Limits and options.

        Raises:
            ConfigError: the address cannot be listened on, the token is too short, or the
                certificate cannot be used.
        """
        self.access = Access(host, token)
        self.hub = Hub()
        self._settings = settings or ServeSettings()
        self._tls = None if certificate is None else _tls(*certificate)
        self._page = Path(__file__).with_name("page.html").read_bytes()
        self._pool = ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 2)), "svfap-visitors")
        self._shared = Shared(models, self.hub, self._settings, self._pool, cameras or [])
        self._clients = 0
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        started: Future[int] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(host, port, started), name="svfap-serve", daemon=True
        )
        self._thread.start()
        try:
            self._port = started.result()
        except (OSError, OverflowError) as error:
            self._pool.shutdown()
            raise ConfigError(
                f"Cannot listen on {host}, port {port}: {error}. Choose another --port or --host."
            ) from error
        self.url = self._url(host)

    def failed(self, text: str) -> None:
        """Say to everyone who watches, now and later, that the sources ended by an error."""
        self.hub.line(json.dumps({"type": "failed", "message": text}), "failed")

    def close(self) -> None:
        """End all connections and free the port. It may be called again."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._pool.shutdown()

    def _url(self, host: str) -> str:
        # After "#", so that the token is in no request for the page, and in no log of one.
        token = "" if self.access.token is None else f"#token={self.access.token}"
        scheme = "http" if self._tls is None else "https"
        if host in ("0.0.0.0", "::", "[::]"):  # every address of this machine
            host = socket.gethostname()
        name = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{scheme}://{name}:{self._port}/{token}"

    def _run(self, host: str, port: int, started: Future[int]) -> None:
        """Runs in the thread of the server."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(host.strip("[]"), port, started))
        except Exception as error:
            if not started.done():
                started.set_exception(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self, host: str, port: int, started: Future[int]) -> None:
        async with serve(
            self._connected, host, port,
            process_request=self._request, ssl=self._tls, compression=None,
            max_size=self._settings.max_message, max_queue=2, write_limit=2**16,
            open_timeout=10, close_timeout=2, server_header=None, logger=_quiet(),
        ) as server:  # fmt: skip
            started.set_result(next(iter(server.sockets)).getsockname()[1])
            await self._stop.wait()

    async def _connected(self, connection: ServerConnection) -> None:
        if self._clients >= self._settings.max_clients:
            await connection.close(1013, _FULL)
            return
        self._clients += 1
        try:
            await Client(connection, self._shared, next(self._numbers)).serve()
        finally:
            self._clients -= 1

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no socket; None lets the socket open."""
        path = urlsplit(request.path).path
        if path == "/":
            return _response(
                HTTPStatus.OK, self._page, "text/html; charset=utf-8", _csp(self._page)
            )
        if path not in (SOCKET, STATUS):
            return _plain(HTTPStatus.NOT_FOUND, f"Nothing is here. The page is at /, not {path}.")
        refusal = self.access.refusal(request.path, _single(request.headers))
        if refusal is None and self._clients >= self._settings.max_clients:
            refusal = HTTPStatus.SERVICE_UNAVAILABLE, _FULL
        if refusal is not None:
            return _plain(*refusal)
        if path == STATUS:
            content = {"clients": self._clients, "most": self._settings.max_clients}
            return _response(HTTPStatus.OK, json.dumps(content).encode(), "application/json")
        return None

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _single(headers: Headers) -> dict[str, str]:
    """Headers by name; one that comes several times is joined, and then fits nothing."""
    return {name: ",".join(headers.get_all(name)) for name in ("Host", "Origin", "Authorization")
            if name in headers}  # fmt: skip


def _csp(page: bytes) -> str:
    """What the page may do: run its own script, talk to us, and nothing else."""
    script = re.search(rb"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[1] if script else b"").digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "connect-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: mediastream:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _response(status: HTTPStatus, body: bytes, kind: str, csp: str = "") -> Response:
    headers = Headers()
    headers["Content-Type"] = kind
    headers["Content-Length"] = str(len(body))
    headers["Cache-Control"] = "no-store"
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Content-Security-Policy"] = csp or "default-src 'none'"
    headers["Connection"] = "close"
    return Response(status.value, status.phrase, headers, body)


def _plain(status: HTTPStatus, text: str) -> Response:
    return _response(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _tls(certificate: str, key: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"The certificate '{certificate}' cannot be used: {error}. Give a certificate in PEM "
            "with --certificate, and its private key with --key."
        ) from error
    return context


def _quiet() -> Any:
    """A log of its own, which says nothing unless an application asks for it: whoever sends garbage
    must not fill a log."""
    import logging

    log = logging.getLogger("svfap_edge.serve")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return log
