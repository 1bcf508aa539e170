"""The replies to requests, all of them over one subscription.

A request has no timer of its own: one is set for the earliest deadline, and looks at all that wait when it is over.

nats-py's own `request` waits for its whole timeout in two cases that are known at once: the server forbids the subject
(it reports that in an error without a reply), and the connection is lost (the reply has nowhere to go). Here both end
the wait.
"""

from __future__ import annotations

import asyncio
import math
import re
from functools import partial
from typing import Final, NamedTuple

from diracx.tasks.plumbing.background import KeptFuture
from diracx.tasks.plumbing.jetstream.connection.client import PersistentClient
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.errors import (
    InboxDeniedError,
    NoRespondersError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from diracx.tasks.plumbing.jetstream.headers import NO_RESPONDERS, status_of

_DENIED: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


def parse_denial(text: str) -> PermissionDeniedError | None:
    """Read an error of the server; None when it is no denial. The subject of the result is in lower case."""
    match = _DENIED.search(text)
    return PermissionDeniedError(match[1].lower(), match[2]) if match else None


def is_no_responders(message: Received) -> bool:
    """Whether the server answers that nobody subscribes to the subject of a request."""
    return not message.data and status_of(message) == NO_RESPONDERS


class _Waiting(NamedTuple):
    subject: str
    future: asyncio.Future[Received]
    deadline: float = math.inf
    """On the clock of the event loop."""
    seconds: float = math.inf
    """From the request to the deadline."""


class RequestInbox:
    """Matches each reply with its request.

    Args:
        access: Whose credentials the connection uses, for the errors.
    """

    def __init__(self, client: PersistentClient, access: str = "") -> None:
        self._client = client
        self._access = access
        self.hint = ""
        """What may help against a denial of a request, besides the permission."""
        self._prefix = f"{client.new_inbox()}."
        self.next_token = 0
        """The number of requests so far."""
        self.failures = 0
        """How many requests were given up without a reply, or had nobody to answer them."""
        self._waiting: dict[str, _Waiting] = {}
        """The requests without a reply, by their reply subjects; the oldest first."""
        self._timer: asyncio.TimerHandle | None = None
        self._next_deadline = math.inf
        """The time at which the timer is over."""
        self._loop = asyncio.get_running_loop()
        self._denied: PermissionDeniedError | None = None

    async def start(self) -> None:
        """Subscribe; nats-py repeats the subscription at each reconnect."""
        await self._client.listen(f"{self._prefix}*", self._receive)

    def expect(self, subject: str) -> tuple[str, asyncio.Future[Received]]:
        """Prepare for the reply to one request.

        Args:
            subject: The subject of the request.

        Returns:
            The reply subject to send with the request, and a future. The future becomes the reply, or fails with the
            reason why none comes; cancel it when the request is given up or could not be sent.

        Raises:
            InboxDeniedError: The server forbids this user to receive replies.
        """
        reply, future = self._next(subject)
        self._waiting[reply] = _Waiting(subject, future)
        future.add_done_callback(partial(self._ended, reply))
        return reply, future

    def expect_within(self, subject: str, seconds: float) -> tuple[str, asyncio.Future[Received]]:
        """As `expect`, for a request that fails with `RequestTimeoutError` after so long.

        Whoever waits for the future calls `give_up` where no reply came of it: that costs less than a callback.
        """
        reply, future = self._next(subject)
        deadline = self._loop.time() + seconds
        self._waiting[reply] = _Waiting(subject, future, deadline, seconds)
        if deadline < self._next_deadline:
            self._set_timer(deadline)
        return reply, future

    def give_up(self, reply: str, future: asyncio.Future[Received]) -> None:
        """Forget a request of `expect_within` that has failed, was cancelled, or could not be sent."""
        # It is not done where it is kept from cancellations and its caller is closed, as at the end of the event loop.
        if not future.cancel() and future.done() and not future.cancelled():
            future.exception()  # it failed in the moment in which its caller was cancelled
        self._ended(reply, future)

    @property
    def has_one(self) -> bool:
        """Whether a single request waits for its reply."""
        return len(self._waiting) == 1

    def _next(self, subject: str) -> tuple[str, asyncio.Future[Received]]:
        if self._denied is not None:
            raise self._denied
        reply = f"{self._prefix}{self.next_token}"
        self.next_token += 1
        return reply, KeptFuture(loop=self._loop)

    def has_waited_since(self, token: int) -> bool:
        """Whether a request before this `next_token` still waits for its reply."""
        oldest = next(iter(self._waiting), None)
        return oldest is not None and int(oldest[len(self._prefix) :]) < token

    def deny(self, denial: PermissionDeniedError) -> bool:
        """Fail the requests that a denial of the server concerns; False when it concerns none."""
        if denial.action == "subscription":
            concerned = denial.subject == f"{self._prefix}*".lower()
            if concerned:
                self._denied = InboxDeniedError(self._prefix.rsplit(".", 2)[0], self._access)
                self.fail_all(self._denied)
            return concerned
        requests = [each for each in self._waiting.values() if each.subject.lower() == denial.subject]
        for each in requests:
            if not each.future.done():
                each.future.set_exception(PermissionDeniedError(denial.action, each.subject, self._access, self.hint))
        return bool(requests)

    def fail_all(self, error: Exception) -> None:
        """Fail every request that waits for its reply."""
        for each in self._waiting.values():
            if not each.future.done():
                each.future.set_exception(error)

    def permit(self) -> None:
        """Forget a denial: the server checks the permissions again at a reconnect."""
        self._denied = None

    def stop(self) -> None:
        """Let no timer run on; for the end of the connection."""
        if self._timer is not None:
            self._timer.cancel()

    def _receive(self, message: Received) -> None:
        waiting = self._waiting.pop(message.subject, None)
        if waiting is None or waiting.future.done():
            return
        if is_no_responders(message):
            self.failures += 1
            waiting.future.set_exception(NoRespondersError(waiting.subject))
        else:
            waiting.future.set_result(message)

    def _set_timer(self, deadline: float) -> None:
        self.stop()
        self._next_deadline = deadline
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        now, self._next_deadline = self._loop.time(), math.inf
        for each in self._waiting.values():
            if each.future.done():
                continue
            if each.deadline <= now:
                self.failures += 1
                each.future.set_exception(RequestTimeoutError(each.subject, each.seconds))
            elif each.deadline < self._next_deadline:
                self._next_deadline = each.deadline
        if self._next_deadline < math.inf:
            self._set_timer(self._next_deadline)

    def _ended(self, reply: str, future: asyncio.Future[Received]) -> None:
        self._waiting.pop(reply, None)
        self.failures += future.cancelled()
