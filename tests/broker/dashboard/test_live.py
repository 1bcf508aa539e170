"""Pages keep up with the mesh: for many viewers at once, through outages, and only while somebody looks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from diracx.tasks.dashboard import live, serving
from diracx.tasks.dashboard.mesh import ANSWER_SECONDS
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED, pause
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.dashboards import Site, listening, signed_in


async def test_a_change_of_the_mesh_reaches_the_page(connection: Connection, topology: Namespace) -> None:
    async with signed_in(connection, topology) as site:
        seen = asyncio.create_task(site.sees("overview", "queues", "paused until it is resumed"))
        await wait_until(lambda: site.dashboard.live.viewers == 1, description="somebody looks")
        await pause(connection, topology.tasks_stream, "normal-small", UNTIL_RESUMED)
        await seen


async def test_one_poller_reads_for_all_who_look_and_ends_after_them(
    connection: Connection, topology: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LINGER_SECONDS", 0.2)
    async with signed_in(connection, topology) as site:
        assert not site.dashboard.live.polls
        viewers = [asyncio.create_task(site.sees("overview", "queues", "never there")) for _ in range(20)]
        await wait_until(lambda: site.dashboard.live.viewers == 20, description="twenty look")
        assert len(site.dashboard.live._feeds) == 1
        for viewer in viewers:
            viewer.cancel()
        await asyncio.wait(viewers)
        await wait_until(lambda: not site.dashboard.live.polls, description="nobody reads the mesh", timeout=10)
        assert not site.dashboard.live._feeds
        await site.sees("overview", "queues", "normal")


async def test_viewers_with_other_rights_do_not_share_a_page(connection: Connection, topology: Namespace) -> None:
    settings: dict[str, Any] = {"token": None, "user_header": "X-Remote-User", "operators": frozenset({"alice"})}
    async with listening(connection, topology, **settings) as site:
        for user, offered in (("alice", True), ("bob", False)):
            site.client.headers["X-Remote-User"] = user
            async for name, html in site.parts("overview"):
                if name == "queues":
                    assert ("/actions/pause" in html) == offered
                    break


@asynccontextmanager
async def opened_by_hand(site: Site, *, buffered: int = 2**16) -> AsyncIterator[asyncio.StreamReader]:
    """The stream of the overview, on a connection of its own.

    Args:
        buffered: So many bytes are taken from the socket before somebody reads.
    """
    cookie = "; ".join(f"{name}={value}" for name, value in site.client.cookies.items())
    host = site.url.removeprefix("http://")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.partition(":")[2]), limit=buffered)
    try:
        writer.write(f"GET /events/overview HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n".encode())
        await wait_until(lambda: site.dashboard.live.viewers == 1, description="it looks")
        yield reader
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_a_viewer_that_does_not_read_holds_nothing_up(connection: Connection, topology: Namespace) -> None:
    async with AsyncExitStack() as viewer, signed_in(connection, topology) as site:
        await viewer.enter_async_context(opened_by_hand(site, buffered=64))
        await site.sees("overview", "queues", "normal")


async def test_the_end_of_the_dashboard_ends_open_streams_and_waits_for_none(
    connection: Connection, topology: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Longer than a slow machine takes, and shorter than what ends a test that hangs.
    monkeypatch.setattr(serving, "CLOSE_SECONDS", 60)
    async with AsyncExitStack() as viewer:
        async with signed_in(connection, topology) as site:
            reader = await viewer.enter_async_context(opened_by_hand(site))
            await reader.readuntil(b"event: part")
        assert "timeout graceful shutdown exceeded" not in caplog.text
        assert (await reader.read()).endswith(b"0\r\n\r\n"), "the stream has ended in order"


async def test_there_is_an_end_of_the_room_for_viewers(
    connection: Connection, topology: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_VIEWERS", 1)
    async with signed_in(connection, topology) as site:
        watching = asyncio.create_task(site.sees("overview", "queues", "never there"))
        await wait_until(lambda: site.dashboard.live.viewers == 1, description="somebody looks")
        answer = await site.client.get("/events/overview")
        assert (answer.status_code, "too many" in answer.text) == (503, True)
        watching.cancel()
        await asyncio.wait([watching])


async def test_an_outage_of_the_server_is_told_and_its_end_too(own_server: EmbeddedServer) -> None:
    names = Namespace("diracx")
    settings = ConnectionSettings(servers=(own_server.url,))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
        await ensure(connection, assets(names))
        async with signed_in(connection, names) as site:
            async with asyncio.timeout(60):
                await _through_an_outage(site, own_server)


async def _through_an_outage(site: Site, server: EmbeddedServer) -> None:
    killed = back = False
    async for name, html in site.parts("overview"):
        if name != "news":
            continue
        if not killed:
            assert "outage" not in html
            server.kill()
            killed = True
        elif not back and "No news since" in html:
            answer = await site.client.get("/")
            assert answer.status_code == 503
            assert "This page fills itself" in answer.text
            assert (await site.client.get("/ready")).status_code == 503
            assert (await site.client.get("/live")).status_code == 200
            server.start()
            back = True
        elif back and "outage" not in html:
            assert (await site.client.get("/")).status_code == 200
            return
    raise AssertionError("the stream ended")


async def test_a_server_that_hangs_is_told_before_a_reader_gives_up(own_server: EmbeddedServer) -> None:
    names = Namespace("diracx")
    settings = ConnectionSettings(servers=(own_server.url,))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
        await ensure(connection, assets(names))
        async with signed_in(connection, names) as site:
            await site.text("/")
            os.kill(own_server.pid, signal.SIGSTOP)
            site.dashboard.mesh.forget()  # what was read a moment ago would serve for one more
            try:
                # All of them, and whoever decides what is ready, wait for one answer.
                async with asyncio.timeout(2 * ANSWER_SECONDS):
                    paths = ("/", "/schedules", "/locks", "/configuration", "/ready")
                    answers = await asyncio.gather(*map(site.client.get, paths))
            finally:
                os.kill(own_server.pid, signal.SIGCONT)
            assert {answer.status_code for answer in answers} == {503}
            assert answers[-1].text.startswith("the mesh does not answer: ")
