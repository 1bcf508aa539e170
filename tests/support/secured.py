"""A server with the configuration in the folder `nats/`, and connections of its users."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from unittest import mock

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.operations.accounts import accounts_conf, password_variable, user_name
from diracx.tasks.plumbing.operations.permissions import roles
from diracx.tasks.plumbing.wire.names import Namespace
from support.paths import NATS_FOLDER

ROLES = tuple(roles(Namespace()))
INCLUDED = '    include "accounts.conf"\n'
TLS_LINE = '# include "tls.conf"\n'


def password(namespace: str, role: str) -> str:
    """A password that a test can find in any output that must not contain it."""
    return f"s3cret-of-{namespace}-{role}"


@contextmanager
def secured_server(*namespaces: str, tls: str = "", without: Sequence[str] = ()) -> Iterator[EmbeddedServer]:
    """A server with `server.conf` on loopback, with a temporary store and the accounts of the namespaces.

    Args:
        tls: Takes the place of the line that includes `tls.conf`.
        without: Permissions that have one of these texts in them are left out, as in the file of an earlier version.
    """
    text = (NATS_FOLDER / "server.conf").read_text()
    assert INCLUDED in text
    assert TLS_LINE in text
    accounts = "".join(accounts_conf(Namespace(name)) for name in namespaces).splitlines(keepends=True)
    kept = (line for line in accounts if not any(each in line for each in without))
    text = text.replace(INCLUDED, "".join(kept))
    text = text.replace(TLS_LINE, tls)
    variables = {
        password_variable(Namespace(name), role): password(name, role) for name in namespaces for role in ROLES
    }
    variables["NATS_ADMIN_PASSWORD"] = password("sys", "admin")
    # The test chooses the addresses; everything else is as in the file.
    text, listens = re.subn(r"^(listen|http): .*$", "", text, flags=re.MULTILINE)
    assert listens == 2
    with (
        tempfile.TemporaryDirectory() as store,
        mock.patch.dict(os.environ, variables | {"NATS_STORE_DIR": store}),
        EmbeddedServer(extra_config=text) as server,
    ):
        yield server


def settings_for(server: EmbeddedServer, namespace: str, role: str) -> ConnectionSettings:
    """Connection settings of a role."""
    return ConnectionSettings(
        servers=(server.url,),
        user=user_name(Namespace(namespace), role),
        password=password(namespace, role),
        api_prefix=Namespace(namespace).imported_api if role in ("producer", "observer") else None,
    )


@asynccontextmanager
async def connected(server: EmbeddedServer, namespace: str, role: str) -> AsyncIterator[Connection]:
    """A connection of a role."""
    settings = settings_for(server, namespace, role)
    inbox = Namespace(namespace).inbox_prefix(role)
    async with Connection.open(settings, name=f"test/{role}", inbox_prefix=inbox) as connection:
        yield connection
