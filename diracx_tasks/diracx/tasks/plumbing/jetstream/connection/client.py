"""The nats-py client, made to outlive what its server says and to send nothing that went stale.

Eleven of its ways do not suit a process that runs for months, and it has no options for them:

* On most errors that a server reports (expired credentials, a reload that withdraws them, a slow consumer) it
  closes itself for good. The server closes the connection in all cases that matter, and that alone is what
  reconnects.
* What was accepted for sending but not yet written stays queued through an outage and goes out after it. An
  acknowledgement may then settle a message that somebody else has by now, so the queue is emptied at the
  disconnect.
* Closed while it reconnects, it may go on reconnecting for ever: `asyncio.wait_for` of Python 3.11 swallows a
  cancellation that comes in the moment in which an attempt fails (CPython issue 86296). Here a close ends it.
* A reconnect that fails after the TCP connect leaves its socket open.
* It writes a PING ahead of what is queued, so a flush returns before the server has heard the UNSUB that it was to
  follow, and what the server sends meanwhile is lost until `ack_wait`. Here a PING waits its turn.
* After a TLS handshake that failed it waits for the socket to be closed, which asyncio never tells it: the next server
  of the list would not be tried.
* Asked for TLS, it still sends its credentials in the clear to a server that offers none.
* It looks at headers a character at a time, which took a third of the time that a received task costs.
* It looks at each subject that is published to, also at one that the server made and wants back; `answer` does not.
* Each message goes through a queue to a task of its subscription, a turn of the event loop that a worker with few
  slots waits for at every refill; `listen` hands it over where it was read.
* What is published is written by a task of its own, which costs such a worker one more turn; `write_now` does not wait.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from nats.aio.client import PING_PROTO, Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, OutboundBufferLimitError, SecureConnWantedError

_CANCELLED_AGAIN = 0.1
"""Seconds, after which a cancellation counts as swallowed."""

_VERSION = len(b"NATS/1.0")
_STATUS = ord(" ")
"""What follows the version where the server tells a status."""


class PersistentClient(Client):
    """A nats-py client that reconnects after every error, and drops at a disconnect what it had not sent."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[int, Callable[[Msg], None]] = {}

    async def close(self) -> None:
        """Close for good; no attempt to reconnect outlives this."""
        reconnecting = self._reconnection_task
        while reconnecting is not None and not reconnecting.done() and reconnecting is not asyncio.current_task():
            reconnecting.cancel()
            await asyncio.wait([reconnecting], timeout=_CANCELLED_AGAIN)
            reconnecting = self._reconnection_task
        if self._flush_queue is not None:  # else it failed before there was anything to close
            await super().close()

    async def listen(self, subject: str, listener: Callable[[Msg], None]) -> Subscription:
        """Subscribe; `listener` is called with each message as it is read, and must not block."""
        subscription = await self.subscribe(subject)
        self._listeners[subscription._id] = listener
        return subscription

    async def leave(self, subscription: Subscription) -> None:
        """Unsubscribe, and hand over what comes until the server has heard it.

        Without a connection there is nothing to wait for: the subscription is forgotten.
        """
        try:
            if self.is_connected:
                await subscription.drain()  # type: ignore[no-untyped-call]
        except (Error, TimeoutError):
            pass  # the connection went meanwhile, and the subscription with it
        finally:
            self._listeners.pop(subscription._id, None)
            self._remove_sub(subscription._id)

    def answer(self, reply: str, verb: bytes) -> None:
        """Publish to the reply subject of a message that came, together with all else that this turn of the loop sends.

        Raises:
            OutboundBufferLimitError: There is no connection; nothing was sent.
        """
        if not self.is_connected:
            raise OutboundBufferLimitError
        assert self._flush_queue is not None
        command = b"PUB %b  %d\r\n%b\r\n" % (reply.encode(), len(verb), verb)
        self._pending.append(command)
        self._pending_data_size += len(command)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(verb)
        if self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    def write_now(self) -> None:
        """Write what is queued, a turn of the loop early: the answer to it is waited for."""
        if self._pending and self.is_connected and self._transport is not None:
            self._transport.writelines(self._pending[:])
            self.drop_unsent()

    def drop_unsent(self) -> None:
        """Forget what is queued for sending. Subscriptions are not lost: a reconnect repeats them."""
        self._pending.clear()
        self._pending_data_size = 0

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        self._pongs.append(asyncio.get_running_loop().create_future() if future is None else future)
        await self._send_command(PING_PROTO)
        await self._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        listener = self._listeners.get(sid)
        if listener is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        if headers and headers[_VERSION] != _STATUS:
            parsed = self._parse_header_lines(headers[_VERSION + 2 :]) or None
        else:
            parsed = await self._process_headers(headers)
        message = self._build_message(sid, subject, reply, data, parsed)
        try:
            listener(message)
        except Exception as error:  # it must not end the loop that reads
            await self._error_cb(error)

    async def _process_err(self, err_msg: str) -> None:
        reason = err_msg.strip("'")
        self._err = Error(f"nats: {reason}")
        await self._error_cb(self._err)

    async def _connect_to_server(self, s: Srv) -> None:
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
        asked = server is not None and (
            server.uri.scheme == "tls" or (self.options.get("tls") and server.uri.scheme == "nats")
        )
        if asked and not self._server_info.get("tls_required"):
            raise SecureConnWantedError
        return super()._connect_command()

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        headers: dict[str, str] = {}
        for line in raw.decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            name = name.strip()
            # Names are ASCII tokens without white space (RFC 9110, 5.1); nats-py skips others, too.
            if colon and name.isascii() and not (" " in name or "\t" in name):
                headers[name] = value.strip()
        return headers
