"""A pull whose server stops, dies or is not there: no wait without an end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import RequestTimeoutError
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.pull_client import NORMAL, PullClient, labels, pulling


@asynccontextmanager
async def pulling_from(server: EmbeddedServer) -> AsyncIterator[PullClient]:
    names = Namespace()
    async with Connection.open(
        ConnectionSettings(servers=(server.url,)), name="a worker", inbox_prefix=names.inbox_prefix("worker")
    ) as connection:
        await ensure(connection, assets(names))
        async with pulling(connection, names) as puller:
            yield puller


async def stands_still(puller: PullClient) -> bool:
    try:
        await puller.connection.api("INFO", timeout=0.1)
    except RequestTimeoutError:
        return True
    return False


@pytest.mark.parametrize(("end", "said"), [("stop", "409 Server Shutdown"), ("kill", "reconnected")])
async def test_a_restart_of_the_server_ends_a_wait_and_the_next_one_works(
    own_server: EmbeddedServer, end: str, said: str
) -> None:
    async with pulling_from(own_server) as puller:
        waiting = await puller.polling()
        await asyncio.to_thread(getattr(own_server, end))
        await asyncio.to_thread(own_server.start)
        async with asyncio.timeout(8):
            assert await waiting in ("reconnected", said)
        assert await puller.connection.wait_connected(10)
        waiting = await puller.polling()
        await puller.put(NORMAL, "n")
        assert await waiting == ""
        assert puller.bodies == ["n"]


async def test_a_server_that_dies_in_the_middle_of_a_probe_ends_it_once_it_is_back(
    own_server: EmbeddedServer,
) -> None:
    async with pulling_from(own_server) as puller:
        await puller.put(NORMAL, *labels("n", 3))
        # Stopped, it takes the request and cannot answer; killed, it never will.
        os.kill(own_server.pid, signal.SIGSTOP)
        await wait_until(lambda: stands_still(puller), description="the server stands still")
        probing = asyncio.create_task(puller.pull.probe(10))
        await asyncio.sleep(0)
        await asyncio.to_thread(own_server.kill)
        await wait_until(lambda: not puller.connection.is_connected, description="the connection is lost")
        await asyncio.to_thread(own_server.start)
        async with asyncio.timeout(8):
            assert await probing == (0, "reconnected")
        assert (await puller.pull.probe(10), puller.bodies) == ((3, None), labels("n", 3))


async def test_without_a_connection_nothing_is_asked_and_the_error_is_one_of_ours(own_server: EmbeddedServer) -> None:
    async with pulling_from(own_server) as puller:
        await puller.put(NORMAL, "n")
        assert await puller.pull.probe(1) == (1, None)
        own_server.kill()
        await wait_until(lambda: not puller.connection.is_connected, description="the connection is lost")
        with pytest.raises(ServerUnavailableError):
            await puller.pull.probe(1)
        with pytest.raises(ServerUnavailableError):
            await puller.pull.wait(1)
        for answer in (puller.delivered[0].ack, puller.delivered[0].nak):
            with pytest.raises(ServerUnavailableError, match="message 1 cannot be settled now"):
                answer()
        await asyncio.to_thread(own_server.start)
        assert await puller.connection.wait_connected(10)
        await puller.put(NORMAL, "m")
        await wait_until(lambda: puller.probed(2), description="it pulls again")
        assert "m" in puller.bodies
