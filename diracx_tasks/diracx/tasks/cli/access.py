"""Connections to the server, made from the options of the command line."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import rich_click as click

from diracx.tasks.cli.options import Access
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.operations.storage import StorageReader
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace


def settings_of(access: Access) -> ConnectionSettings:
    """Return the connection settings, checked as far as possible without a server.

    Raises:
        click.UsageError: A URL is malformed, a context does not exist, or a file cannot be used.
    """
    try:
        settings = ConnectionSettings.resolve(
            url=access.url, context=access.context, environ=os.environ, **access.credentials
        )
        settings.tls_context()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return settings


def namespace_of(access: Access) -> Namespace:
    """Return the namespace.

    Raises:
        click.UsageError: The name is malformed.
    """
    try:
        return Namespace(access.namespace)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def connection_name(*roles: str) -> str:
    """Return the name in the server's list of connections, e.g. `diracx-worker/small/<host>/<pid>`."""
    return "/".join([f"diracx-{roles[0]}", *roles[1:], socket.gethostname(), str(os.getpid())])


def operator_connection(access: Access, command: str) -> AbstractAsyncContextManager[Connection]:
    """Connect for a command that inspects or repairs. The connection creates nothing on the server.

    An observer reaches the API of the mesh under a prefix, which this finds by itself.
    """
    namespace = namespace_of(access)
    return Connection.open(
        settings_of(access),
        name=connection_name("operator", command),
        inbox_prefix=namespace.inbox_prefix("operator"),
        other_api_prefixes=(namespace.imported_api,),
    )


def producer(access: Access, registry: TaskRegistry, command: str) -> AbstractAsyncContextManager[JetStreamBroker]:
    """Connect for a command that submits tasks of this registry."""
    return JetStreamBroker.connect(
        settings=settings_of(access),
        namespace=namespace_of(access).name,
        registry=registry,
        name=connection_name("producer", command),
    )


@asynccontextmanager
async def mesh_expected(connection: Connection, namespace: Namespace) -> AsyncIterator[None]:
    """Explain the server's "stream not found" within the block: what is missing, and the command that creates it.

    Raises:
        ServerError: A stream or bucket of the namespace is missing.
    """
    try:
        yield
    except ApiError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise
        raise ServerError(await _missing_text(connection, namespace)) from None


async def _missing_text(connection: Connection, namespace: Namespace) -> str:
    missing, none_exists = list[str](), False
    # A producer may not ask; then all that is known is that something was not found.
    with suppress(ServerError):
        missing, none_exists = await StorageReader(connection, namespace).missing()
    if missing and not none_exists:
        return missing_text(missing)
    whole = "does not exist on this server" if missing else "does not exist on this server, or only in part"
    return (
        f"namespace {namespace.name} {whole}: start a worker or a scheduler in it, "
        "or create it with `diracx-task-run setup`"
    )


def missing_text(missing: Sequence[str]) -> str:
    """What is missing of a namespace that exists, e.g. `bucket diracx_locks`, and the command that creates it."""
    are, it = ("is", "it") if len(missing) == 1 else ("are", "them")
    return f"{', '.join(missing)} {are} missing on this server: create {it} with `diracx-task-run setup`"
