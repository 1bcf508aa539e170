"""The first connect, and the checks of the server that it reached.

The first connect is bounded and fails with one reason. From then on the client reconnects without end.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypedDict
from urllib.parse import urlsplit

from nats.errors import SecureConnWantedError

from diracx.tasks.plumbing.exceptions import ServerUnavailableError, UnsupportedServerError
from diracx.tasks.plumbing.jetstream.connection.client import PersistentClient
from diracx.tasks.plumbing.jetstream.connection.server_urls import address, bare_url, url_credentials
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.connection.sources import NO_CREDENTIALS
from diracx.tasks.plumbing.jetstream.errors import (
    AccessRefusedError,
    ApiError,
    JetStreamUnavailableError,
    NoLeaderError,
    NoRespondersError,
    PermissionDeniedError,
    RequestTimeoutError,
    ServerUnreachableError,
)

OLDEST_SERVER: Final = (2, 12, 1)
"""The first nats-server with schedules, per-message TTL, and atomic publish of messages with an id (ADR-50, ADR-51)."""

API_PREFIX: Final = "$JS.API"
"""The subjects of the JetStream API, unless the settings name another prefix."""

RECONNECT_SECONDS: Final = 0.5
"""The pause between two attempts at one server."""

PING_SECONDS: Final = 20
"""The pause between two pings; the connection counts as dead after two pings without an answer."""


PREFIX_HINT: Final = (
    "if its account imports the JetStream API under a prefix, name that by --js-api-prefix (DIRACX_TASKS_API_PREFIX)"
)
"""For a user to whom the usual subjects of the API are refused."""


class Callbacks(TypedDict):
    """The coroutine functions that nats-py calls."""

    error_cb: Callable[[Exception], Awaitable[None]]
    disconnected_cb: Callable[[], Awaitable[None]]
    reconnected_cb: Callable[[], Awaitable[None]]


async def connect_once(
    client: PersistentClient,
    settings: ConnectionSettings,
    callbacks: Callbacks,
    *,
    timeout: float,
    name: str,
    inbox_prefix: str,
) -> None:
    """Try each server twice at most, within `timeout` seconds; from then on the client reconnects without end.

    Raises:
        ServerUnreachableError: No server answered.
        AccessRefusedError: A server answered and refused the credentials or TLS.
        ValueError: The TLS files of the settings do not work.
    """
    options = {**_access(settings), **_first_connect_limits(timeout / len(settings.servers)), **callbacks}
    failures: list[Exception] = []
    first = True

    async def report(error: Exception) -> None:
        # The failures of the first connect are not logged: they are raised as one error of one line.
        if first:
            failures.append(error)
        else:
            await callbacks["error_cb"](error)

    options["error_cb"] = report
    servers = list(map(bare_url, settings.servers))
    if not any((settings.user, settings.token, settings.nkey, settings.creds)):
        client.url_credentials = {address(urlsplit(url)): url_credentials(url) for url in settings.servers}
    try:
        async with asyncio.timeout(timeout):
            await client.connect(servers, name=name, inbox_prefix=settings.inbox_prefix or inbox_prefix, **options)
    except Exception as error:
        raise _unavailable(settings, failures or [error]) from error
    first = False
    client.options["max_reconnect_attempts"] = -1
    client.options["reconnect_time_wait"] = RECONNECT_SECONDS


def _access(settings: ConnectionSettings) -> dict[str, Any]:
    return {
        "tls": settings.tls_context(),
        "user": settings.user,
        "password": settings.password,
        "token": settings.token,
        "nkeys_seed": settings.nkey,
        "user_credentials": settings.creds,
    }


def _first_connect_limits(connect_timeout: float) -> dict[str, Any]:
    return {
        # A server that drops packets must leave time for the others.
        "connect_timeout": connect_timeout,
        "ping_interval": PING_SECONDS,
        # -1 and 0 both mean that the first connect never fails; 1 means two attempts, here without a pause.
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0,
        # 0: while disconnected, publish raises at once instead of buffering.
        "pending_size": 0,
    }


def _unavailable(settings: ConnectionSettings, failures: list[Exception]) -> ServerUnavailableError:
    servers = ", ".join(settings.redacted())
    for failure in reversed(failures):
        if isinstance(failure, ssl.SSLError | SecureConnWantedError):
            return AccessRefusedError(f"cannot connect to {servers}: TLS failed: {settings.redact(str(failure))}")
        if "authorization violation" in str(failure).lower() or "authentication" in str(failure).lower():
            return AccessRefusedError(f"cannot connect to {servers}: {_authorization_refused(settings.access)}")
        if type(failure).__module__.partition(".")[0] == "nkeys":
            return AccessRefusedError(f"cannot connect to {servers}: the seed of the credentials is malformed")
        if isinstance(failure, ImportError):
            return AccessRefusedError(f"cannot connect to {servers}: a package is missing: {failure}")
    return ServerUnreachableError(f"cannot connect to {servers}: {settings.redact(_reason(failures[-1]))}")


def _authorization_refused(access: str) -> str:
    if access == NO_CREDENTIALS:
        return "authorization refused: no credentials are given; name yours, e.g. by --creds or --context"
    return f"authorization refused{access and f' to {access}'}; check the credentials"


def _reason(failure: Exception) -> str:
    if isinstance(failure, ConnectionRefusedError):
        return "connection refused; is nats-server running there?"
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    return str(failure) or type(failure).__name__


class Api(Protocol):
    """Sends a request to the JetStream API under a prefix, as `Connection.api` does."""

    def __call__(self, subject_suffix: str, *, prefix: str, timeout: float) -> Awaitable[dict[str, Any]]: ...


def check_version(client: PersistentClient) -> None:
    """Check that the server is not older than `OLDEST_SERVER`.

    Raises:
        UnsupportedServerError: It is older; the text names its version and the oldest that works.
    """
    version = client.connected_server_version
    try:
        found = (version.major, version.minor, version.patch)
    except ValueError:
        raise UnsupportedServerError("of an unreadable version", _dotted(OLDEST_SERVER)) from None
    if found < OLDEST_SERVER:
        raise UnsupportedServerError(_dotted(found), _dotted(OLDEST_SERVER))


async def find_jetstream(
    api: Api, prefixes: Sequence[str], server: str, timeout: float, enabled: bool = True
) -> tuple[str, bool]:
    """Find the prefix under which the server has JetStream for this user.

    Args:
        api: Sends the request.
        prefixes: The prefixes of the API to try, the likeliest first.
        server: The URL of the server for error texts, without credentials.
        timeout: Seconds to wait for an answer.
        enabled: Whether the server itself said that it has JetStream.

    Returns:
        The prefix, and whether the server answered there. It may forbid this user to ask. Then it is the first prefix.

    Raises:
        JetStreamUnavailableError: JetStream is missing or does not answer.
        PermissionDeniedError: This user may not receive replies.
    """
    problem: JetStreamUnavailableError | None = None
    for prefix in prefixes:
        try:
            await api("INFO", prefix=prefix, timeout=timeout)
        except PermissionDeniedError as error:
            if error.action == "subscription":
                raise
        except (NoLeaderError, RequestTimeoutError) as error:  # elsewhere nobody would listen
            problem = problem or _silent(server, error, enabled)
        except NoRespondersError:
            if prefix == prefixes[0]:
                problem = JetStreamUnavailableError(_nobody_answers(server, prefix))
        except ApiError as error:
            if prefix == prefixes[0]:
                said = f"{error}; or {PREFIX_HINT}"
                problem = JetStreamUnavailableError(f"no JetStream on {server} for this user: {said}")
        else:
            return prefix, True
    if problem is not None:
        raise problem
    return prefixes[0], False


def _silent(server: str, error: Exception, enabled: bool) -> JetStreamUnavailableError:
    if enabled:
        return JetStreamUnavailableError(f"JetStream of {server} does not answer: {error}")
    return JetStreamUnavailableError(
        f"JetStream is disabled on {server}, by its configuration or since its disk is full: look at its log, make "
        f"room, and start it again ({error})"
    )


def _nobody_answers(server: str, prefix: str) -> str:
    if prefix == API_PREFIX:
        return f"{server} has no JetStream: start it with -js; or {PREFIX_HINT}"
    return (
        f"{server} has no JetStream under {prefix}: correct the domain or the prefix of the API in --js-domain or "
        "--js-api-prefix, their variables or the context; leave both out for the JetStream of the server itself"
    )


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
