"""The one connection of a process to NATS.

The first connect is bounded: a server that is not there is an error within seconds. From then on the
connection is re-established for as long as the process lives. While it is down nothing is buffered: a publish
or a request fails at once with `NotConnectedError`, since an acknowledgement or a lock renewal that waits out
an outage is stale when it arrives. A request whose reply is cut off by an outage fails at once, too; whether
it was carried out is unknown.

A reconnect does not undo what was lost with the connection on the server: pull requests, for one. Who has
such state registers with `on_reconnect`, or compares `generation`, which rises by one at each reconnect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from nats.aio.msg import Msg

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection.client import PersistentClient
from diracx.tasks.plumbing.jetstream.connection.handshake import RECONNECT_WAIT, connect_once
from diracx.tasks.plumbing.jetstream.connection.log import ConnectionLog
from diracx.tasks.plumbing.jetstream.connection.request_inbox import RequestInbox, parse_denial, publish_now
from diracx.tasks.plumbing.jetstream.connection.server_checks import check_jetstream, check_version
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import (
    ApiError,
    NotConnectedError,
    PermissionDeniedError,
    RequestTimeoutError,
)

API_PREFIX = "$JS.API"
_ABOUT_TO_TELL = 0.01

ReconnectCallback = Callable[[], Awaitable[None] | None]
DenialCallback = Callable[[PermissionDeniedError], None]

logger = logging.getLogger("diracx.tasks.jetstream")


class Connection:
    """Owns the nats-py client of this process. Made by `open`; belongs to the event loop that opened it."""

    def __init__(self, client: PersistentClient, settings: ConnectionSettings) -> None:
        self._client = client
        self._log = ConnectionLog(settings.redact, boottime)
        self._api_prefix = settings.api_prefix or API_PREFIX
        self._requests: RequestInbox | None = None
        self._connected = asyncio.Event()
        self._closing = False
        self._generation = 0
        self._reconnect_callbacks: list[ReconnectCallback] = []
        self._denial_callbacks: list[DenialCallback] = []
        self._callback_tasks: set[asyncio.Future[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: ConnectionSettings, *, name: str, inbox_prefix: str, connect_timeout: float = 5.0
    ) -> AsyncIterator[Connection]:
        """Connect, check the server, and close at the end of the block.

        Args:
            settings: Where to connect and as whom.
            name: Shown by `nats server list connections`, e.g. the worker's id.
            inbox_prefix: The role's subjects for replies; an `inbox_prefix` of the settings wins over it.
            connect_timeout: For the first connect as a whole, in seconds.

        Raises:
            ServerUnreachableError: No server answered. This and the next two are `ServerUnavailableError`s.
            AccessRefusedError: Credentials or TLS.
            JetStreamUnavailableError: The server has none for this account.
            UnsupportedServerError: The server is older than 2.12.1.
            ValueError: The TLS files of the settings do not work.
        """
        client = PersistentClient()
        connection = cls(client, settings)
        try:
            await connect_once(
                client,
                settings,
                {
                    "error_cb": connection._on_error,
                    "disconnected_cb": connection._on_disconnected,
                    "reconnected_cb": connection._on_reconnected,
                },
                timeout=connect_timeout,
                name=name,
                inbox_prefix=settings.inbox_prefix or inbox_prefix,
            )
            await connection._enter(connect_timeout)
            yield connection
        finally:
            await connection._close()

    @property
    def client(self) -> PersistentClient:
        """The nats-py client, for subscriptions and bare publishing. Never close it or change its options."""
        return self._client

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands, as far as is known; a dead peer takes up to a minute to notice."""
        return self._connected.is_set() and self._client.is_connected

    @property
    def generation(self) -> int:
        """How often the connection was re-established."""
        return self._generation

    @property
    def max_payload(self) -> int:
        """The most bytes, headers included, that the server takes in one message."""
        return self._client.max_payload

    async def wait_connected(self, timeout: float) -> bool:
        """Wait until the connection stands; False when it does not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
                while not self.is_connected:
                    # The client knows of an outage that it has yet to tell us; it needs the loop for that.
                    await asyncio.sleep(_ABOUT_TO_TELL)
                    await self._connected.wait()
        except TimeoutError:
            return False
        return True

    def on_reconnect(self, callback: ReconnectCallback) -> None:
        """Call `callback` after each reconnect; an awaitable that it returns runs as a task of its own.

        An error in it is logged. `remove_on_reconnect` takes it off again.
        """
        self._reconnect_callbacks.append(callback)

    def remove_on_reconnect(self, callback: ReconnectCallback) -> None:
        """Call `callback` no more; nothing happens when it is not registered."""
        if callback in self._reconnect_callbacks:
            self._reconnect_callbacks.remove(callback)

    def on_permission_denied(self, callback: DenialCallback) -> None:
        """Call `callback` when the server forbids a publish or subscription; its subject is in lower case.

        Requests need none: a denial ends them. `remove_on_permission_denied` takes it off again.
        """
        self._denial_callbacks.append(callback)

    def remove_on_permission_denied(self, callback: DenialCallback) -> None:
        """Call `callback` no more; nothing happens when it is not registered."""
        if callback in self._denial_callbacks:
            self._denial_callbacks.remove(callback)

    async def publish(self, subject: str, payload: bytes = b"", *, reply: str = "") -> None:
        """Send a message that nobody answers us on, such as an acknowledgement; it is not buffered.

        Raises:
            NotConnectedError: Nothing was sent.
        """
        await publish_now(self._client, subject, payload, reply=reply)

    async def send_request(
        self, subject: str, payload: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[Msg]:
        """Send a request and return at once: many may be under way. The future becomes the reply.

        It fails with `NoRespondersError`, `PermissionDeniedError` or, when the connection is lost meanwhile,
        `NotConnectedError`. It has no timeout; cancel it to give up.

        Raises:
            NotConnectedError: Nothing was sent.
            PayloadTooLargeError: Nothing was sent.
        """
        if self._requests is None:
            raise NotConnectedError(f"not connected: nothing was sent to {subject}")
        return await self._requests.send(subject, payload, headers)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
    ) -> Msg:
        """Send a request and wait for its reply.

        Args:
            subject: Where to.
            payload: The body.
            headers: Names and values; a value holds no line break.
            timeout: In seconds.

        Raises:
            RequestTimeoutError: No reply in time; the request may have been carried out.
            NoRespondersError: Nobody listens there.
            NotConnectedError: The connection is down, or was lost before the reply.
            PermissionDeniedError: The server forbids the subject.
            PayloadTooLargeError: More bytes than the server takes.
        """
        try:
            async with asyncio.timeout(timeout):
                return await (await self.send_request(subject, payload, headers=headers))
        except TimeoutError:
            raise RequestTimeoutError(subject, timeout) from None

    async def api(
        self, subject_suffix: str, body: Mapping[str, object] | None = None, *, timeout: float = 5.0
    ) -> dict[str, Any]:
        """Ask the JetStream API, e.g. `STREAM.INFO.DIRACX_TASKS`; JSON both ways.

        Raises:
            ApiError: JetStream said no; `err_code` tells why.
            ServerError: As `request` does.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        message = await self.request(f"{self._api_prefix}.{subject_suffix}", payload, timeout=timeout)
        try:
            answer = msgspec.json.decode(message.data, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise ServerError(f"the answer to {subject_suffix} is not a JSON object: {error}") from error
        if "error" in answer:
            raise ApiError.from_answer(answer["error"])
        return answer

    async def _enter(self, timeout: float) -> None:
        check_version(self._client)
        self._requests = RequestInbox(self._client)
        await self._requests.start()
        self._connected.set()
        await check_jetstream(self.api, self.server, timeout)
        self._log.info(f"connected to {self.server}")

    @property
    def server(self) -> str:
        """The URL of the server that it is connected to, without credentials."""
        url = self._client.connected_url
        return "no server" if url is None else f"{url.scheme}://{url.netloc.rpartition('@')[2]}"

    async def _close(self) -> None:
        self._closing = True
        self._connected.clear()
        if self._requests is not None:
            self._requests.fail_all(NotConnectedError("the connection was closed"))
        for task in self._callback_tasks:
            task.cancel()
        await asyncio.gather(*self._callback_tasks, return_exceptions=True)
        if not self._client.is_connected:
            self._client.drop_unsent()
        try:
            await self._client.close()
        except OSError as error:
            logger.debug("closing the connection: %s", error)  # the server went first

    async def _on_error(self, error: Exception) -> None:
        denial = parse_denial(str(error))
        told = False
        if denial is not None:
            told = self._requests is not None and self._requests.deny(denial)
            for callback in list(self._denial_callbacks):
                callback(denial)
        # Whoever asked has it as an error, and knows whether it matters.
        if not self._closing and not told:
            self._log.error(error)

    async def _on_disconnected(self) -> None:
        self._connected.clear()
        self._client.drop_unsent()
        if self._requests is not None:
            self._requests.fail_all(NotConnectedError("the connection was lost before the reply"))
        if not self._closing:
            self._log.warning(f"disconnected; trying again every {RECONNECT_WAIT:g} s")

    async def _on_reconnected(self) -> None:
        self._generation += 1
        if self._requests is not None:
            self._requests.permit()
        self._log.recovered()
        self._log.info(f"reconnected to {self.server}")
        self._connected.set()
        for callback in list(self._reconnect_callbacks):
            # Tasks of their own: nats-py cancels the one that runs this when the connection drops again.
            task = asyncio.create_task(_call(callback), name="reconnect callback")
            self._callback_tasks.add(task)
            task.add_done_callback(self._callback_tasks.discard)


async def _call(callback: ReconnectCallback) -> None:
    try:
        result = callback()
        if result is not None:
            await result
    except Exception:
        logger.exception("a reconnect callback failed: %r", callback)
