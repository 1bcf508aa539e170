"""The first connect: bounded, and with one reason when it fails; endless reconnects afterwards."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from nats.aio.client import Client
from nats.errors import SecureConnWantedError

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import AccessRefusedError, ServerUnreachableError

RECONNECT_WAIT = 0.5
"""Seconds between two attempts at one server."""

PING_INTERVAL = 20
"""Seconds; the connection counts as dead after two pings without an answer."""


class Callbacks(TypedDict):
    """What nats-py calls; they are coroutine functions."""

    error_cb: Callable[[Exception], Awaitable[None]]
    disconnected_cb: Callable[[], Awaitable[None]]
    reconnected_cb: Callable[[], Awaitable[None]]


async def connect_once(
    client: Client, settings: ConnectionSettings, callbacks: Callbacks, *, timeout: float, name: str, inbox_prefix: str
) -> None:
    """Try each server twice at most, `timeout` seconds in all; from then on the client reconnects without end.

    Raises:
        ServerUnreachableError: No server answered.
        AccessRefusedError: A server answered and would not have us.
        ValueError: The TLS files of the settings do not work.
    """
    options = {**_access(settings), **_patience(timeout / len(settings.servers)), **callbacks}
    failures: list[Exception] = []
    first = True

    async def report(error: Exception) -> None:
        # Nobody logs the attempts of the first connect: its failure is raised, as one line.
        if first:
            failures.append(error)
        else:
            await callbacks["error_cb"](error)

    options["error_cb"] = report
    try:
        async with asyncio.timeout(timeout):
            await client.connect(list(settings.servers), name=name, inbox_prefix=inbox_prefix, **options)
    except Exception as error:
        raise _unavailable(settings, failures or [error]) from error
    first = False
    client.options["max_reconnect_attempts"] = -1
    client.options["reconnect_time_wait"] = RECONNECT_WAIT


def _access(settings: ConnectionSettings) -> dict[str, Any]:
    return {
        "tls": settings.tls_context(),
        "user": settings.user,
        "password": settings.password,
        "token": settings.token,
        "nkeys_seed": settings.nkey,
        "user_credentials": settings.creds,
    }


def _patience(connect_timeout: float) -> dict[str, Any]:
    return {
        # One server that drops our packets must leave time for the others.
        "connect_timeout": connect_timeout,
        "ping_interval": PING_INTERVAL,
        # With -1 the first connect would never fail, and 0 means the same; 1 is two tries, without a wait.
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0,
        # 0: publish raises at once while disconnected, rather than buffer.
        "pending_size": 0,
    }


def _unavailable(settings: ConnectionSettings, failures: list[Exception]) -> ServerUnavailableError:
    servers = ", ".join(settings.redacted())
    for failure in reversed(failures):
        if isinstance(failure, ssl.SSLError | SecureConnWantedError):
            return AccessRefusedError(f"cannot connect to {servers}: TLS failed: {settings.redact(str(failure))}")
        if "authorization violation" in str(failure).lower() or "authentication" in str(failure).lower():
            return AccessRefusedError(f"cannot connect to {servers}: authorization refused; check the credentials")
        if type(failure).__module__.partition(".")[0] == "nkeys":
            return AccessRefusedError(f"cannot connect to {servers}: the seed of the credentials is malformed")
        if isinstance(failure, ImportError):
            return AccessRefusedError(f"cannot connect to {servers}: a package is missing: {failure}")
    return ServerUnreachableError(f"cannot connect to {servers}: {settings.redact(_reason(failures[-1]))}")


def _reason(failure: Exception) -> str:
    if isinstance(failure, ConnectionRefusedError):
        return "connection refused; is nats-server running there?"
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    return str(failure) or type(failure).__name__
