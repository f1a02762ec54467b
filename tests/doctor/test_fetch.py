"""Downloading the face detector from a server on this machine: right, wrong, broken, not there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from svfap_edge.cache import FACE_MODEL_NAME
from svfap_edge.doctor import fetch
from svfap_edge.errors import ConfigError, DependencyMissing, SourceError
from tests.cli.test_commands import refused

pytest.importorskip("pooch")

CONTENT = b"a face detector" * 1000


class Server:
    """Serves `content`, and claims `claimed` bytes of it; `asked` counts requests."""

    def __init__(self) -> None:
        self.content, self.claimed, self.status, self.asked = CONTENT, len(CONTENT), 200, 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked += 1
                self.send_response(owner.status)
                self.send_header("Content-Length", str(owner.claimed))
                self.end_headers()
                self.wfile.write(owner.content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://me:secret@127.0.0.1:{self.http.server_port}/yunet.onnx"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("SVFAP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SVFAP_EDGE_FACE_MODEL_URL", server.url)
    monkeypatch.setattr(fetch, "FACE_MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_the_file_comes_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        path = fetch.fetch_face_model()
        assert path == tmp_path / "cache" / FACE_MODEL_NAME and path.read_bytes() == CONTENT
    assert server.asked == 1
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [FACE_MODEL_NAME]


def test_another_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(SourceError, match=r"is not face_detection.*SHA-256.*Nothing was kept") as e:
        fetch.fetch_face_model()
    assert "secret" not in str(e.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("how", ["broken", "missing", "nobody"])
def test_what_does_not_come(server: Server, tmp_path: Path, how: str) -> None:
    if how == "broken":
        server.claimed += 100
    elif how == "missing":
        server.status = 404
    else:
        server.http.shutdown()
        server.http.server_close()
    with pytest.raises(SourceError, match=r"cannot be downloaded.*copy .* yourself"):
        fetch.fetch_face_model()
    assert not list((tmp_path / "cache").glob("*"))


def test_without_a_cache_or_the_package(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 500
    assert "cannot be downloaded" in refused(2, "doctor", "--fetch")
    monkeypatch.setenv("SVFAP_EDGE_CACHE", "off")
    with pytest.raises(ConfigError, match="no cache folder"):
        fetch.fetch_face_model()
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(DependencyMissing, match=r"svfap-edge\[fetch\]"):
        fetch.fetch_face_model()
