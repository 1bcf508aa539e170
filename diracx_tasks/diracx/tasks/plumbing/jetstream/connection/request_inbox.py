"""The replies to requests, all of them over one subscription.

nats-py's own `request` waits for its whole timeout in two cases that are known at once: the server forbids the subject
(it reports that in an error without a reply), and the connection is lost (the reply has nowhere to go). Here both end
the wait.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from diracx.tasks.plumbing.jetstream.errors import (
    InboxDeniedError,
    NoRespondersError,
    PermissionDeniedError,
)
from diracx.tasks.plumbing.jetstream.headers import NO_RESPONDERS, status_of

_DENIED: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


def parse_denial(text: str) -> PermissionDeniedError | None:
    """Read an error of the server; None when it is no denial. The subject of the result is in lower case."""
    match = _DENIED.search(text)
    return PermissionDeniedError(match[1].lower(), match[2]) if match else None


def is_no_responders(message: Msg) -> bool:
    """Whether the server answers that nobody subscribes to the subject of a request."""
    return not message.data and status_of(message) == NO_RESPONDERS


class RequestInbox:
    """Matches each reply with its request.

    Args:
        access: Whose credentials the connection uses, for the errors.
    """

    def __init__(self, client: Client, access: str = "") -> None:
        self._client = client
        self._access = access
        self.hint = ""
        """What may help against a denial of a request, besides the permission."""
        self._prefix = f"{client.new_inbox()}."
        self.next_token = 0
        """The number of requests so far."""
        self.failures = 0
        """How many requests were given up without a reply, or had nobody to answer them."""
        self._waiting: dict[str, tuple[str, asyncio.Future[Msg]]] = {}
        self._denied: PermissionDeniedError | None = None

    async def start(self) -> None:
        """Subscribe; nats-py repeats the subscription at each reconnect."""
        await self._client.subscribe(f"{self._prefix}*", cb=self._receive)

    def expect(self, subject: str) -> tuple[str, asyncio.Future[Msg]]:
        """Prepare for the reply to one request.

        Args:
            subject: The subject of the request.

        Returns:
            The reply subject to send with the request, and a future. The future becomes the reply, or fails with the
            reason why none comes; cancel it when the request is given up or could not be sent.

        Raises:
            InboxDeniedError: The server forbids this user to receive replies.
        """
        if self._denied is not None:
            raise self._denied
        token, self.next_token = str(self.next_token), self.next_token + 1
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        future.add_done_callback(partial(self._ended, token))
        self._waiting[token] = (subject, future)
        return self._prefix + token, future

    def has_waited_since(self, token: int) -> bool:
        """Whether a request before this `next_token` still waits for its reply."""
        oldest = next(iter(self._waiting), None)
        return oldest is not None and int(oldest) < token

    def deny(self, denial: PermissionDeniedError) -> bool:
        """Fail the requests that a denial of the server concerns; False when it concerns none."""
        if denial.action == "subscription":
            concerned = denial.subject == f"{self._prefix}*".lower()
            if concerned:
                self._denied = InboxDeniedError(self._prefix.rsplit(".", 2)[0], self._access)
                self.fail_all(self._denied)
            return concerned
        requests = [
            (subject, future) for subject, future in self._waiting.values() if subject.lower() == denial.subject
        ]
        for subject, future in requests:
            if not future.done():
                future.set_exception(PermissionDeniedError(denial.action, subject, self._access, self.hint))
        return bool(requests)

    def fail_all(self, error: Exception) -> None:
        """Fail every request that waits for its reply."""
        for _, future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(error)

    def permit(self) -> None:
        """Forget a denial: the server checks the permissions again at a reconnect."""
        self._denied = None

    async def _receive(self, message: Msg) -> None:
        subject, future = self._waiting.get(message.subject[len(self._prefix) :], ("", None))
        if future is None or future.done():
            return
        if is_no_responders(message):
            self.failures += 1
            future.set_exception(NoRespondersError(subject))
        else:
            future.set_result(message)

    def _ended(self, token: str, future: asyncio.Future[Msg]) -> None:
        self._waiting.pop(token, None)
        self.failures += future.cancelled()
