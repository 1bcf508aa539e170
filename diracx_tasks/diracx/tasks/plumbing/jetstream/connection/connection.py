"""The one connection of a process to NATS.

* The first connect is bounded: a missing server is an error within seconds.
* From then on the connection is re-established for as long as the process lives.
* While it is down nothing is buffered. A publish or a request fails at once with `NotConnectedError`, because an
  acknowledgement or a lock renewal that waits out an outage is stale when it arrives.
* A request whose reply is cut off by an outage fails at once, too. The server may have carried it out. In a cluster,
  one to the JetStream API that may be repeated is sent again instead, see `elections`.
* A reconnect does not restore the state that the server kept for the old connection, such as pull requests. The owner
  of such state registers with `on_reconnect`, or compares `generation`, which rises by one at each reconnect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec
from nats.errors import ConnectionDrainingError, Error, OutboundBufferLimitError

from diracx.tasks.plumbing.clock import ServerClock, boottime
from diracx.tasks.plumbing.jetstream.connection.client import PassedOverError, PersistentClient
from diracx.tasks.plumbing.jetstream.connection.commands import header_block, publish_command
from diracx.tasks.plumbing.jetstream.connection.cut_off import leaving_cut_off_servers
from diracx.tasks.plumbing.jetstream.connection.elections import ANSWER_SECONDS, ELECTION_SECONDS, LeaderRequest
from diracx.tasks.plumbing.jetstream.connection.handshake import (
    API_PREFIX,
    PREFIX_HINT,
    RECONNECT_SECONDS,
    Callbacks,
    check_version,
    connect_once,
    find_jetstream,
)
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.connection.log import ConnectionLog
from diracx.tasks.plumbing.jetstream.connection.request_inbox import RequestInbox, parse_denial
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import (
    ClosedError,
    NotConnectedError,
    PayloadTooLargeError,
    PermissionDeniedError,
    SubjectTooLongError,
)

_POLL_SECONDS: Final = 0.01

MAX_LINE_BYTES: Final = 4_096
"""The default `max_control_line` of nats-server. The server does not tell a connection its own."""
_REST_OF_LINE_BYTES: Final = len("HPUB   12345678 12345678\r\n")
_LINE_TOO_LONG: Final = "maximum control line exceeded"

ReconnectCallback = Callable[[], Awaitable[None] | None]
DenialCallback = Callable[[PermissionDeniedError], object]

logger = logging.getLogger("diracx.tasks.jetstream")


class Connection:
    """Owns the nats-py client of this process. `open` makes it; it belongs to the event loop that called `open`."""

    def __init__(self, client: PersistentClient, settings: ConnectionSettings) -> None:
        self.clock = ServerClock()
        """The server's time: each answer to `api` that has it sets it."""
        self.client: Final = client
        """The nats-py client, for subscriptions. Never close it or change its options."""
        self._log = ConnectionLog(settings.redact, boottime)
        self._api_prefix = settings.api_prefix or API_PREFIX
        self._access = settings.access
        self._inbox: RequestInbox | None = None
        self._connected = asyncio.Event()
        self._closing = False
        self._twin: Callable[[], AbstractAsyncContextManager[Connection]]
        self._generation = 0
        self._max_line = MAX_LINE_BYTES
        self._longest_line = 0  # of those that were sent since the last reconnect
        self._reconnect_callbacks: list[ReconnectCallback] = []
        self._denial_callbacks: list[DenialCallback] = []
        self._callback_tasks: set[asyncio.Future[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: ConnectionSettings,
        *,
        name: str,
        inbox_prefix: str,
        connect_timeout: float = 5.0,
        other_api_prefixes: Sequence[str] = (),
    ) -> AsyncIterator[Connection]:
        """Connect, check the server, and close at the end of the block.

        Args:
            name: The name of the connection in `nats server list connections`, e.g. the worker's id.
            inbox_prefix: The prefix of the role's reply subjects; an `inbox_prefix` of the settings wins over it.
            connect_timeout: Seconds for the first connect, over all servers.
            other_api_prefixes: Prefixes of the JetStream API to try if the settings name none, and the usual one is
                refused to this user.

        Raises:
            ServerUnreachableError: No server answered. This and the next two are `ServerUnavailableError`s.
            AccessRefusedError: A server refused the credentials or TLS.
            JetStreamUnavailableError: The server has no JetStream for this account.
            UnsupportedServerError: The server is older than 2.12.1.
            ValueError: The TLS files of the settings do not work.
        """
        client = PersistentClient()
        connection = cls(client, settings)
        reopen = partial(cls.open, name=name, inbox_prefix=inbox_prefix, other_api_prefixes=other_api_prefixes)
        connection._twin = partial(reopen, settings)
        try:
            callbacks = connection._callbacks()
            await connect_once(
                client, settings, callbacks, timeout=connect_timeout, name=name, inbox_prefix=inbox_prefix
            )
            inbox = await connection._enter(connect_timeout, () if settings.api_prefix else other_api_prefixes)
            async with leaving_cut_off_servers(client, inbox, connection._log, settings, connection.api, reopen):
                yield connection
        finally:
            await connection._close()

    def _callbacks(self) -> Callbacks:
        disconnected, reconnected = self._on_disconnected, self._on_reconnected
        return {"error_cb": self._on_error, "disconnected_cb": disconnected, "reconnected_cb": reconnected}

    def twin(self) -> AbstractAsyncContextManager[Connection]:
        """Open another connection with the same settings, on the event loop that calls this, perhaps on another thread.

        Raises:
            ServerUnavailableError, ValueError: As `open`.
        """
        return self._twin()

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up, as far as is known; a dead peer is noticed within a minute."""
        return self._connected.is_set() and self.client.is_connected

    @property
    def generation(self) -> int:
        """The number of reconnects so far."""
        return self._generation

    @property
    def in_cluster(self) -> bool:
        """Whether the connected server is part of a cluster, where leaders are elected."""
        return self.client.in_cluster

    @property
    def max_payload(self) -> int:
        """The largest message, headers included, that the server accepts, in bytes."""
        return self.client.max_payload

    async def wait_connected(self, timeout: float) -> bool:
        """Wait until the connection is up; False when it is still down after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
                while not self.is_connected:
                    # The client knows of an outage and has not called back yet; it needs the loop for that.
                    await asyncio.sleep(_POLL_SECONDS)
                    await self._connected.wait()
        except TimeoutError:
            return False
        return True

    def on_reconnect(self, callback: ReconnectCallback) -> None:
        """Call `callback` after each reconnect; an awaitable that it returns runs as a task of its own.

        An error in it is logged. `remove_on_reconnect` removes it.
        """
        self._reconnect_callbacks.append(callback)

    def remove_on_reconnect(self, callback: ReconnectCallback) -> None:
        """Remove `callback`; nothing happens when it is not registered."""
        if callback in self._reconnect_callbacks:
            self._reconnect_callbacks.remove(callback)

    def on_permission_denied(self, callback: DenialCallback) -> None:
        """Call `callback` when the server forbids a publish or subscription; its subject is in lower case.

        A request needs no callback: the denial ends it. An answer of True means that the denial is not to be logged.
        """
        self._denial_callbacks.append(callback)

    def remove_on_permission_denied(self, callback: DenialCallback) -> None:
        """Remove `callback`; nothing happens when it is not registered."""
        if callback in self._denial_callbacks:
            self._denial_callbacks.remove(callback)

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a message without waiting for a reply. It is not buffered while the connection is down.

        Raises:
            NotConnectedError, PayloadTooLargeError, SubjectTooLongError: Nothing was sent.
        """
        self._send(subject, payload, reply, headers)

    def _send(self, subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | bytes | None) -> None:
        # The server closes the connection at a line that is too long, and with it every task of this process suffers.
        line = len(subject.encode()) + len(reply) + _REST_OF_LINE_BYTES
        if line > self._max_line:
            raise SubjectTooLongError(subject, line, self._max_line)
        self._longest_line = max(self._longest_line, line)
        block = headers if isinstance(headers, bytes) else header_block(headers) if headers else b""
        size = len(payload)
        # The server closes the connection when the headers exceed the limit, too.
        if (total := size + len(block)) > self.client.max_payload:
            raise PayloadTooLargeError(total, self.client.max_payload)
        try:
            self.client.queue(publish_command(subject, reply, block, payload), size)
        except (OutboundBufferLimitError, ConnectionDrainingError) as error:
            if self.client.is_closed:
                raise ClosedError(f"the connection was closed: nothing was sent to {subject}") from error
            raise NotConnectedError(f"not connected: nothing was sent to {subject}") from error

    async def send_request(
        self, subject: str, payload: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[Received]:
        """Send a request and return at once, so that many can be in flight. The future becomes the reply.

        The future fails with `NoRespondersError`, `PermissionDeniedError` or, when the connection is lost meanwhile,
        `NotConnectedError`. It has no timeout; cancel it to give up.

        Raises:
            NotConnectedError, PayloadTooLargeError, SubjectTooLongError: Nothing was sent.
        """
        if self._inbox is None:
            raise NotConnectedError(f"not connected: nothing was sent to {subject}")
        reply, future = self._inbox.expect(subject)
        try:
            self._send(subject, payload, reply, headers)
        except BaseException:
            future.cancel()
            raise
        return future

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | bytes | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> Received:
        """Send a request and wait for its reply. Headers that are bytes are as `header_block` makes them.

        Raises:
            RequestTimeoutError: No reply in time; the request may have been carried out.
            NoRespondersError: Nobody subscribes to the subject.
            NotConnectedError: The connection is down, or was lost before the reply.
            PermissionDeniedError: The server forbids the subject.
            PayloadTooLargeError, SubjectTooLongError: The server would not accept it.
        """
        if self._inbox is None:
            raise NotConnectedError(f"not connected: nothing was sent to {subject}")
        reply, future = self._inbox.expect_within(subject, timeout)
        try:
            self._send(subject, payload, reply, headers)
            self.client.write_early(alone=self._inbox.has_one)
            return await future
        except BaseException:
            self._inbox.give_up(reply, future)
            raise

    def api_subject(self, suffix: str) -> str:
        """The subject of one operation of the JetStream API, e.g. of `STREAM.INFO.DIRACX_TASKS`."""
        return f"{self._api_prefix}.{suffix}"

    def bucket_subject(self, subject: str) -> str:
        """The subject to publish to so that a bucket stores the message under `subject`, e.g. `$KV.diracx_locks.a`.

        Under another prefix of the API the server knows the subjects of buckets below that prefix only (as nats.go).
        """
        return subject if self._api_prefix == API_PREFIX else self.api_subject(subject)

    async def api(
        self,
        subject_suffix: str,
        body: Mapping[str, object] | None = None,
        *,
        prefix: str | None = None,
        timeout: float | None = None,
        repeats: bool = True,
    ) -> dict[str, Any]:
        """Send a request to the JetStream API, e.g. `STREAM.INFO.DIRACX_TASKS`; request and reply are JSON.

        A cluster without a leader is asked again, see `elections`.

        Args:
            prefix: In place of the prefix of this connection.
            timeout: Seconds for all tries. None: 5, and 10 where there are elections.
            repeats: Whether a request without an answer may be repeated: carried out twice, it is as if it were once.

        Raises:
            ApiError: JetStream refused the request; `err_code` is the reason.
            NoLeaderError: There was no leader in time.
            ServerError: As `request`.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        subject = self.api_subject(subject_suffix) if prefix is None else f"{prefix}.{subject_suffix}"
        send, ask = partial(self.send_request, subject, payload), partial(self.request, subject, payload)
        request = LeaderRequest(send, subject, self.clock, ask)
        return await request.answer(timeout=timeout, in_cluster=self.in_cluster, repeats=repeats)

    async def _enter(self, timeout: float, other_api_prefixes: Sequence[str]) -> RequestInbox:
        check_version(self.client)
        self._inbox = RequestInbox(self.client, self._access)
        await self._inbox.start()
        self._connected.set()
        prefixes = (self._api_prefix, *other_api_prefixes)
        patience = max(timeout, ELECTION_SECONDS) if self.in_cluster else timeout
        self._api_prefix, answered = await find_jetstream(
            self.api, prefixes, self.server, patience, self.client.has_jetstream
        )
        if not answered:
            self._inbox.hint = PREFIX_HINT
        self._log.info(f"connected to {self.server}")
        return self._inbox

    @property
    def server(self) -> str:
        """The URL of the connected server, without credentials; `no server` while disconnected."""
        url = self.client.connected_url
        return "no server" if url is None else f"{url.scheme}://{url.netloc.rpartition('@')[2]}"

    async def _close(self) -> None:
        self._closing = True
        self._connected.clear()
        if self._inbox is not None:
            self._inbox.fail_all(ClosedError("the connection was closed"))
            self._inbox.stop()
        for task in self._callback_tasks:
            task.cancel()
        await asyncio.gather(*self._callback_tasks, return_exceptions=True)
        if not self.client.is_connected:
            self.client.drop_unsent()
        try:
            await self.client.close()
        except OSError as error:
            logger.debug("closing the connection: %s", error)  # the server closed first

    async def _on_error(self, error: Exception) -> None:
        if _LINE_TOO_LONG in str(error).lower() and self._connected.is_set():
            # An operator has lowered the limit. Whichever line it was, the longest one is too long. Before that it was
            # the line of the login, which tells nothing of the others.
            self._max_line = self._longest_line - 1
        denial = parse_denial(str(error))
        raised = False
        if denial is not None:
            error = Error(f"{error} as {self._access}") if self._access else error
            raised = self._inbox is not None and self._inbox.deny(denial)
            for callback in list(self._denial_callbacks):
                raised |= callback(denial) is True
        # The caller of a denied request gets the error and decides whether it matters.
        if not self._closing and not raised and not isinstance(error, PassedOverError):
            self._log.error(error)

    async def _on_disconnected(self) -> None:
        self._connected.clear()
        self.client.drop_unsent()
        if self._inbox is not None:
            self._inbox.fail_all(NotConnectedError("the connection was lost before the reply"))
        if not self._closing:
            self._log.warning(f"disconnected; trying again every {RECONNECT_SECONDS:g} s")

    async def _on_reconnected(self) -> None:
        self._generation += 1
        self._longest_line = 0
        if self._inbox is not None:
            self._inbox.permit()
        self._log.recovered()
        self._log.info(f"reconnected to {self.server}")
        self._connected.set()
        for callback in list(self._reconnect_callbacks):
            # A task for each: nats-py cancels the task that runs this method when the connection drops again.
            task = asyncio.create_task(_run_callback(callback), name="reconnect callback")
            self._callback_tasks.add(task)
            task.add_done_callback(self._callback_tasks.discard)


async def _run_callback(callback: ReconnectCallback) -> None:
    try:
        result = callback()
        if result is not None:
            await result
    except Exception:
        logger.exception("a reconnect callback failed: %r", callback)
