"""A server that is cut off from its cluster, and the client that leaves it.

Such a server goes on answering pings, so nats-py stays with it. But it has no majority: a stream has no leader there,
or one that never acknowledges. It takes part again when its routes are back, which may be much later.

The watch begins with a request that gets no answer. Then it asks:

    does JetStream answer here?            yes: an election of one stream, or a slow request; wait for the next one
    does it answer on most other servers?  no: an election of the whole cluster, or this side has the majority; ask anew
    does it answer here by now?            yes: that election ended while the others were asked. no: leave this server

Most of all servers must answer elsewhere, so the settings must name three or more; with fewer there is no watch.

A leader of the whole cluster that is cut off believes that it leads for 10 to 20 s more, and answers. Until then
requests fail with their timeout. No task is settled twice by that: nothing is acknowledged there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection.client import PersistentClient
from diracx.tasks.plumbing.jetstream.connection.log import ConnectionLog
from diracx.tasks.plumbing.jetstream.connection.request_inbox import RequestInbox
from diracx.tasks.plumbing.jetstream.connection.server_urls import address
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import ApiError, NoLeaderError, NoRespondersError, RequestTimeoutError

FEWEST_SERVERS: Final = 3

LOOK_SECONDS: Final = 1.0
"""The pause between two looks at the requests, and between two questions while no answer comes."""

ANSWER_SECONDS: Final = 2.0
"""How long one server may take to answer: some round trips, and time for a busy machine."""

_UNAVAILABLE: Final = 503
"""The code of "JetStream system temporarily unavailable": the server knows no leader of the cluster."""


class Ask(Protocol):
    """Sends a request to the JetStream API, as `Connection.api` does."""

    def __call__(self, subject_suffix: str, *, timeout: float) -> Awaitable[object]: ...


class Open(Protocol):
    """Connects and asks JetStream for `INFO`, as `Connection.open` does."""

    def __call__(
        self, settings: ConnectionSettings, *, connect_timeout: float
    ) -> AbstractAsyncContextManager[object]: ...


@asynccontextmanager
async def leaving_cut_off_servers(
    client: PersistentClient,
    inbox: RequestInbox,
    log: ConnectionLog,
    settings: ConnectionSettings,
    ask: Ask,
    open_: Open,
) -> AsyncIterator[None]:
    """During the block, leave a server that is cut off from its cluster.

    Args:
        settings: Of the connection, with the URLs of all servers.
        ask: On this connection.
        open_: Opens another one.
    """
    if len(settings.servers) < FEWEST_SERVERS:
        yield
        return
    watch = asyncio.create_task(_Watch(client, inbox, log, settings, ask, open_).run(), name="cut off servers")
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


class _Watch:
    """Of one connection; the arguments are those of `leaving_cut_off_servers`."""

    def __init__(
        self,
        client: PersistentClient,
        inbox: RequestInbox,
        log: ConnectionLog,
        settings: ConnectionSettings,
        ask: Ask,
        open_: Open,
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._log = log
        self._settings = settings
        self._ask = ask
        self._open = open_

    async def run(self) -> None:
        """Watch until cancelled."""
        last_token, failures = self._inbox.next_token, self._inbox.failures
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._inbox.failures > failures or self._inbox.has_waited_since(last_token):
                while not await self._answers():
                    if await self._most_others_answer() and not await self._answers():
                        await self._leave()
                        break
                    await asyncio.sleep(LOOK_SECONDS)
            last_token, failures = self._inbox.next_token, self._inbox.failures

    async def _answers(self) -> bool:
        """Whether JetStream answers where the client is; True also while it is nowhere."""
        try:
            await self._ask("INFO", timeout=ANSWER_SECONDS)
        except (RequestTimeoutError, NoRespondersError, NoLeaderError):
            return False
        except ApiError as error:
            return error.code != _UNAVAILABLE
        except ServerError:
            return True  # the connection is lost, or this user may not ask
        return True

    async def _most_others_answer(self) -> bool:
        current = self._client.connected_url
        here = None if current is None else address(current)
        others = [url for url in self._settings.servers if address(urlsplit(url)) != here]
        answers = await asyncio.gather(*map(self._answers_at, others))
        return sum(answers) > len(self._settings.servers) / 2

    async def _answers_at(self, url: str) -> bool:
        try:
            async with self._open(
                msgspec.structs.replace(self._settings, servers=(url,)), connect_timeout=ANSWER_SECONDS
            ):
                return True
        except (ServerError, ValueError):  # also files that are being exchanged; it is asked again
            return False

    async def _leave(self) -> None:
        self._log.warning(
            "this server is cut off from its cluster: JetStream does not answer here, and does on most other servers; "
            "goes to another one"
        )
        await self._client.leave_server()
