"""The NATS servers and the credentials of a connection, from options, environment and `nats` contexts."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from diracx.tasks.plumbing.jetstream.connection.nats_contexts import warn_if_shared
from diracx.tasks.plumbing.jetstream.connection.server_urls import redacted_url, secrets_of
from diracx.tasks.plumbing.jetstream.connection.sources import CONTEXT_VARIABLE, DEFAULT_URL, OPTIONS, VARIABLES, find

_FIELDS = ("user", "password", "token", "nkey", "creds", "tls_ca", "tls_cert", "tls_key", "inbox_prefix", "api_prefix")
_FILES = ("nkey", "creds", "tls_ca", "tls_cert", "tls_key")
_SECRET_FILES = ("nkey", "creds", "tls_key")
_SEED = re.compile(r"S[A-Z2-7]{57}")


class ConnectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The NATS servers and the credentials of a connection. The repr shows no secret.

    Args:
        servers: URLs, tried in random order; a server that answers names the others of its cluster.
        user: With `password`.
        password: With `user`.
        token: Instead of user and password.
        nkey: Path of a file with an nkey seed.
        creds: Path of a `.creds` file: a user JWT and its seed.
        tls_ca: Path of the authorities that must have signed the server's certificate; None: those of the system.
        tls_cert: Path of the client certificate, if the server demands one; with `tls_key`.
        tls_key: Path of the key of `tls_cert`.
        inbox_prefix: The prefix of the reply subjects, if the operator prescribes one; None: that of the role.
        api_prefix: The prefix of the JetStream API, if another account or domain has it; None: `$JS.API`.
        access: Whose credentials these are and where they come from, for error texts; "" where nobody resolved them.
        by_default: Whether nobody named a server or credentials.
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
    access: str = ""
    by_default: bool = False

    @classmethod
    def resolve(
        cls,
        *,
        url: str | None = None,
        context: str | None = None,
        environ: Mapping[str, str] = os.environ,
        **options: str | None,
    ) -> ConnectionSettings:
        """Merge the options, the variables, the contexts of the `nats` command and the defaults, as `sources` says.

        Args:
            url: Comma separated server URLs (`DIRACX_TASKS_NATS_URL`).
            context: Name of a context of the `nats` command; in place of all variables.
            environ: Holds the variables `DIRACX_TASKS_...`; `DIRACX_TASKS_CONTEXT` names a context that they complete.
            options: The other fields by their names (`DIRACX_TASKS_USER`, `_PASSWORD`, `_TOKEN`, `_NKEY`,
                `_CREDS`, `_TLS_CA`, `_TLS_CERT`, `_TLS_KEY`, `_API_PREFIX`; `inbox_prefix` has no variable), and
                `js_domain` (`_JS_DOMAIN`), the domain that stands in the API's prefix.

        Raises:
            ValueError: A URL, context or file cannot be used, or a source contradicts itself; the text is one line and
                names it.
        """
        unknown = options.keys() - OPTIONS.keys()
        if unknown:
            raise TypeError(f"resolve() got unexpected options: {', '.join(sorted(unknown))}")
        found = find({"url": url, **options}, context, environ)
        settings = cls(servers=found.servers, access=found.access, by_default=found.by_default, **found.values)
        settings._check_files(found.called)
        return settings

    def as_variables(self) -> dict[str, str]:
        """The environment in which another process resolves to these settings, whatever it inherits."""
        given = {VARIABLES[name]: getattr(self, name) or "" for name in _FIELDS if name in VARIABLES}
        others = dict.fromkeys((CONTEXT_VARIABLE, VARIABLES["js_domain"]), "")
        return {**others, **given, VARIABLES["url"]: ",".join(self.servers)}

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS set-up; None when no TLS file is set (a server that demands TLS then gets the system's set-up).

        Raises:
            ValueError: A file does not hold a certificate or key, or they do not match.
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
        """The server URLs without credentials, for logs and error texts."""
        return tuple(map(redacted_url, self.servers))

    def redact(self, text: str) -> str:
        """The text with `***` in place of every secret of these settings."""
        secrets = [self.password, self.token, *(secret for url in self.servers for secret in secrets_of(url))]
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def __repr__(self) -> str:
        return f"ConnectionSettings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    # msgspec defines one that shows all fields, and rich prefers it to the repr, also in tracebacks with locals.
    def __rich_repr__(self) -> list[tuple[str, Any]]:
        given = [(name, value) for name in _FIELDS if (value := getattr(self, name)) is not None]
        shown = [(name, "***" if name in ("password", "token") else value) for name, value in given]
        return [("servers", self.redacted()), *shown]

    def _check_files(self, called: Mapping[str, str]) -> None:
        for name in _FILES:
            path = getattr(self, name)
            if path is not None:
                _check_readable(called[name], path)
                if name in _SECRET_FILES:
                    warn_if_shared(Path(path))
        if self.creds is not None:
            _check_creds(called["creds"], self.creds)
        if self.nkey is not None:
            _check_nkey(called["nkey"], self.nkey)
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError(f"{called['tls_key']} {self.tls_key} is given without its certificate")


def _check_readable(called: str, path: str) -> None:
    if not os.path.isfile(path):
        raise ValueError(f"{called}: there is no file {path}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{called}: {path} cannot be read by this user")


def _check_creds(called: str, path: str) -> None:
    with open(path, encoding="ascii", errors="replace") as file:
        content = file.read()
    # nats-py searches for these lines without an end: it loops for ever where they are missing.
    if "BEGIN NATS USER JWT" not in content or "BEGIN USER NKEY SEED" not in content:
        raise ValueError(f"{called}: {path} is no .creds file: it needs a NATS USER JWT and a USER NKEY SEED")


def _check_nkey(called: str, path: str) -> None:
    with open(path, encoding="ascii", errors="replace") as file:
        if _SEED.fullmatch(file.read().strip()) is None:
            raise ValueError(
                f"{called}: {path} is no file with an nkey seed: a line of 58 letters and digits from S on"
            )
