"""When a client leaves a server for another one. That it does so on a cluster is shown in tests/cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import ServerError, UnsupportedServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.cut_off import Open, leaving_cut_off_servers
from diracx.tasks.plumbing.jetstream.connection.log import ConnectionLog
from diracx.tasks.plumbing.jetstream.connection.request_inbox import RequestInbox
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import ApiError, NotConnectedError, RequestTimeoutError
from diracx.tasks.testing import wait_until

NO_ANSWER = RequestTimeoutError("$JS.API.INFO", 2)
NO_LEADER = ApiError(503, 10008, "JetStream system temporarily unavailable")
REFUSED = ApiError(400, 10003, "bad request")

reopen: Open = partial(Connection.open, name="a probe", inbox_prefix="_INBOX_probe")


@pytest.fixture
async def servers(server: EmbeddedServer) -> AsyncIterator[list[EmbeddedServer]]:
    """Three servers that know nothing of each other."""
    async with AsyncExitStack() as stack:
        yield [server, *[await stack.enter_async_context(EmbeddedServer()) for _ in range(2)]]


class Asked:
    """Answers the question for the leader of the cluster at the current server."""

    def __init__(self, *answers: ServerError | None) -> None:
        self._answers = list(answers)
        self.times = 0

    async def __call__(self, subject_suffix: str, *, timeout: float) -> None:
        assert (subject_suffix, timeout) == ("INFO", 2)
        self.times += 1
        if (answer := self._answers[min(self.times, len(self._answers)) - 1]) is not None:
            raise answer


@asynccontextmanager
async def watched(
    servers: list[EmbeddedServer], ask: Asked, open_: Open = reopen
) -> AsyncIterator[tuple[Connection, RequestInbox]]:
    """A connection to one of the servers that is watched, and the inbox of its requests."""
    settings = ConnectionSettings(servers=tuple(server.url for server in servers))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
        inbox = RequestInbox(connection.client)
        await inbox.start()
        log = ConnectionLog(settings.redact, boottime)
        async with leaving_cut_off_servers(connection.client, inbox, log, settings, ask, open_):
            yield connection, inbox


def give_up(inbox: RequestInbox) -> None:
    """A request gets no answer in time."""
    inbox.expect("a.subject")[1].cancel()


@pytest.mark.parametrize("answer", [NO_ANSWER, NO_LEADER], ids=["no answer", "no leader"])
async def test_it_leaves_where_jetstream_does_not_answer_and_does_on_all_others(
    servers: list[EmbeddedServer], answer: ServerError, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(servers, Asked(answer)) as (connection, inbox):
        before = connection.server
        give_up(inbox)
        await wait_until(lambda: connection.generation, description="it is elsewhere")
        assert connection.server != before
    assert not [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]


async def test_a_request_that_waits_long_starts_the_question(servers: list[EmbeddedServer]) -> None:
    asked = Asked(None)
    async with watched(servers, asked) as (_, inbox):
        _, waiting = inbox.expect("a.subject")
        await wait_until(lambda: asked.times, description="the question is asked")
        waiting.cancel()


@pytest.mark.parametrize("answer", [None, REFUSED, NotConnectedError("not connected")])
async def test_it_stays_where_an_answer_comes(servers: list[EmbeddedServer], answer: ServerError | None) -> None:
    asked = Asked(answer)
    async with watched(servers, asked) as (connection, inbox):
        for times in (1, 2):
            give_up(inbox)
            await wait_until(lambda times=times: asked.times >= times, description="asked")  # type: ignore[misc]
        assert connection.generation == 0


async def test_it_stays_while_one_of_two_others_does_not_answer_and_until_an_answer_comes(
    servers: list[EmbeddedServer],
) -> None:
    asked = Asked(NO_ANSWER, NO_ANSWER, None)
    async with watched(servers, asked) as (connection, inbox):
        next(each for each in servers[1:] if each.url != connection.server).kill()
        for times in (3, 4):
            give_up(inbox)
            await wait_until(lambda times=times: asked.times >= times, description="asked")  # type: ignore[misc]
        assert connection.generation == 0


async def test_it_stays_if_an_election_of_the_whole_cluster_ends_while_the_others_are_asked(
    servers: list[EmbeddedServer],
) -> None:
    asked = Asked(NO_ANSWER, None)
    async with watched(servers, asked) as (connection, inbox):
        for times in (2, 3):
            give_up(inbox)
            await wait_until(lambda times=times: asked.times >= times, description="asked")  # type: ignore[misc]
        assert connection.generation == 0


@pytest.mark.parametrize("error", [ValueError("TLS cannot be set up"), UnsupportedServerError("2.11", "2.12")])
async def test_it_goes_on_watching_where_the_others_cannot_be_asked(
    servers: list[EmbeddedServer], error: Exception
) -> None:
    def cannot(settings: ConnectionSettings, *, connect_timeout: float) -> AbstractAsyncContextManager[object]:
        raise error

    asked = Asked(NO_ANSWER)
    async with watched(servers, asked, cannot) as (connection, inbox):
        give_up(inbox)
        await wait_until(lambda: asked.times > 2, description="it is asked again")
        assert connection.generation == 0


async def test_with_two_servers_nothing_is_asked(servers: list[EmbeddedServer]) -> None:
    """With two, neither is a majority."""
    asked, watching = Asked(NO_ANSWER), Asked(NO_ANSWER)
    async with watched(servers[:2], asked) as (_, inbox), watched(servers, watching) as (_, other):
        give_up(inbox)
        give_up(other)
        await wait_until(lambda: watching.times, description="the watch of three servers asks")
    assert asked.times == 0
