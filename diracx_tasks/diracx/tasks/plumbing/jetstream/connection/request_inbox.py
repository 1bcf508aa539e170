"""Requests and their replies over one subscription.

nats-py's own `request` waits out its timeout in two cases that we can know at once: the server forbids the
subject (it says so in an error without a reply), and the connection is lost (the reply has nowhere to go).
Here both end the wait.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Mapping

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, ConnectionDrainingError, OutboundBufferLimitError

from diracx.tasks.plumbing.jetstream.errors import (
    InboxDeniedError,
    NoRespondersError,
    NotConnectedError,
    PayloadTooLargeError,
    PermissionDeniedError,
)

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)
_NO_RESPONDERS = "503"
_HEADER_LINE = b"NATS/1.0\r\n\r\n"


def parse_denial(text: str) -> PermissionDeniedError | None:
    """The denial in an error of the server; None when it is another error. The subject is in lower case."""
    match = _DENIED.search(text)
    return PermissionDeniedError(match[1].lower(), match[2]) if match else None


async def publish_now(
    client: Client, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
) -> None:
    """Publish, or raise at once.

    Raises:
        NotConnectedError: Nothing was sent.
        PayloadTooLargeError: Nothing was sent.
    """
    size = len(payload)
    if headers:
        size += len(_HEADER_LINE) + sum(len(f"{name}: {value}\r\n".encode()) for name, value in headers.items())
    # Over the limit by its headers, a message passes nats-py, and the server closes the connection for it.
    if size > client.max_payload:
        raise PayloadTooLargeError(size, client.max_payload)
    try:
        await client.publish(subject, payload, reply=reply, headers=dict(headers) if headers else None)
    except (OutboundBufferLimitError, ConnectionClosedError, ConnectionDrainingError) as error:
        raise NotConnectedError(f"not connected: nothing was sent to {subject}") from error


class RequestInbox:
    """Sends requests and hands each reply to who asked."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = f"{client.new_inbox()}."
        self._tokens = itertools.count()
        self._waiting: dict[str, tuple[str, asyncio.Future[Msg]]] = {}
        self._denied: PermissionDeniedError | None = None

    async def start(self) -> None:
        """Subscribe; nats-py renews the subscription at each reconnect."""
        await self._client.subscribe(f"{self._prefix}*", cb=self._receive)

    async def send(self, subject: str, payload: bytes, headers: Mapping[str, str] | None) -> asyncio.Future[Msg]:
        """Send a request; the future becomes its reply, or the error that says why none comes.

        Raises:
            NotConnectedError: Nothing was sent.
            PayloadTooLargeError: Nothing was sent.
            InboxDeniedError: Replies cannot reach us.
        """
        if self._denied is not None:
            raise self._denied
        token = str(next(self._tokens))
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._waiting.pop(token, None))
        self._waiting[token] = (subject, future)
        try:
            await publish_now(self._client, subject, payload, reply=self._prefix + token, headers=headers)
        except BaseException:
            future.cancel()
            raise
        return future

    def deny(self, denial: PermissionDeniedError) -> bool:
        """End the requests that a denial of the server concerns; False when there is none."""
        if denial.action == "subscription":
            ours = denial.subject == f"{self._prefix}*".lower()
            if ours:
                self._denied = InboxDeniedError(self._prefix.rsplit(".", 2)[0])
                self.fail_all(self._denied)
            return ours
        concerned = [
            (subject, future) for subject, future in self._waiting.values() if subject.lower() == denial.subject
        ]
        for subject, future in concerned:
            if not future.done():
                future.set_exception(PermissionDeniedError(denial.action, subject))
        return bool(concerned)

    def fail_all(self, error: Exception) -> None:
        """End every request that waits for its reply."""
        for _, future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(error)

    def permit(self) -> None:
        """Forget a denial: the server judges anew at a reconnect."""
        self._denied = None

    async def _receive(self, message: Msg) -> None:
        subject, future = self._waiting.get(message.subject[len(self._prefix) :], ("", None))
        if future is None or future.done():
            return
        if not message.data and message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            future.set_exception(NoRespondersError(subject))
        else:
            future.set_result(message)
