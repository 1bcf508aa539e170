"""Requests to JetStream that wait out elections.

A cluster answers a request through a leader: of the cluster itself, of a stream or of a consumer. When the server of a
leader ends, the others elect a new one: within a second when it ended in order, within 4 to 9 s when it was killed.
Until then a request fares in one of these ways (nats-server 2.12 to 2.15):

no answer              the leader has just gone, and the others do not know it yet; or the request was lost with it
an answer without one  the error `CLUSTER_NOT_AVAILABLE`, `STREAM_OFFLINE` or `CONSUMER_OFFLINE`; a description of a
                       stream or consumer without a leader; a list that says which consumers are missing from it
no responders          for a publish: only the leader of a stream takes it. Nothing was stored
a lost connection      the server that ended was the one of this client, which goes to another one

So a request is sent again until one of its tries is answered by a leader. An earlier try is not given up, since its
answer may only be slow. One that begins without a connection fails at once. A server that is no part of a cluster has
no elections: there a request is sent once, unless an answer says that JetStream, which may be elsewhere, has no leader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.clock import ServerClock, boottime
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.errors import (
    CLUSTER_NOT_AVAILABLE,
    CONSUMER_OFFLINE,
    STREAM_OFFLINE,
    ApiError,
    ClosedError,
    NoLeaderError,
    NotConnectedError,
    RequestTimeoutError,
)
from diracx.tasks.plumbing.wire.times import from_rfc3339

ANSWER_SECONDS: Final = 5.0
"""How long one answer may take."""
ELECTION_SECONDS: Final = 10.0
"""How long a request to a cluster waits for a leader. Nearly every election is shorter."""
RETRY_SECONDS: Final = 0.2
"""The pause after an answer that there is no leader."""
_FIRST_REPEAT_SECONDS: Final = 0.5
_LAST_REPEAT_SECONDS: Final = 2.0
"""The time until a request without an answer is sent again doubles, from the first to the last of these."""

_LEADERLESS: Final = frozenset({CLUSTER_NOT_AVAILABLE, CONSUMER_OFFLINE, STREAM_OFFLINE})


def without_leader(answer: Mapping[str, Any]) -> bool:
    """Whether an answer of the JetStream API says that a leader is missing, so that it may be incomplete or old."""
    if (error := answer.get("error")) is not None:
        return bool(error.get("err_code") in _LEADERLESS)
    cluster = answer.get("cluster")
    return (cluster is not None and not cluster.get("leader")) or bool(answer.get("missing"))


class LeaderRequest:
    """One request to the JetStream API, and its tries.

    Args:
        send: Sends the request, and returns the future of its answer.
        subject: The subject, for the errors.
        clock: An answer that has the time of the server sets it.
        ask: Sends the request, and returns its answer within `timeout` seconds. It costs less than `send`.
    """

    def __init__(
        self,
        send: Callable[[], Awaitable[asyncio.Future[Received]]],
        subject: str,
        clock: ServerClock,
        ask: Callable[..., Awaitable[Received]],
    ) -> None:
        self._send = send
        self._ask = ask
        self._subject = subject
        self._clock = clock
        self._waiting: dict[asyncio.Future[Received], float] = {}
        """The tries without an answer, with the times on `boottime` at which they were sent."""
        self._leaderless = False
        self._sent = False
        self._lost: NotConnectedError | None = None
        """How the connection was lost; None: it is up, as far as is known."""

    async def answer(self, *, timeout: float | None, in_cluster: bool, repeats: bool) -> dict[str, Any]:
        """Send it until a leader answers.

        Args:
            timeout: Seconds for all tries; None: as long as an election may take where there is one.
            in_cluster: Whether the server is part of a cluster.
            repeats: Whether a try that got no answer may be repeated, although it may have been carried out.

        Raises:
            ApiError: JetStream refused the request.
            NoLeaderError: There was none in time. No try that was answered was carried out.
            RequestTimeoutError: No answer in time.
            NotConnectedError: There was no connection, or one was lost that did not come back in time.
            ServerError: As `Connection.request`.
        """
        if not in_cluster:
            sent = boottime()
            only = _read(await self._ask(timeout=timeout or ANSWER_SECONDS), self._subject)
            if not without_leader(only):
                return _accepted(only, sent, self._clock)
            self._leaderless = True
            await asyncio.sleep(RETRY_SECONDS)
        clock = asyncio.get_running_loop().time
        begun, seconds = clock(), timeout or (ELECTION_SECONDS if in_cluster else ANSWER_SECONDS)
        pause = _FIRST_REPEAT_SECONDS if repeats and in_cluster else None
        try:
            # A deadline, since `asyncio.timeout` cancels the task that enters it: see `background.uncancelled_here`.
            while (remaining := begun + seconds - clock()) > 0:
                if (answer := await self._try(pause, remaining)) is not None:
                    return answer
                if self._leaderless and timeout is None:
                    seconds = ELECTION_SECONDS
                pause = None if pause is None else min(2 * pause, _LAST_REPEAT_SECONDS)
            if self._lost is not None:
                raise self._lost
            if self._leaderless:
                raise NoLeaderError(self._subject, seconds)
            raise RequestTimeoutError(self._subject, seconds, in_cluster=in_cluster)
        finally:
            self._give_up()

    def _give_up(self) -> None:
        for each in self._waiting:
            if not each.cancel() and not each.cancelled():
                each.exception()  # it is the same as the one that is raised
        self._waiting.clear()

    async def _try(self, pause: float | None, remaining: float) -> dict[str, Any] | None:
        """Send it once more, and wait `pause` for an answer to any try (None: until it comes), at most `remaining`.
        None: no leader has answered."""
        try:
            sent = boottime()
            self._waiting[await self._send()] = sent
            self._sent, self._lost = True, None
            return await self._answer_of_leader(remaining if pause is None else min(pause, remaining), remaining)
        except NotConnectedError as error:
            if pause is None or not self._sent or isinstance(error, ClosedError):
                raise
            self._lost = error
        self._give_up()
        await asyncio.sleep(min(RETRY_SECONDS, remaining))
        return None

    async def _answer_of_leader(self, seconds: float, remaining: float) -> dict[str, Any] | None:
        done, _ = await asyncio.wait(self._waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            sent, answer = self._waiting.pop(each), _read(each.result(), self._subject)
            if not without_leader(answer):
                return _accepted(answer, sent, self._clock)
            self._leaderless = True
        if done:
            await asyncio.sleep(min(RETRY_SECONDS, remaining))
        return None


def _read(message: Received, subject: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(message.data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ServerError(f"the answer to {subject} is not a JSON object: {error}") from error


def _accepted(answer: dict[str, Any], sent: float, clock: ServerClock) -> dict[str, Any]:
    if "error" in answer:
        raise ApiError.from_answer(answer["error"])
    if (server_time := answer.get("ts")) is not None:
        clock.note(from_rfc3339(server_time), sent)
    return answer
