"""URLs of NATS servers: parsed, checked, and shown without their credentials.

The user information is percent-encoded, as in any URL (RFC 3986, 3.2.1): `nats://u:p%40ss@host` has the password
`p@ss`. A user without a password is a token, as for every client of NATS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import ParseResult, SplitResult, unquote_to_bytes, urlsplit

DEFAULT_PORT: Final = 4222
SCHEMES: Final = ("nats", "tls", "ws", "wss")

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class UrlCredentials:
    """The credentials in one URL, decoded: a user with a password, or else a token."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return self.user is not None or self.token is not None


def parse_server_urls(text: str) -> tuple[str, ...]:
    """Split and check a comma separated list of URLs; a URL without a scheme gets `nats://`.

    Raises:
        ValueError: A URL is wrong; the text names it without its credentials, and the mistake.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts[1:]:
        # A comma in a password cuts its URL in two, and the first half would pass for a host.
        if "@" in part and _SCHEME.match(part) is None:
            raise ValueError(
                "bad server URLs: write nats:// before each that has a user or token, and a comma in a password as %2C"
            )
    urls = tuple(map(_checked, parts))
    if not urls:
        raise ValueError("no server URL given: use e.g. nats://127.0.0.1:4222")
    if len({url.startswith("ws") for url in urls}) > 1:
        raise ValueError(f"server URLs cannot mix ws or wss with nats or tls: {', '.join(map(redacted_url, urls))}")
    return urls


def _checked(text: str) -> str:
    url = text if _SCHEME.match(text) else f"nats://{text}"
    try:
        parts = urlsplit(url)
        problem = _problem(url, parts)
    except ValueError:
        problem = "the host or port is malformed; in a user or password, write all but letters and digits as %XX"
    if problem is not None:
        # Without the cause, which may quote a part of the password.
        raise ValueError(f"bad server URL {_redacted_bad_url(url)}: {problem}") from None
    return f"{parts.scheme}{url[len(parts.scheme) :]}".rstrip("/")


def _problem(url: str, parts: SplitResult) -> str | None:
    """Why a URL cannot be used; None if it can.

    Raises:
        ValueError: The port is no number.
    """
    if _CONTROL.search(url):  # urlsplit would drop some of them
        return "it has a control character"
    if parts.scheme not in SCHEMES:
        return f"the scheme is none of {', '.join(SCHEMES)}"
    userinfo, _, _ = parts.netloc.rpartition("@")
    if _BAD_ESCAPE.search(userinfo):
        return "a % in the user or password is written as %25"
    try:
        unquote_to_bytes(userinfo).decode()
    except UnicodeDecodeError:
        return "the user or password is not UTF-8"
    if not parts.hostname:
        return "no host"
    if re.search(r"\s", parts.hostname):
        return "the host has a space"
    if parts.port == 0:
        return "the port is 0"
    web_socket = parts.scheme.startswith("ws")
    if parts.query or parts.fragment or (parts.path.strip("/") and not web_socket):
        return "it goes on after host and port; in a user or password write / ? # as %2F %3F %23"
    return None


def url_credentials(url: str) -> UrlCredentials:
    """The credentials in a URL that `parse_server_urls` accepts; empty where it has none."""
    userinfo, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return UrlCredentials()
    user, colon, password = userinfo.partition(":")
    if not colon:
        return UrlCredentials(token=_decoded(user)) if user else UrlCredentials()
    return UrlCredentials(user=_decoded(user), password=_decoded(password))


def bare_url(url: str) -> str:
    """The URL without its user information."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def address(parts: SplitResult | ParseResult) -> tuple[str, int]:
    """Host and port of a parsed URL."""
    return parts.hostname or "", parts.port or DEFAULT_PORT


def redacted_url(url: str) -> str:
    """The URL with `***` in place of its user, password or token."""
    scheme, _, rest = url.partition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}://***@{host}" if at else url


def secrets_of(url: str) -> tuple[str, ...]:
    """The secrets in a URL, as they are written and decoded: its user information, and the password or token in it."""
    userinfo, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return ()
    written = (userinfo, userinfo.partition(":")[2] or userinfo)
    return (*written, *map(_decoded, written))


def _redacted_bad_url(url: str) -> str:
    """The same for a URL that cannot be used. If its host was forgotten, the password stands in place of the port."""
    shown = url if "@" in url else re.sub(r"(://[^:/?#]*[:/?#]).+", r"\1***", url, flags=re.DOTALL)
    return _CONTROL.sub("?", redacted_url(shown))


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace")
