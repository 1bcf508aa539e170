"""The history with the users of the server in `nats/`, and with those that an earlier version wrote."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from diracx.tasks.plumbing.background import in_background
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.history import HistoryKeeper, HistoryReader
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.secured import connected, secured_server

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = Namespace()
ADDED = ("_HISTORY", ".history.", "CONSUMER.LIST.DIRACX_TASKS", "$SRV.STATS")
"""Permissions that earlier versions did not give."""


@pytest.fixture(scope="module")
def secured() -> Iterator[EmbeddedServer]:
    with secured_server("diracx") as server:
        yield server


@pytest.fixture(scope="module")
def earlier() -> Iterator[EmbeddedServer]:
    """A server that an earlier version has set up."""
    with secured_server("diracx", without=ADDED) as server:
        yield server


def keeper(connection: Connection) -> HistoryKeeper:
    return HistoryKeeper(connection, NAMES, lambda: True, sample_seconds=0.05, store_seconds=0.1)


async def test_a_scheduler_may_keep_the_history_and_an_observer_may_read_it(secured: EmbeddedServer) -> None:
    async with (
        connected(secured, "diracx", "operator") as operator,
        connected(secured, "diracx", "scheduler") as scheduler,
        connected(secured, "diracx", "observer") as observer,
    ):
        await ensure(operator, assets(NAMES), tolerant=False)
        before = (await operator.api(f"STREAM.INFO.{NAMES.history_stream}"))["created"]
        reader = HistoryReader(observer, NAMES)

        async def is_stored() -> bool:
            return bool((await reader.since(LONG_AGO)).samples)

        async with in_background(history=keeper(scheduler).run()):
            await wait_until(is_stored, description="a sample is stored")
        assert (await operator.api(f"STREAM.INFO.{NAMES.history_stream}"))["created"] == before


@pytest.mark.parametrize("role", ["producer", "worker", "scheduler"])
async def test_a_process_that_finds_no_stream_of_the_history_starts_without_a_word(
    secured: EmbeddedServer, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with connected(secured, "diracx", "operator") as operator, connected(secured, "diracx", role) as connection:
        await ensure(operator, assets(NAMES), tolerant=False)
        await operator.api(f"STREAM.DELETE.{NAMES.history_stream}")
        caplog.clear()
        assert await ensure(connection, assets(NAMES)) == []
        assert caplog.messages == []
        assert await ensure(operator, assets(NAMES), tolerant=False) == [f"created stream {NAMES.history_stream}"]


@pytest.mark.parametrize("role", ["worker", "scheduler"])
async def test_a_process_with_the_permissions_of_an_earlier_version_starts_without_a_word(
    earlier: EmbeddedServer, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with connected(earlier, "diracx", "operator") as operator, connected(earlier, "diracx", role) as connection:
        await ensure(operator, [each for each in assets(NAMES) if not each.optional], tolerant=False)
        caplog.clear()
        assert await ensure(connection, assets(NAMES)) == []
        assert caplog.messages == []


async def test_a_leader_with_the_permissions_of_an_earlier_version_says_once_what_to_do(
    earlier: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        connected(earlier, "diracx", "operator") as operator,
        connected(earlier, "diracx", "scheduler") as scheduler,
    ):
        await ensure(operator, [each for each in assets(NAMES) if not each.optional], tolerant=False)
        caplog.clear()
        async with in_background(history=keeper(scheduler).run()):
            await wait_until(lambda: caplog.messages, description="the leader says so")
    (said,) = caplog.messages
    assert said.startswith("no history of the mesh is kept, and all else goes on: no permission for publish to ")
    assert said.endswith("write the users of the server anew (`diracx-task-run setup --export`), and reload it")
