"""A request is sent again until a leader answers one of its tries."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest

from diracx.tasks.plumbing.clock import ServerClock
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection.elections import LeaderRequest, without_leader
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.errors import (
    ApiError,
    ClosedError,
    NoLeaderError,
    NotConnectedError,
    RequestTimeoutError,
)

NO_LEADER: dict[str, Any] = {"error": {"code": 503, "err_code": 10008, "description": "unavailable"}}
OFFLINE: dict[str, Any] = {"error": {"code": 500, "err_code": 10118, "description": "stream is offline"}}
GONE: dict[str, Any] = {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}


def reply(answer: object) -> Received:
    return Received(b"", b"", b"", answer if isinstance(answer, bytes) else json.dumps(answer).encode())


class Tries:
    """What becomes of each try: an answer, an error, or None for silence. The last one is for all further tries."""

    def __init__(self, *fates: object) -> None:
        self._fates = list(fates)
        self.sent: list[asyncio.Future[Received]] = []
        self.on_send: Callable[[], object] = lambda: None
        self.clock = ServerClock()

    async def send(self) -> asyncio.Future[Received]:
        fate = self._fates[min(len(self.sent), len(self._fates) - 1)]
        future = asyncio.get_running_loop().create_future()
        if isinstance(fate, Exception):
            future.set_exception(fate)
        elif fate is not None:
            future.set_result(reply(fate))
        self.sent.append(future)
        self.on_send()
        return future

    async def send_and_wait(self, *, timeout: float) -> Received:
        try:
            async with asyncio.timeout(timeout):
                return await (await self.send())
        except TimeoutError:
            raise RequestTimeoutError("the.subject", timeout) from None

    async def ask(self, *, timeout: float | None = None, in_cluster: bool = True, repeats: bool = True) -> Any:
        request = LeaderRequest(self.send, "the.subject", self.clock, self.send_and_wait)
        return await request.answer(timeout=timeout, in_cluster=in_cluster, repeats=repeats)


async def test_a_leader_that_answers_is_asked_once_and_tells_the_time() -> None:
    tries = Tries({"ts": "2030-01-01T00:00:00Z"})
    await tries.ask()
    assert len(tries.sent) == 1
    assert datetime(2030, 1, 1, tzinfo=UTC) <= tries.clock.now() < datetime(2030, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("in_cluster", [True, False])
@pytest.mark.parametrize(
    "before",
    [NO_LEADER, OFFLINE, {"cluster": {"name": "c"}, "state": {}}, {"consumers": [], "missing": ["normal-small"]}],
)
async def test_an_answer_without_a_leader_is_no_answer(before: object, in_cluster: bool) -> None:
    tries = Tries(before, before, {"cluster": {"leader": "a"}})
    assert await tries.ask(in_cluster=in_cluster, repeats=False) == {"cluster": {"leader": "a"}}
    assert len(tries.sent) == 3


@pytest.mark.parametrize("answer", [{}, {"cluster": {"leader": "a"}}, {"missing": []}, GONE])
def test_another_answer_is_one(answer: dict[str, Any]) -> None:
    assert not without_leader(answer)


async def test_an_earlier_try_may_answer_last() -> None:
    tries = Tries(None)

    def on_send() -> None:
        if len(tries.sent) == 3:
            tries.sent[0].set_result(reply({"slow": 1}))

    tries.on_send = on_send
    assert await tries.ask() == {"slow": 1}
    assert [each.cancelled() for each in tries.sent] == [False, True, True]


@pytest.mark.parametrize(("in_cluster", "repeats"), [(False, True), (True, False)])
async def test_without_an_answer_it_is_sent_once_where_there_is_no_election_or_a_repeat_could_do_harm(
    in_cluster: bool, repeats: bool
) -> None:
    tries = Tries(None)
    with pytest.raises(RequestTimeoutError, match=r"^no reply from the\.subject within 0\.7 s") as late:
        await tries.ask(timeout=0.7, in_cluster=in_cluster, repeats=repeats)
    assert len(tries.sent) == 1
    assert ("there is no leader, or a server hangs; look at `nats stream report`" in str(late.value)) is in_cluster


async def test_no_leader_in_time_is_told_with_the_time() -> None:
    with pytest.raises(
        NoLeaderError, match=r"^no leader for 0\.3 s that answers on the\.subject: look at `nats stream report`"
    ):
        await Tries(NO_LEADER).ask(timeout=0.3)


async def test_a_refusal_ends_it() -> None:
    with pytest.raises(ApiError, match="stream not found"):
        await Tries(NO_LEADER, GONE).ask()
    with pytest.raises(ServerError, match=r"the answer to the\.subject is not a JSON object"):
        await Tries(b"hello").ask()


class Connection(Tries):
    """Loses its connection with the first try; the next `absent` tries find none."""

    def __init__(self, absent: float, lost: NotConnectedError | None = None) -> None:
        super().__init__(lost or NotConnectedError("lost before the reply"), {"back": 1})
        self._absent = absent

    async def send(self) -> asyncio.Future[Received]:
        if self.sent and self._absent > 0:
            self._absent -= 1
            raise NotConnectedError("nothing was sent")
        return await super().send()


async def test_a_request_that_may_be_repeated_is_sent_again_after_the_reconnect() -> None:
    connection = Connection(absent=2)
    assert await connection.ask() == {"back": 1}
    assert len(connection.sent) == 2


async def test_all_tries_of_a_request_may_be_lost_together() -> None:
    tries = Tries(None, None, {"back": 1})

    def on_send() -> None:
        if len(tries.sent) == 2:
            for each in tries.sent:
                each.set_exception(NotConnectedError("lost"))

    tries.on_send = on_send
    assert await tries.ask() == {"back": 1}
    assert len(tries.sent) == 3


async def test_a_connection_that_does_not_come_back_in_time_is_told() -> None:
    with pytest.raises(NotConnectedError, match="nothing was sent"):
        await Connection(absent=math.inf).ask(timeout=0.5)


@pytest.mark.parametrize(("in_cluster", "repeats"), [(False, True), (True, False)])
async def test_a_lost_connection_ends_a_request_where_there_is_no_election_or_a_repeat_could_do_harm(
    in_cluster: bool, repeats: bool
) -> None:
    connection = Connection(absent=0)
    with pytest.raises(NotConnectedError, match="lost before the reply"):
        await connection.ask(in_cluster=in_cluster, repeats=repeats)
    assert len(connection.sent) == 1


async def test_a_connection_that_is_closed_ends_a_request() -> None:
    with pytest.raises(ClosedError):
        await Connection(absent=0, lost=ClosedError("closed")).ask()


async def test_a_request_without_a_connection_is_not_sent_later() -> None:
    async def send(*, timeout: float = 0) -> NoReturn:
        raise NotConnectedError("nothing was sent")

    request = LeaderRequest(send, "the.subject", ServerClock(), send)
    for in_cluster in (True, False):
        with pytest.raises(NotConnectedError, match="nothing was sent"):
            await request.answer(timeout=None, in_cluster=in_cluster, repeats=True)
