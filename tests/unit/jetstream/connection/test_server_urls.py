"""User, password and token in the URL of a server."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diracx.tasks.plumbing.jetstream.connection.server_urls import (
    UrlCredentials,
    bare_url,
    parse_server_urls,
    redacted_url,
    secrets_of,
    url_credentials,
)
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
HOSTS = st.sampled_from(["host", "127.0.0.1", "[::1]", "host:4222", "[fe80::1]:1", "ümläut.example"])
SCHEMES = st.sampled_from(["nats://", "tls://", "ws://", "wss://", "NATS://", "Tls://", ""])


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("u:p%40ss%2Fwo%20rd%25", UrlCredentials("u", "p@ss/wo rd%")),
        ("u:p%2Cw", UrlCredentials("u", "p,w")),
        ("u%3Av:p", UrlCredentials("u:v", "p")),
        ("u:p:w", UrlCredentials("u", "p:w")),
        ("u:p@ss", UrlCredentials("u", "p@ss")),
        ("u:p+w", UrlCredentials("u", "p+w")),
        ("u:p w", UrlCredentials("u", "p w")),
        ("u:", UrlCredentials("u", "")),
        ("u:%C3%BC", UrlCredentials("u", "ü")),
        ("t%40ken", UrlCredentials(token="t@ken")),
        ("", UrlCredentials()),
    ],
)
def test_credentials_are_decoded_as_in_any_url(userinfo: str, credentials: UrlCredentials) -> None:
    (url,) = parse_server_urls(f"nats://{userinfo}@host")
    assert url_credentials(url) == credentials
    assert bool(credentials) == bool(userinfo)
    assert bare_url(url) == "nats://host"


@given(scheme=SCHEMES, user=TEXTS, password=TEXTS, host=HOSTS, end=st.sampled_from(["", "/"]))
def test_what_is_encoded_arrives_as_it_was(scheme: str, user: str, password: str, host: str, end: str) -> None:
    (url,) = parse_server_urls(f"{scheme}{quote(user, safe='')}:{quote(password, safe='')}@{host}{end}")
    assert url_credentials(url) == UrlCredentials(user, password)
    assert bare_url(url) == f"{(scheme or 'nats://').lower()}{host}"
    assert redacted_url(url) == f"{(scheme or 'nats://').lower()}***@{host}"
    assert {password, f"{user}:{password}"} <= {*secrets_of(url), ""}


@given(before=st.sampled_from(["nats://u:", "nats://", "u:", ""]), secret=TEXTS)
@example("nats://u:", "/")
@example("nats://", "#")
@example("nats://u:", ",")
@example("u:", "://")
@example("", "%")
def test_a_password_as_it_is_typed_is_a_credential_or_refused_and_not_shown(before: str, secret: str) -> None:
    typed = f"s3{secret}cret"
    shown = refusal(f"{before}{typed}@host")
    assert "cret" not in shown
    assert "\n" not in shown
    if not shown:
        (url,) = parse_server_urls(f"{before}{typed}@host")
        found = url_credentials(url)
        assert "cret" in (found.password or found.token or "")
        assert bare_url(url) == "nats://host"


def refusal(url: str) -> str:
    """The line with which a URL is refused; empty if it is not."""
    try:
        parse_server_urls(url)
    except ValueError as error:
        return str(error)
    return ""


def test_each_of_several_servers_has_its_own_credentials() -> None:
    urls = parse_server_urls("nats://u:p%2C@a:1, tls://token@b, nats://c")
    assert [url_credentials(url) for url in urls] == [
        UrlCredentials("u", "p,"),
        UrlCredentials(token="token"),
        UrlCredentials(),
    ]


def test_the_representation_of_credentials_shows_no_secret() -> None:
    assert "s3cret" not in repr([UrlCredentials("u", "s3cret"), UrlCredentials(token="s3cret")])


def test_what_a_server_or_nats_py_repeats_of_a_password_is_redacted() -> None:
    settings = ConnectionSettings(servers=("nats://u:p%40ss@host",))
    assert settings.redact("p%40ss or p@ss of u:p%40ss or u:p@ss") == "*** or *** of *** or ***"
