"""A real browser: headless Chromium with a video as its webcam, driven over its debugging port."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def write_mjpeg(path: Path, images: Iterator[np.ndarray]) -> None:
    """JPEGs one after the other, which Chromium plays as a webcam of 30 fps, again and again."""
    with path.open("wb") as file:
        for image in images:
            file.write(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


def frames_of(video: Path, most: int, size: tuple[int, int] = (640, 360)) -> Iterator[np.ndarray]:
    """The first frames (H, W, 3) BGR of a video, at a size (width, height)."""
    capture = cv2.VideoCapture(str(video))
    for _ in range(most):
        good, image = capture.read()
        if not good:
            break
        yield cv2.resize(image, size)
    capture.release()


class Browser:
    """One page of a running Chromium."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._ids = socket, itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the debugging protocol."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def evaluate(self, code: str) -> Any:
        """Run JavaScript in the page; its value."""
        found = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, code: str, seconds: float = 60) -> Any:
        """Wait until JavaScript gives something true; that."""
        return until(lambda: self.evaluate(code), seconds, code)

    def click(self, text: str) -> None:
        """Press the button with this text."""
        self.until(
            "(() => { const b = [...document.querySelectorAll('button')].find(b => "
            f"b.textContent === {json.dumps(text)} && b.offsetParent); b?.click(); return !!b }})()"
        )

    def size(self, width: int, height: int, *, phone: bool = False, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=phone,
            deviceScaleFactor=scale,
        )  # fmt: skip

    def dark(self, on: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


def until(found: Callable[[], Any], seconds: float, what: str = "") -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"never true within {seconds} s: {what}"
        time.sleep(0.1)
    return value


@contextmanager
def browsing(url: str, folder: Path, webcam: Path | None = None) -> Iterator[Browser]:
    """Chromium at a page, with an MJPEG file as its webcam; ended in any case."""
    assert CHROMIUM is not None
    camera = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    camera += [f"--use-file-for-fake-video-capture={webcam}"] if webcam else []
    process = subprocess.Popen(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", *camera, "--remote-debugging-port=0",
         f"--user-data-dir={folder}", "--window-size=1280,900", url],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        known = folder / "DevToolsActivePort"
        port = until(lambda: known.is_file() and known.read_text().split("\n")[0], 60, "a port")

        def page() -> str | None:
            with suppress(OSError, urllib.request.URLError):
                tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
                return next((t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page"), None)
            return None

        with connect(until(page, 60, "a page"), max_size=2**26) as socket:
            browser = Browser(socket)
            browser.until("document.readyState === 'complete' && typeof page === 'object'")
            yield browser
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
