"""What is missing, and whose clock is wrong: told once, and seen again when it is put right."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.clock import TOLERANCE, ServerClock, utc_now
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import Asset, assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.mesh_watch import MeshWatch
from diracx.tasks.plumbing.jetstream.topology import ensure, missing
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until

logger = logging.getLogger("diracx.tasks.test")
SETUP = "run `diracx-task-run setup`"


@pytest.fixture(autouse=True)
def _all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger.name)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == logger.name]


def streams(names: Namespace) -> list[Asset]:
    return [asset for asset in assets(names) if asset.kind != "consumer"]


async def test_what_is_missing_is_named_with_the_command_that_creates_it_and_a_consumer_not_beside_its_stream(
    connection: Connection, topology: Namespace
) -> None:
    assert await missing(connection, assets(topology)) is None
    await connection.api(f"CONSUMER.DELETE.{topology.tasks_stream}.normal-small")
    assert await missing(connection, assets(topology)) == f"consumer normal-small is missing: {SETUP}"
    await connection.api(f"STREAM.DELETE.KV_{topology.locks_bucket}")
    await connection.api(f"STREAM.DELETE.{topology.tasks_stream}")
    assert (
        await missing(connection, assets(topology))
        == f"stream {topology.tasks_stream}, bucket {topology.locks_bucket} are missing: {SETUP}"
    )


async def test_a_stream_that_goes_and_comes_back_has_a_line_each(
    connection: Connection, topology: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    watch = MeshWatch(connection, streams(topology), logger, timedelta(seconds=0.02))
    running = asyncio.create_task(watch.run())
    try:
        await connection.api(f"STREAM.DELETE.{topology.later_stream}")
        why = f"stream {topology.later_stream} is missing: {SETUP}"
        await wait_until(lambda: watch.problem == why, description="it is noticed")
        await ensure(connection, assets(topology))
        await wait_until(lambda: watch.problem is None, description="it is there again")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    first, last = told(caplog)
    assert first == f"not all work can be done: {why}"
    assert last.startswith("nothing is missing any more, after ")


async def test_what_this_user_may_not_look_at_counts_as_there(names: Namespace) -> None:
    denied = (
        "authorization { users: [ { user: x, password: x, permissions: { publish: { deny: '$JS.API.*.INFO.>' } } } ] }"
    )
    with EmbeddedServer(extra_config=denied) as server:
        settings = ConnectionSettings(servers=(server.url,), user="x", password="x")
        async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
            assert await missing(connection, assets(names)) is None


async def test_an_outage_changes_nothing_of_what_is_known_and_a_server_without_jetstream_is_told(
    own_server: EmbeddedServer, names: Namespace
) -> None:
    settings = ConnectionSettings(servers=(own_server.url,))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
        await ensure(connection, assets(names))
        watch = MeshWatch(connection, streams(names), logger)
        await watch.look()
        own_server.kill()
        await wait_until(lambda: not connection.is_connected, description="the connection is lost")
        await watch.look()
        assert watch.problem is None
        own_server.extra_config = "jetstream: disabled"
        await asyncio.to_thread(own_server.start)
        assert await connection.wait_connected(10)
        await watch.look()
        assert (watch.problem or "").startswith(
            "the streams cannot be looked at: nobody answers on $JS.API.STREAM.INFO."
        )


async def test_a_wrong_clock_is_told_once_and_again_when_it_changes_by_much_or_is_right(
    connection: Connection, topology: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = timedelta(hours=2)
    connection.clock = ServerClock(lambda: utc_now() + ahead)
    watch = MeshWatch(connection, streams(topology), logger)
    for ahead in (  # noqa: B007 - the clock reads it
        timedelta(hours=2),
        timedelta(hours=2) + TOLERANCE / 2,
        timedelta(hours=-1),
        timedelta(0),
        TOLERANCE / 2,
    ):
        await watch.look()
    rest = "the server's: the server's counts; set this one right"
    first, second, last = told(caplog)
    # What is known of the server's time is off by half a round trip.
    for line, seconds, way in ((first, 7200, "ahead of"), (second, 3600, "behind")):
        found = re.fullmatch(rf"the clock of this machine is (\d+) s {way} {rest}", line)
        assert found is not None, line
        assert int(found[1]) == pytest.approx(seconds, abs=2)
    assert last == "the clock of this machine agrees with the server's again"
