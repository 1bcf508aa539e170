"""The nats-py client, adapted to a process that runs for months and must never send anything stale.

nats-py has no options for these seventeen behaviours, so this subclass replaces them. It overrides private methods for
that: `tests/unit/jetstream/connection/test_client_contract.py` lists each one, and fails where a release of nats-py
changes it.

* nats-py closes itself for good after most errors that a server reports (expired credentials, a reload that withdraws
  them, a slow consumer). The server closes the connection in every case that matters, and that alone reconnects here.
* nats-py keeps unwritten commands through an outage and sends them afterwards. By then an acknowledgement may settle a
  message that another worker has, so a disconnect empties the queue here.
* nats-py may go on reconnecting for ever after a close: `asyncio.wait_for` of Python 3.11 swallows a cancellation that
  arrives in the moment in which an attempt fails (CPython issue 86296). `close` cancels again here.
* nats-py leaves the socket open when a reconnect fails after the TCP connect.
* nats-py writes a PING ahead of the queued commands. So a flush returns before the server has read the UNSUB that the
  flush was to follow, and a message sent meanwhile is lost until `ack_wait`. Here a PING takes its turn.
* nats-py waits for the socket to close after a TLS handshake that failed. asyncio never reports that, so the next
  server of the list would not be tried.
* nats-py sends its credentials in the clear when TLS was asked for and the server offers none.
* nats-py sends user and password of a URL as they are written there. Here they are decoded, as in any URL.
* nats-py sends none to a server of the cluster that another one has named. Here it gets those of that other one.
* nats-py reads the public key of an nkey file once, and the seed at each connect. So a new seed would be refused. Here
  both are read at each connect, as nats-py does with a `.creds` file.
* nats-py parses a message at a time, and its headers a character at a time. `incoming` takes a whole read at once.
* nats-py validates each subject that it publishes to, also one that the server made, and passes a publish through three
  coroutines. `queue` does not.
* nats-py passes each message through a queue to a task of its subscription. That costs a turn of the event loop, and a
  worker with few slots waits for it at every refill. `listen` calls the listener where the message is read.
* nats-py may come back to the server that it is to leave. `leave_server` passes over it for a while.
* nats-py writes from a task of its own, which costs more than a callback, and such a worker one more turn. `queue` has
  a callback write, and `write_now` writes at once.
* nats-py stops reading where the PONG of a flush comes that was cancelled. Here a PONG has a future of its own.
* nats-py writes to a socket that was closed in this moment, and raises what the event loop raises. Here it is dropped.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final

from nats.aio.client import PING_PROTO, Client, Srv
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, WebSocketTransport
from nats.errors import (
    ConnectionDrainingError,
    Error,
    OutboundBufferLimitError,
    SecureConnWantedError,
)

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.jetstream.connection.incoming import (
    Listener,
    ListenerParser,
    Received,
    parse_header_lines,
)
from diracx.tasks.plumbing.jetstream.connection.server_urls import UrlCredentials, address

_CANCEL_AGAIN_SECONDS: Final = 0.1
"""A cancellation that has not ended the task by then counts as swallowed."""

MANY_COMMANDS: Final = 32
"""So many queued commands are not kept until the turn of the event loop is over, see `write_early`."""

PASS_OVER_SECONDS: Final = 10.0
"""For so long no attempt goes to a server that was left."""


class PassedOverError(ConnectionError):
    """An attempt went to the server that was left."""


class PersistentClient(Client):
    """A nats-py client that reconnects after every error and drops unsent commands at a disconnect."""

    def __init__(self) -> None:
        super().__init__()
        self.url_credentials: Mapping[tuple[str, int], UrlCredentials] = {}
        """The credentials of each server by its address; empty where all servers get the same."""
        self._last_url_credentials = UrlCredentials()
        self._listeners: dict[bytes, Listener] = {}
        """By the id of the subscription, as the server writes it."""
        self._ps = ListenerParser(self, self._listeners)
        self._write_due = False
        """Whether the queued commands are to be written in the next turn of the event loop."""
        self._left: Srv | None = None
        self._left_until = 0.0

    async def close(self) -> None:
        """Close for good and end every attempt to reconnect."""
        reconnecting = self._reconnection_task
        while reconnecting is not None and not reconnecting.done() and reconnecting is not asyncio.current_task():
            reconnecting.cancel()
            await asyncio.wait([reconnecting], timeout=_CANCEL_AGAIN_SECONDS)
            reconnecting = self._reconnection_task
        if self._flush_queue is not None:  # None: the connect failed before there was anything to close
            await super().close()

    @property
    def in_cluster(self) -> bool:
        """Whether the server said, at the last connect, that it is part of a cluster."""
        return bool(self._server_info.get("cluster"))

    @property
    def has_jetstream(self) -> bool:
        """Whether the server said, at the last connect, that JetStream is enabled on it."""
        return bool(self._server_info.get("jetstream"))

    async def leave_server(self) -> None:
        """Disconnect, and connect to another server."""
        self._left, self._left_until = self._current_server, boottime() + PASS_OVER_SECONDS
        await self._process_op_err(Error("the server is left"))

    async def listen(self, subject: str, listener: Listener) -> Subscription:
        """Subscribe, and call `listener` with each message where it is read; `listener` must not block."""
        subscription = await self.subscribe(subject)
        self._listeners[b"%d" % subscription._id] = listener
        return subscription

    async def leave(self, subscription: Subscription) -> None:
        """Unsubscribe, and deliver every message that the server sent before it read the UNSUB.

        Without a connection the subscription is dropped at once.
        """
        try:
            if self.is_connected:
                await subscription.drain()  # type: ignore[no-untyped-call]
        except (Error, TimeoutError):
            pass  # the connection was lost meanwhile, and the subscription with it
        finally:
            self._remove_sub(subscription._id)

    def queue(self, command: bytes, size: int) -> None:
        """Queue a command that publishes `size` bytes; it leaves with the others of this loop turn.

        Raises:
            OutboundBufferLimitError: There is no connection; nothing was sent.
            ConnectionDrainingError: The connection is about to be closed; nothing was sent.
        """
        if self._status != Client.CONNECTED:
            raise ConnectionDrainingError if self.is_draining_pubs else OutboundBufferLimitError
        self._pending.append(command)
        self._pending_data_size += len(command)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        if not self._write_due:
            self._write_due = True
            asyncio.get_running_loop().call_soon(self._write)

    @property
    def queued(self) -> int:
        """The number of queued commands."""
        return len(self._pending)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._listeners.pop(b"%d" % sid, None)
        super()._remove_sub(sid, max_msgs)

    def write_now(self) -> None:
        """Write the queued commands now instead of in the next loop turn; for a request whose reply is awaited."""
        self._drop_where_cut_off()
        # A WebSocket sends when it is drained, which the client's own task does.
        if self._pending and self.is_connected and isinstance(self._transport, TcpTransport):
            self._transport.writelines(self._pending[:])  # type: ignore[no-untyped-call]
            self.drop_unsent()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        self._drop_where_cut_off()
        return await super()._flush_pending(force_flush)

    def _drop_where_cut_off(self) -> None:
        """Drop what is queued if the socket is closed and nats-py has not noticed yet. To write would raise an error of
        the event loop: RuntimeError in uvloop, TypeError or AttributeError in asyncio of Python 3.12 and 3.13.0."""
        writer = self._transport._io_writer if isinstance(self._transport, TcpTransport) else None
        if writer is not None and writer.is_closing():
            self.drop_unsent()

    def write_early(self, *, alone: bool) -> None:
        """Write the queued commands now if a request is `alone`, so that no other one would share the write; or if so
        many are queued that the server has something to do while this turn of the event loop goes on."""
        if alone or self.queued >= MANY_COMMANDS:
            self.write_now()

    def _write(self) -> None:
        self._write_due = False
        if not isinstance(self._transport, WebSocketTransport):
            self.write_now()
        else:  # it sends when it is drained, which the client's own task does
            assert self._flush_queue is not None
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    def drop_unsent(self) -> None:
        """Drop the commands that wait to be written. A reconnect repeats the subscriptions by itself."""
        self._pending.clear()
        self._pending_data_size = 0

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if future is not None:  # not itself: with one that was cancelled, its PONG would end nats-py's read loop
            pong.add_done_callback(lambda _: None if future.done() else future.set_result(True))
        self._pongs.append(pong)
        await self._send_command(PING_PROTO)
        await self._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        listener = self._listeners.get(b"%d" % sid)
        if listener is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            listener(Received(subject, reply, headers or b"", data))
        except Exception as error:  # an error of a listener must not end the read loop
            await self._error_cb(error)

    async def _process_err(self, err_msg: str) -> None:
        reason = err_msg.strip("'")
        self._err = Error(f"nats: {reason}")
        await self._error_cb(self._err)

    async def _connect_to_server(self, s: Srv) -> None:
        if s is self._left and boottime() < self._left_until:
            raise PassedOverError(f"{s.uri.hostname}:{s.uri.port} is passed over for {PASS_OVER_SECONDS:g} s")
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except ssl.SSLError:
            self._transport = None  # asyncio has closed the socket
            raise

    def _connect_command(self) -> bytes:
        server = self._current_server
        tls_wanted = server is not None and (
            server.uri.scheme == "tls" or (self.options.get("tls") and server.uri.scheme == "nats")
        )
        if tls_wanted and not self._server_info.get("tls_required"):
            raise SecureConnWantedError
        if self.url_credentials and server is not None:
            self._use_url_credentials(server)
        if self._nkeys_seed is not None:
            self._setup_nkeys_seed_connect()
        return super()._connect_command()

    def _use_url_credentials(self, server: Srv) -> None:
        if not server.discovered:
            self._last_url_credentials = self.url_credentials[address(server.uri)]
        found = self._last_url_credentials
        self.options |= {"user": found.user, "password": found.password, "token": found.token}
        self._auth_configured = bool(found)

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        return parse_header_lines(raw)
