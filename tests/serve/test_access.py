"""Who may connect."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from svfap_edge.errors import ConfigError
from svfap_edge.serve.access import Access, is_loopback

TOKEN = "correct-horse-battery"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host) and Access(host).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "robot.local", ""])
def test_any_other_address_has_a_new_token_each_time(host: str) -> None:
    first, second = Access(host).token, Access(host).token
    assert first and second and first != second and len(first) >= 32
    assert Access(host, TOKEN).token == TOKEN


def test_a_short_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="16 characters"):
        Access("0.0.0.0", "short")


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({"Host": "127.0.0.1:8420"}, True),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, True),
        ({"Host": "[::1]:8420", "Origin": "http://[::1]:8420"}, True),
        ({"Host": "localhost:8420", "Origin": "http://localhost:8421"}, False),
        ({"Host": "localhost:8420", "Origin": "https://evil.example"}, False),
        ({"Host": "localhost:8420", "Origin": "null"}, False),
        ({"Host": "localhost:8420", "Origin": ""}, False),
        ({"Host": "evil.example:8420", "Origin": "http://evil.example:8420"}, False),
        ({"Host": "localhost.evil.example"}, False),
        ({"Host": "[broken"}, False),
        ({"Host": "127.0.0.1:8420,evil.example"}, False),
        ({}, False),
    ],
)
def test_on_loopback_the_name_and_the_page_must_be_ours(
    headers: dict[str, str], good: bool
) -> None:
    refusal = Access("127.0.0.1").refusal("/socket", headers)
    assert (refusal is None) == good
    assert good or (refusal is not None and refusal[0] == HTTPStatus.FORBIDDEN)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (f"/socket?token={TOKEN}", {}, None),
        ("/socket", {"Authorization": f"Bearer {TOKEN}"}, None),
        ("/socket", {}, HTTPStatus.UNAUTHORIZED),
        ("/socket?token=", {}, HTTPStatus.UNAUTHORIZED),
        ("/socket?token=wrong", {}, HTTPStatus.UNAUTHORIZED),
        ("/socket?token=%F0%9F%98%80", {}, HTTPStatus.UNAUTHORIZED),
        (f"/socket?token={TOKEN}", {"Origin": "http://evil.example"}, HTTPStatus.FORBIDDEN),
        (f"/socket?token={TOKEN}", {"Origin": "http://robot:8420"}, None),
    ],
)
def test_elsewhere_the_token_is_asked_for(
    path: str, headers: dict[str, str], status: HTTPStatus | None
) -> None:
    refusal = Access("0.0.0.0", TOKEN).refusal(path, {"Host": "robot:8420", **headers})
    assert (refusal and refusal[0]) == status
