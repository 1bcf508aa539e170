"""From the command line's words on the server to a connection."""

from __future__ import annotations

import os
import socket
from contextlib import AbstractAsyncContextManager

import rich_click as click

from diracx.tasks.cli.options import Access
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.wire.names import Namespace


def settings_of(access: Access) -> ConnectionSettings:
    """The settings, checked as far as they can be without a server.

    Raises:
        click.UsageError: A bad URL, a missing context, a file that is not what it should be.
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
    """The namespace.

    Raises:
        click.UsageError: Its name has a wrong form.
    """
    try:
        return Namespace(access.namespace)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def connection_name(*roles: str) -> str:
    """What operators read in the server's list of connections, e.g. `diracx-worker/small/<host>/<pid>`."""
    return "/".join([f"diracx-{roles[0]}", *roles[1:], socket.gethostname(), str(os.getpid())])


def operator_connection(access: Access, command: str) -> AbstractAsyncContextManager[Connection]:
    """A connection for a command that looks or repairs; nothing is created on the server."""
    return Connection.open(
        settings_of(access),
        name=connection_name("operator", command),
        inbox_prefix=namespace_of(access).inbox_prefix("operator"),
    )
