"""Who may connect: the address that is asked for, the page that asks, and the token."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from svfap_edge.errors import require

TOKEN_LENGTH = 16
"""Characters that a token of one's own must have at least."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """Decides on each request.

    On a loopback address, requests must name it as such: a page of another name that was pointed
    here is refused. On any other address they must bring the token. A browser says which page asks
    (`Origin`); it must be ours. Programs, which send no `Origin`, are not held to that.

    Attributes:
        token: The token that is asked for; None on a loopback address.
    """

    def __init__(self, host: str, token: str | None = None) -> None:
        """
        Args:
            host: The address that is listened on.
            token: A token of one's own; by default a new one.

        Raises:
            ConfigError: the token is too short.
        """
        self.token: str | None = None
        if not is_loopback(host):
            token = token or secrets.token_urlsafe(24)
            long = len(token) >= TOKEN_LENGTH
            require(long, "The token", f"{TOKEN_LENGTH} characters or more", f"{len(token)}")
            self.token = token

    def refusal(self, path: str, headers: Mapping[str, str]) -> tuple[HTTPStatus, str] | None:
        """Why a request is refused, with the status that says so; None if it is not."""
        host = headers.get("Host", "")
        origin = headers.get("Origin")
        if self.token is None and not is_loopback(_name_of(host)):
            return HTTPStatus.FORBIDDEN, (
                f"Asked for as '{host:.80}', but only this machine is served. Use localhost or "
                "127.0.0.1, or start with --host to serve others."
            )
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return HTTPStatus.FORBIDDEN, (
                f"A page of '{origin:.80}' may not connect here; only our own page may."
            )
        if self.token is not None and not self._knows(path, headers):
            return HTTPStatus.UNAUTHORIZED, (
                "The token is missing or wrong. Open the address that was printed at the start."
            )
        return None

    def _knows(self, path: str, headers: Mapping[str, str]) -> bool:
        given = headers.get("Authorization", "").removeprefix("Bearer ")
        given = given or parse_qs(urlsplit(path).query).get("token", [""])[0]
        return hmac.compare_digest(given.encode(), (self.token or "").encode())


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises ValueError where a port is none: then the whole is no name
        return parts.hostname or ""
    except ValueError:
        return ""
