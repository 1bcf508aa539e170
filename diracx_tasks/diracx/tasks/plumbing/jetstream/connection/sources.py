"""Where the settings of a connection come from, and which source wins.

The strongest first:

1. the options of the command line;
2. the context that the command line names (`--context`): then the variables do not count;
3. otherwise the variables `DIRACX_TASKS_...`;
4. after them the context that `DIRACX_TASKS_CONTEXT` names;
5. the defaults, and for a server that `dev` of this user runs on this host, the password of that server.

Credentials are never mixed. The first source that has any gives all of them; the same holds for a client certificate
and its key. User, token or password in a URL are credentials of the source that the URL is from. One exception keeps a
password off the command line: `--user` without `--password` takes `DIRACX_TASKS_PASSWORD`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from diracx.tasks.plumbing.jetstream.connection.nats_contexts import load_context
from diracx.tasks.plumbing.jetstream.connection.server_urls import address, bare_url, parse_server_urls, url_credentials

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
ENVIRONMENT_PREFIX: Final = "DIRACX_TASKS_"
NO_CREDENTIALS: Final = "nobody (no credentials are given)"

_CREDENTIALS: Final = ("user", "password", "token", "nkey", "creds")
_CERTIFICATE: Final = ("tls_cert", "tls_key")
_PREFIXES: Final = ("api_prefix", "js_domain")
_NAMES: Final = (*_CREDENTIALS, "tls_ca", *_CERTIFICATE, "inbox_prefix", *_PREFIXES)
OPTIONS: Final = {"url": "--nats-url"} | {name: f"--{name.replace('_', '-')}" for name in _NAMES}
OPTIONS["api_prefix"] = "--js-api-prefix"
VARIABLES: Final = {"url": f"{ENVIRONMENT_PREFIX}NATS_URL"} | {
    name: f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in _NAMES if name != "inbox_prefix"
}
CONTEXT_VARIABLE: Final = f"{ENVIRONMENT_PREFIX}CONTEXT"
# An empty token, or a character that no subject has.
_MALFORMED_PREFIX: Final = re.compile(r"[\s*>]|^\.|\.$|\.\.")
_CONTEXT_KEYS: Final = {
    "tls_ca": "ca",
    "tls_cert": "cert",
    "tls_key": "key",
    "api_prefix": "jetstream_api_prefix",
    "js_domain": "jetstream_domain",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One place that gives settings."""

    values: Mapping[str, str] = field(repr=False)
    labels: Mapping[str, str]
    """What a user calls each setting, e.g. `--user`."""
    context: str | None = None
    """The name of the context, if it is one."""

    def called(self, *names: str) -> str:
        """The given ones of these settings, as a user calls them."""
        shown = " and ".join(self.labels.get(name, name) for name in names if name in self.values)
        return shown if self.context is None else f"{shown} of context {self.context}"

    def origin(self, name: str) -> str:
        """Where a user finds a setting."""
        return self.labels[name] if self.context is None else f"context {self.context}"


@dataclass(frozen=True, slots=True)
class Found:
    """The settings that won."""

    servers: tuple[str, ...] = field(repr=False)
    values: Mapping[str, str] = field(repr=False)
    called: Mapping[str, str]
    """What a user calls each value, e.g. `--creds`, or `creds of context look`."""
    access: str
    """Whose credentials they are and where these come from, e.g. `user look, from context look`."""
    by_default: bool
    """Whether no source names a server or credentials."""


def find(options: Mapping[str, str | None], context: str | None, environ: Mapping[str, str]) -> Found:
    """Merge all sources.

    Raises:
        ValueError: A context or URL cannot be used, or a source contradicts itself. One line, without secrets.
    """
    sources = _sources(options, context, environ)
    with_url = _first(sources, "url")
    servers = parse_server_urls(DEFAULT_URL if with_url is None else with_url.values["url"])
    values: dict[str, str] = {}
    called: dict[str, str] = {}
    for names in (("tls_ca",), _CERTIFICATE, ("inbox_prefix",), _PREFIXES):
        if (source := _first(sources, *names)) is not None:
            given = _api_prefix(source) if names is _PREFIXES else _given_by(source, *names)
            values |= given
            called |= {name: source.called(name) for name in given}
    by_url = with_url if any(map(url_credentials, servers)) else None
    source = next((each for each in sources if each is by_url or each.values.keys() & set(_CREDENTIALS)), None)
    if source is None:
        dev = _of_dev(servers, environ)
        servers = (dev.pop("url"),) if dev else servers
        access = f"user {dev['user']}, from the `dev` of this user" if dev else _without_credentials(sources)
        by_default = with_url is None and "tls_cert" not in values
        return Found(servers, values | dev, called, access, by_default)
    credentials = _checked(source, environ, in_url=source is by_url)
    if not credentials:
        return Found(servers, values, called, _access_by_url(source, servers), False)
    called |= {name: source.called(name) for name in credentials}
    bare = tuple(map(bare_url, servers))
    return Found(bare, values | credentials, called, _access(source, credentials), False)


def dev_context(port: int) -> str:
    """The name of the context that `dev` writes for its server: of this host, since hosts may share a home."""
    return f"diracx-dev-{socket.gethostname().partition('.')[0]}-{port}"


def _sources(options: Mapping[str, str | None], context: str | None, environ: Mapping[str, str]) -> list[Source]:
    sources = [Source(_given(options), OPTIONS)]
    if context:
        return [*sources, _of_context(context, environ)]
    variables = {name: environ.get(variable) for name, variable in VARIABLES.items()}
    sources.append(Source(_given(variables), VARIABLES))
    if selected := environ.get(CONTEXT_VARIABLE):
        sources.append(_of_context(selected, environ))
    return sources


def _of_context(name: str, environ: Mapping[str, str]) -> Source:
    return Source(load_context(name, environ), _CONTEXT_KEYS, name)


def _given(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _first(sources: list[Source], *names: str) -> Source | None:
    return next((source for source in sources if source.values.keys() & set(names)), None)


def _given_by(source: Source, *names: str) -> dict[str, str]:
    return {name: source.values[name] for name in names if name in source.values}


def _api_prefix(source: Source) -> dict[str, str]:
    prefix, domain = source.values.get("api_prefix"), source.values.get("js_domain")
    if prefix and domain:
        raise ValueError(f"{source.called(*_PREFIXES)} exclude each other: give one of them")
    prefix = prefix or f"$JS.{domain}.API"
    if _MALFORMED_PREFIX.search(prefix):
        called = source.called("api_prefix", "js_domain")
        raise ValueError(f"{called} is no part of a subject: it has a space or wildcard, or a dot too many")
    return {"api_prefix": prefix}


def _checked(source: Source, environ: Mapping[str, str], *, in_url: bool) -> dict[str, str]:
    """The credentials of one source, complete and of one kind; empty if they are those of its URL.

    Args:
        in_url: Whether its URL has credentials.
    """
    credentials = _given_by(source, *_CREDENTIALS)
    kinds = {"user" if name == "password" else name for name in credentials} | ({"url"} if in_url else set())
    if len(kinds) > 1:
        called = source.called(*credentials, *({"url"} & kinds))
        raise ValueError(f"{called} exclude each other: give one kind of credentials")
    if credentials.keys() == {"password"}:
        raise ValueError(f"{source.called('password')} is given without a user")
    if credentials.keys() != {"user"}:
        return credentials
    password, owner = (environ.get(VARIABLES[name], "") for name in ("password", "user"))
    if source.labels is OPTIONS and password and owner in ("", credentials["user"]):
        return {**credentials, "password": password}
    whose = f", and {VARIABLES['password']} is for {VARIABLES['user']}" if source.labels is OPTIONS and owner else ""
    raise ValueError(f"{source.called('user')} is given without a password{whose}: give both in one place")


def _access(source: Source, credentials: Mapping[str, str]) -> str:
    kind = next(name for name in _CREDENTIALS if name in credentials)
    what = {
        "user": f"user {_shown(credentials.get('user', ''))}",
        "token": "the token",
        "nkey": f"the nkey in {credentials.get('nkey')}",
        "creds": f"the credentials in {credentials.get('creds')}",
    }[kind]
    return f"{what}, from {source.origin(kind)}"


def _access_by_url(source: Source, servers: tuple[str, ...]) -> str:
    users = {url_credentials(url).user for url in servers}
    (user,) = users if len(users) == 1 else (None,)
    what = "the credentials" if user is None else f"user {_shown(user)}"
    return f"{what} in the URL, from {source.origin('url')}"


def _without_credentials(sources: list[Source]) -> str:
    certificate = _first(sources, "tls_cert")
    if certificate is None:
        return NO_CREDENTIALS
    return f"the certificate in {certificate.values['tls_cert']}, from {certificate.origin('tls_cert')}"


def _shown(user: str) -> str:
    return user if user.isprintable() else ascii(user)


def _of_dev(servers: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """URL, user and password of a server that `dev` of this user runs on this host; empty if it runs none there."""
    if len(servers) > 1 or not (environ.get("XDG_CONFIG_HOME") or environ.get("HOME")):
        return {}
    parts = urlsplit(servers[0])
    if parts.scheme != "nats" or parts.hostname not in ("127.0.0.1", "localhost"):
        return {}
    try:
        found = load_context(dev_context(address(parts)[1]), environ)
    except ValueError:
        return {}
    return found if found.keys() == {"url", "user", "password"} else {}
