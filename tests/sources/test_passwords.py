"""Passwords in addresses are shown nowhere, however they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from svfap_edge.benchmark.results import BenchmarkOptions
from svfap_edge.errors import SourceError, SvfapError
from svfap_edge.sources.addresses import find_target, name_sources
from svfap_edge.sources.live import Camera
from svfap_edge.sources.opening import open_source
from svfap_edge.sources.passwords import without_passwords
from tests.cameras import FakeCamera
from tests.cli.test_commands import refused

NOWHERE = "127.0.0.1:1"
URLS = [
    f"rtsp://user:top#secret@{NOWHERE}/x",
    f"rtsp://user:top/secret@{NOWHERE}/x",
    f"rtsp://user:top?secret@{NOWHERE}/x",
    f"rtsp://user:top@secret@{NOWHERE}/x",
    f"rtsp://user:top@secret/top@{NOWHERE}/x",
    f"rtsp://user:top secret@{NOWHERE}/x",
    f"rtsp://user:to[p secret@{NOWHERE}/x",
    f"RTSP://user:topsecret@{NOWHERE}/x",
    f"rtsp://{NOWHERE}/user=admin_password=topsecret_channel=1_stream=0.sdp?real_stream",
    f"rtsp://{NOWHERE}/user=admin&password=top&secret&channel=1",
    f"http://{NOWHERE}/video?user=a&pwd=topsecret",
    f"http://{NOWHERE}/video?loginuse=a&loginpas=top secret&x=1",
    f"http://{NOWHERE}/video?access_token=topsecret",
    f"tls://{NOWHERE}?passphrase=topsecret",
    *(
        f"https://{NOWHERE}/live.m3u8?a=1&{name}=topsecret"
        for name in (
            "sig",
            "signature",
            "X-Amz-Signature",
            "jwt",
            "session",
            "code",
            "%70assword",
            "x",
        )
    ),
    f"https://{NOWHERE}/live.m3u8?topsecret",
    f"https://{NOWHERE}/live.m3u8#sig=topsecret",
]
PIPELINES = [
    "rtspsrc location=rtsp://h/1 user-id=a user-pw=topsecret ! decodebin ! appsink",
    'rtspsrc location=rtsp://h/1 user-pw="top secret" latency=0 ! decodebin ! appsink',
    "rtspsrc location=rtsp://h/1 user-pw=top\\ secret ! decodebin ! appsink",
    "rtspsrc location=rtsp://h/1 user-pw = (string)'top ! secret' ! decodebin ! appsink",
    "rtspsrc location=rtsp://u:top@secret@h/1 ! decodebin ! appsink",
    'rtspsrc location="rtsp://u:top ! secret@h/1" ! decodebin ! appsink',
    "souphttpsrc location=https://h/1?sig=topsecret ! decodebin ! appsink",
    'souphttpsrc location="https://h/1?a=1&sig=topsecret" ! decodebin ! appsink',
    "souphttpsrc extra-headers=a,Authorization=(string)Basic secret ! decodebin ! appsink",
]
OTHERS = [  # typing errors
    "rtsp:/user:topsecret@10.0.0.7/1",
    "user:topsecret@10.0.0.7/1",
    "rtspsrc location=rtsp://u:topsecret@h/1 ! autovideosink",
    "file://user:topsecret@h/1",
    "//user:topsecret@h/1",
    "rtsp://user:top ! secret@h/1",
]


def clean(text: str) -> bool:
    return "secret" not in text and "top" not in text


@pytest.mark.parametrize("text", URLS + PIPELINES)
def test_a_target_is_named_without_them(text: str) -> None:
    target = find_target(text)
    assert target is not None and target.address == text
    assert clean(target.name) and "***" in target.name
    assert target.name.endswith("appsink") == text.endswith("appsink")
    assert (NOWHERE in target.name) == (NOWHERE in text)


@pytest.mark.parametrize("text", URLS + PIPELINES + OTHERS)
def test_cameras_are_named_without_them(text: str) -> None:
    assert clean(" ".join(name_sources([text, text])))
    assert clean(str(BenchmarkOptions(source=text).source_name))


@pytest.mark.parametrize("text", URLS[:9] + PIPELINES[:1] + OTHERS)
def test_errors_and_what_opencv_says_are_without_them(
    text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refused(2, "run", text) if text not in PIPELINES else ""
    with pytest.raises(SvfapError) as error:
        open_source(text)
    out, errors = capfd.readouterr()
    assert clean(said + str(error.value) + out + errors)


def test_the_error_says_how_to_write_a_password() -> None:
    with pytest.raises(SourceError, match=r"percent-encoded: # %23, / %2F"):
        open_source(URLS[0])


def test_what_is_no_password_is_shown() -> None:
    for text in (
        "rtsp://10.0.0.7:554/stream1/channel=1",
        "v4l2src device=/dev/video0 ! videoconvert ! x264enc key-int-max=30 ! appsink",
        "rtsp://10.0.0.7/user=admin",
    ):
        assert without_passwords(text) == text
    masked = without_passwords("http://cam/video?user=a&pwd=b&fps=5")
    assert masked == "http://cam/video?user=***&pwd=***&fps=***"


def test_files_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "token=a.mp4"
    path.touch()
    assert BenchmarkOptions(source=str(path)).source_name == str(path)
    assert list(name_sources([str(path)])) == ["token-a"]


def test_a_camera_that_the_application_opens_itself() -> None:
    with Camera("rtsp://user:secret@10.0.0.7/1", opening=FakeCamera()) as camera:
        assert camera.name == "rtsp://***@10.0.0.7/1"
