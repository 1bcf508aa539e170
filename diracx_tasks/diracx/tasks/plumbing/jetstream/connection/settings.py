"""How to reach NATS and who to be there, as its users know it."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from typing import Any

import msgspec

from diracx.tasks.plumbing.jetstream.connection.nats_contexts import load_context
from diracx.tasks.plumbing.jetstream.connection.server_urls import (
    has_userinfo,
    parse_server_urls,
    redacted_url,
    secrets_of,
)

DEFAULT_URL = "nats://127.0.0.1:4222"
ENVIRONMENT_PREFIX = "DIRACX_TASKS_"

_FIELDS = ("user", "password", "token", "nkey", "creds", "tls_ca", "tls_cert", "tls_key", "inbox_prefix", "api_prefix")
_FILES = ("nkey", "creds", "tls_ca", "tls_cert", "tls_key")
_CREDENTIALS = {
    "user": "password",
    "password": "password",
    "token": "token",
    "nkey": "nkey",
    "creds": "creds",
}
_SEED = re.compile(r"S[A-Z2-7]{57}")
_VARIABLES = {"url": "NATS_URL"} | {name: name.upper() for name in _FIELDS if name != "inbox_prefix"}


class ConnectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach NATS and who to be there. Its repr shows no secret.

    Args:
        servers: URLs, tried in random order; a server that answers names the others of its cluster.
        user: With `password`.
        password: With `user`.
        token: Instead of user and password.
        nkey: Path of a file with an nkey seed.
        creds: Path of a `.creds` file: a user JWT and its seed.
        tls_ca: Path of the certificates that a server's must be signed by; None: those of the system.
        tls_cert: Path of the client certificate, where the server wants one; with `tls_key`.
        tls_key: Path of its key.
        inbox_prefix: The subjects that replies arrive at, when the operator prescribes them; None: the role's
            own.
        api_prefix: The subjects of the JetStream API, where another account lends it; None: `$JS.API`.
    """

    servers: tuple[str, ...] = (DEFAULT_URL,)
    user: str | None = None
    password: str | None = None
    token: str | None = None
    nkey: str | None = None
    creds: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    inbox_prefix: str | None = None
    api_prefix: str | None = None

    @classmethod
    def resolve(
        cls,
        *,
        url: str | None = None,
        context: str | None = None,
        environ: Mapping[str, str] = os.environ,
        **options: str | None,
    ) -> ConnectionSettings:
        """From the options, then the environment, then a context of the `nats` command, then defaults.

        The strongest of them that holds credentials decides who we are: an option `creds` is not mixed with a
        token of the environment. User and password are one kind and may come from two places.

        Args:
            url: Comma separated server URLs (`DIRACX_TASKS_NATS_URL`).
            context: Name of a context of the `nats` command (`DIRACX_TASKS_CONTEXT`).
            environ: Where the variables `DIRACX_TASKS_...` are looked up.
            options: The other fields by their names (`DIRACX_TASKS_USER`, `_PASSWORD`, `_TOKEN`, `_NKEY`,
                `_CREDS`, `_TLS_CA`, `_TLS_CERT`, `_TLS_KEY`, `_API_PREFIX`; `inbox_prefix` has no variable).

        Raises:
            ValueError: A bad URL, a missing context, a file that cannot be read; one line that names it.
        """
        unknown = options.keys() - set(_FIELDS)
        if unknown:
            raise TypeError(f"resolve() got unexpected options: {', '.join(sorted(unknown))}")
        variables = {name: environ.get(ENVIRONMENT_PREFIX + suffix) for name, suffix in _VARIABLES.items()}
        layers = [_given({"url": url, **options}), _given(variables)]
        context = context or environ.get(f"{ENVIRONMENT_PREFIX}CONTEXT")
        if context:
            layers.append(load_context(context, environ))
        found = _merged(layers)
        settings = cls(servers=parse_server_urls(found.pop("url", DEFAULT_URL)), **found)
        settings._check_files()
        return settings

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS set-up; None when nothing was asked for (a server that wants TLS then gets the system's).

        Raises:
            ValueError: A file is not what it should be.
        """
        if self.tls_ca is None and self.tls_cert is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as error:
            files = ", ".join(path for path in (self.tls_ca, self.tls_cert, self.tls_key) if path)
            raise ValueError(f"TLS cannot be set up from {files}: {error}") from error
        return context

    def redacted(self) -> tuple[str, ...]:
        """The server URLs without credentials, for logs and messages."""
        return tuple(map(redacted_url, self.servers))

    def redact(self, text: str) -> str:
        """The text with `***` for every secret of these settings that it holds."""
        secrets = [self.password, self.token, *(secret for url in self.servers for secret in secrets_of(url))]
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def __repr__(self) -> str:
        return f"ConnectionSettings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    # msgspec's own shows all fields, and rich prefers it to the repr, in tracebacks with locals too.
    def __rich_repr__(self) -> list[tuple[str, Any]]:
        given = [(name, value) for name in _FIELDS if (value := getattr(self, name)) is not None]
        shown = [(name, "***" if name in ("password", "token") else value) for name, value in given]
        return [("servers", self.redacted()), *shown]

    def _check_files(self) -> None:
        for name in _FILES:
            path = getattr(self, name)
            if path is not None:
                _check_readable(name, path)
        if self.creds is not None:
            _check_creds(self.creds)
        if self.nkey is not None:
            _check_nkey(self.nkey)
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError(f"tls_key {self.tls_key} is given without tls_cert")


def _given(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _merged(layers: list[dict[str, str]]) -> dict[str, str]:
    kinds: set[str] = next((found for layer in layers if (found := _kinds_of_credentials(layer))), set())
    merged: dict[str, str] = {}
    for layer in reversed(layers):
        merged |= {name: value for name, value in layer.items() if _CREDENTIALS.get(name) in kinds | {None}}
    return merged


def _kinds_of_credentials(layer: Mapping[str, str]) -> set[str]:
    kinds = {kind for name, kind in _CREDENTIALS.items() if name in layer}
    return kinds | ({"url"} if any(map(has_userinfo, layer.get("url", "").split(","))) else set())


def _check_readable(name: str, path: str) -> None:
    if not os.path.isfile(path):
        raise ValueError(f"{name}: there is no file {path}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{name}: {path} cannot be read by this user")


def _check_creds(path: str) -> None:
    with open(path, encoding="ascii", errors="replace") as file:
        content = file.read()
    # nats-py searches for these lines without looking for the end of the file, for ever.
    if "BEGIN NATS USER JWT" not in content or "BEGIN USER NKEY SEED" not in content:
        raise ValueError(f"creds: {path} is no .creds file: it needs a NATS USER JWT and a USER NKEY SEED")


def _check_nkey(path: str) -> None:
    with open(path, encoding="ascii", errors="replace") as file:
        if _SEED.fullmatch(file.read().strip()) is None:
            raise ValueError(f"nkey: {path} is no file with an nkey seed: a line of 58 letters and digits from S on")
