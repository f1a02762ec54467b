"""The page in a real browser, which is fed a real video as its webcam."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

pytest.importorskip("websockets", reason="the extra `serve` is not installed")

from svfap_edge import run
from svfap_edge.clip import ClipSpec
from svfap_edge.serve.client import ServeSettings
from svfap_edge.serve.models import Models
from svfap_edge.serve.outlet import WebOutlet
from svfap_edge.serve.pacing import Paced
from svfap_edge.serve.server import PageServer
from svfap_edge.sources.opening import open_source
from svfap_edge.tasks import Task
from tests.models import brightness_model, bundle_of_onnx

from .browser import CHROMIUM, browsing, frames_of, write_mjpeg

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

NAMES = "[...document.querySelectorAll('.person h3')].map(e => e.textContent)"
LEAD = "document.querySelector('.person .lead strong')?.textContent"


@pytest.fixture(scope="module")
def webcam(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A woman who weeps and then smiles, 640x360."""
    path = tmp_path_factory.mktemp("webcam") / "webcam.mjpeg"
    write_mjpeg(path, frames_of(videos / "WolfgangLanger_Pexels.mp4", 472))
    return path


def test_a_webcam_is_labelled_and_int8_is_seen_beside_float(
    models: Models, webcam: Path, yunet: Path, tmp_path: Path
) -> None:
    settings = ServeSettings(face_model=str(yunet))
    with (
        PageServer(models, port=0, settings=settings) as server,
        browsing(server.url, tmp_path / "p", webcam) as browser,
    ):
        browser.click("My webcam")
        browser.click("Start the webcam")
        label = browser.until(f"({LEAD} || '').length > 2 && {LEAD}")
        assert label in models.bundle.manifest.task.labels
        assert browser.evaluate(NAMES) == ["Person 1"]
        # Frames go one after the answer to the one before, and those between are counted.
        counts = browser.evaluate("({...count})")
        assert 0 <= counts["sent"] - counts["answered"] <= 1 and counts["refused"] == 0

        browser.evaluate("$('compare').click()")
        both = browser.until("window.page.agreement?.pairs >= 3 && window.page.agreement")
        assert both["same"] <= both["pairs"]
        engines = browser.evaluate("chosen.engines.map(e => e.artifact)")
        assert engines == ["int8.onnx", "fp16.onnx"]
        assert "clips" in browser.evaluate("$('agreeOf').textContent")
        # With two people of two browsers in mind, the server knows this one by its own name.
        streams = browser.evaluate("[...people.keys()]")
        assert all(name.startswith("visitor-") for name in streams)

        browser.size(390, 844, phone=True)
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        browser.dark(True)
        assert browser.until("document.documentElement.dataset.theme === 'dark'")
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_source_is_shown_and_compared(models: Models, tmp_path: Path) -> None:
    """The frames of a source go through two engines as those of a webcam do, and back again."""
    settings = ServeSettings(detector="haar")
    with PageServer(models, port=0, settings=settings, cameras=[""]) as server:
        stop = threading.Event()

        def rounds() -> None:
            while not stop.is_set():
                source = Paced(open_source("sample"), server.hub.watched)
                run(source, models.first, [WebOutlet(server.hub)], detector="haar", seconds=3)

        thread = threading.Thread(target=rounds, daemon=True)
        thread.start()
        try:
            with browsing(server.url, tmp_path / "p") as browser:
                browser.until(f"window.page?.count.pictures > 5 && {NAMES}.includes('Person 1')")
                assert browser.evaluate("$('notice').hidden && $('first').disabled")
                browser.evaluate("$('compare').click()")
                browser.until("window.page.agreement?.pairs > 1")
                assert all(n.startswith("visitor-") for n in browser.evaluate("[...people.keys()]"))
                browser.evaluate("$('compare').click()")
                browser.until("people.has('person-1')")
        finally:
            stop.set()
            server.hub.watched.set()
            thread.join()


def test_the_page_is_used_by_keyboard_and_fetches_nothing_else(
    models: Models, tmp_path: Path
) -> None:
    with (
        PageServer(models, port=0, settings=ServeSettings(detector="haar")) as server,
        browsing(server.url, tmp_path / "p") as browser,
    ):
        browser.until("window.page?.welcome")
        browser.evaluate("document.querySelector('[role=tab]').focus()")
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight")
        assert browser.evaluate("document.activeElement.textContent") == "My video file"
        fetched = browser.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
        own = server.url.partition("#")[0]
        assert [name for name in fetched if not name.startswith((own, "data:"))] == []
        unnamed = browser.evaluate(
            "[...document.querySelectorAll('button, select, input')].filter(e => !(e.ariaLabel || "
            "e.textContent.trim() || e.labels?.length)).length"
        )
        assert unnamed == 0


def test_valence_and_arousal_are_shown(tmp_path: Path) -> None:
    clip, task = ClipSpec(4, 0.4, 8), Task("levels", "values", ("valence", "arousal"), low=-1.0)
    bundle = bundle_of_onnx(tmp_path / "b", brightness_model(clip), task, clip)
    write_mjpeg(tmp_path / "x.mjpeg", (f.image[..., ::-1] for f in open_source("sample")))
    settings = ServeSettings(detector="none")
    with (
        Models(bundle, engine="onnxruntime", threads=1) as models,
        PageServer(models, port=0, settings=settings) as server,
        browsing(server.url, tmp_path / "p", tmp_path / "x.mjpeg") as browser,
    ):
        browser.click("My webcam")
        browser.click("Start the webcam")
        browser.until("people.size && [...people.values()][0].history[0].length > 3")
        shown = browser.evaluate("[...document.querySelectorAll('.num')].map(e => e.textContent)")
        assert [-1 <= float(text) <= 1 for text in shown] == [True, True]
        spoken = browser.evaluate("document.querySelector('canvas.plane').ariaLabel")
        assert spoken.startswith("valence ") and "arousal " in spoken
        assert not browser.evaluate("document.querySelector('.lead').offsetParent")
        browser.screenshot(tmp_path / "values.png")


def test_a_wrong_token_is_said_on_the_page(models: Models, tmp_path: Path) -> None:
    with PageServer(models, host="0.0.0.0", port=0) as server:
        port = server.url.partition("#")[0].rstrip("/").rpartition(":")[2]
        page = f"http://127.0.0.1:{port}/"
        with browsing(f"{page}#token=wrong", tmp_path / "p") as browser:
            words = "$('words').textContent"
            assert "missing or wrong" in browser.until(f"{words}.includes('token') && {words}")
        with browsing(f"{page}#token={server.access.token}", tmp_path / "q") as browser:
            assert browser.until("window.page?.welcome?.schema") == 1
            assert json.loads(browser.evaluate("JSON.stringify(welcome.cameras)")) == []
