"""URLs of NATS servers: parsed, checked, and shown without their credentials."""

from __future__ import annotations

from urllib.parse import urlsplit

SCHEMES = ("nats", "tls", "ws", "wss")


def parse_server_urls(text: str) -> tuple[str, ...]:
    """Split and check a comma separated list of URLs; a URL without a scheme gets `nats://`.

    Raises:
        ValueError: A URL is wrong; the text names it without its credentials, and the mistake.
    """
    urls = tuple(_checked(part.strip()) for part in text.split(",") if part.strip())
    if not urls:
        raise ValueError("no server URL given: use e.g. nats://127.0.0.1:4222")
    if len({url.startswith("ws") for url in urls}) > 1:
        raise ValueError(f"server URLs cannot mix ws or wss with nats or tls: {', '.join(map(redacted_url, urls))}")
    return urls


def _checked(text: str) -> str:
    url = text if "://" in text else f"nats://{text}"
    try:
        parts = urlsplit(url)
        host, scheme, _ = parts.hostname, parts.scheme, parts.port
    except ValueError:
        # Without the cause, which may quote a part of the password.
        raise ValueError(f"bad server URL {redacted_url(url)}: the host or port is malformed") from None
    if scheme not in SCHEMES:
        raise ValueError(f"bad server URL {redacted_url(url)}: the scheme is none of {', '.join(SCHEMES)}")
    if not host:
        raise ValueError(f"bad server URL {redacted_url(url)}: no host")
    return url


def redacted_url(url: str) -> str:
    """The URL with `***` in place of its user, password or token; also works for a URL that cannot be parsed."""
    scheme, _, rest = url.rpartition("://")
    _, at, host = rest.rpartition("@")
    shown = f"***@{host}" if at else host
    return f"{scheme}://{shown}" if scheme else shown


def secrets_of(url: str) -> tuple[str, ...]:
    """The secrets in a URL: its whole user information, and the password or token in it."""
    userinfo, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return ()
    return (userinfo, userinfo.partition(":")[2] or userinfo)


def has_userinfo(url: str) -> bool:
    """Whether the URL carries a user, password or token."""
    return "@" in url
