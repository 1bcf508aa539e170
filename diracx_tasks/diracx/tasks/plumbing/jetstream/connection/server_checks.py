"""What a server must be and have before anything is built on it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from nats.aio.client import Client

from diracx.tasks.plumbing.exceptions import UnsupportedServerError
from diracx.tasks.plumbing.jetstream.errors import (
    ApiError,
    JetStreamUnavailableError,
    NoRespondersError,
    PermissionDeniedError,
    RequestTimeoutError,
)

OLDEST_SERVER = (2, 12, 1)
"""The first nats-server with schedules, per-message TTL, and atomic publish of messages with an id (ADR-50, ADR-51)."""


class Api(Protocol):
    """Asks the JetStream API."""

    def __call__(self, subject_suffix: str, *, timeout: float) -> Awaitable[dict[str, Any]]: ...


def check_version(client: Client) -> None:
    """Refuse a server that is too old.

    Raises:
        UnsupportedServerError: With the version found and the one needed.
    """
    version = client.connected_server_version
    try:
        found = (version.major, version.minor, version.patch)
    except ValueError:
        raise UnsupportedServerError("of an unreadable version", _dotted(OLDEST_SERVER)) from None
    if found < OLDEST_SERVER:
        raise UnsupportedServerError(_dotted(found), _dotted(OLDEST_SERVER))


async def check_jetstream(api: Api, server: str, timeout: float) -> None:
    """Refuse a server without JetStream for this user.

    Args:
        api: Asks the server.
        server: Its URL for messages, without credentials.
        timeout: In seconds.

    Raises:
        JetStreamUnavailableError: There is none.
        PermissionDeniedError: The user may not hear replies, so that it could do nothing here.
    """
    try:
        await api("INFO", timeout=timeout)
    except PermissionDeniedError as error:
        # A role need not be allowed to ask this.
        if error.action == "subscription":
            raise
    except NoRespondersError:
        raise JetStreamUnavailableError(f"{server} has no JetStream: start it with -js") from None
    except RequestTimeoutError as error:
        raise JetStreamUnavailableError(f"JetStream of {server} does not answer: {error}") from None
    except ApiError as error:
        raise JetStreamUnavailableError(f"no JetStream on {server} for this user: {error}") from None


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
