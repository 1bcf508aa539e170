"""Followers of the cancellations of a mesh: notes come, go, cannot be read."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import msgspec
import pytest

from diracx.tasks.plumbing.cancellations import follower as follower_module
from diracx.tasks.plumbing.cancellations.follower import MAX_LINES, CancellationFollower
from diracx.tasks.plumbing.cancellations.note import Kind, Note
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import delete_message, purge_subject
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.cancelling import following
from support.deliveries import fake_delivery

NAME = "test:Nothing"


async def cancelled(connection: Connection, names: Namespace, kind: Kind, key: str) -> int:
    """Write a note; return its sequence."""
    note = Note(kind=kind, key=key, at=connection.clock.now(), by="alice")
    subject = names.cancelled_subject(kind, key)
    return (await publish(connection, subject, msgspec.json.encode(note), {"Nats-Rollup": "sub"})).seq


def delivery(connection: Connection, **headers: str) -> Delivery:
    return fake_delivery(connection, headers={"Task-Name": NAME} | {f"Task-{k.title()}": v for k, v in headers.items()})


async def test_a_note_is_in_force_and_told(connection: Connection, topology: Namespace) -> None:
    told = 0

    def tell() -> None:
        nonlocal told
        told += 1

    async with following(connection, topology) as follower:
        follower.on_new(tell)
        for count, (kind, key) in enumerate([(Kind.ID, "a"), (Kind.TASK, NAME), (Kind.GROUP, "g.1")], 1):
            await cancelled(connection, topology, kind, key)
            await wait_until(lambda count=count: told == count, description="it is told")  # type: ignore[misc]
    assert follower.any
    assert (follower.reason(delivery(connection, id="a")) or "").startswith("cancelled by alice at 20")
    assert follower.reason(delivery(connection, id="b", group="g.1:7")) is not None
    assert follower.reason(delivery(connection, id="b")) is not None, "it was stored in 1970"
    assert follower.standing(Kind.GROUP, "g.1") is not None
    assert follower.standing(Kind.GROUP, "g.2") is None
    assert follower.standing(Kind.ID, "b") is None


async def test_what_becomes_of_the_tasks_is_counted_by_note(connection: Connection, topology: Namespace) -> None:
    follower = CancellationFollower(connection, topology)
    first = await cancelled(connection, topology, Kind.ID, "a")
    await cancelled(connection, topology, Kind.GROUP, "g")
    await follower.refresh()
    follower.count(delivery(connection, id="a"), cancelled=True)
    follower.count(delivery(connection, id="b", group="g:0"), cancelled=False)
    follower.count(delivery(connection, id="c"), cancelled=True)
    id_note, group_note = follower.standing(Kind.ID, "a"), follower.standing(Kind.GROUP, "g")
    assert id_note is not None
    assert group_note is not None
    assert (id_note.sequence, id_note.cancelled, id_note.finished) == (first, 1, 0)
    assert (group_note.cancelled, group_note.finished) == (0, 1)
    second = await cancelled(connection, topology, Kind.ID, "a")
    await follower.refresh()
    again = follower.standing(Kind.ID, "a")
    assert again is not None
    assert (again.sequence, again.cancelled) == (second, 0), "cancelled again, counted anew"
    assert follower.standing(Kind.GROUP, "g") is group_note


async def test_notes_that_were_removed_are_forgotten(connection: Connection, topology: Namespace) -> None:
    now = 0.0
    follower = CancellationFollower(connection, topology, clock=lambda: now)
    first = await cancelled(connection, topology, Kind.ID, "a")
    second = await cancelled(connection, topology, Kind.ID, "b")
    await cancelled(connection, topology, Kind.ID, "c")
    await follower.refresh()
    await purge_subject(connection, topology.later_stream, topology.cancelled_subject("id", "c"))
    await follower.refresh()
    assert follower.standing(Kind.ID, "c") is None, "the latest one is missed at once"
    await delete_message(connection, topology.later_stream, first)
    await follower.refresh()
    assert follower.standing(Kind.ID, "a") is not None, "it does no harm"
    now = follower_module.REREAD_SECONDS
    await follower.refresh()
    assert follower.standing(Kind.ID, "a") is None
    assert follower.any
    await delete_message(connection, topology.later_stream, second)
    await follower.refresh()
    assert not follower.any


async def test_a_stream_that_was_made_anew_is_read_from_its_start(connection: Connection, topology: Namespace) -> None:
    follower = CancellationFollower(connection, topology)
    for key in "abc":
        await cancelled(connection, topology, Kind.ID, key)
    await follower.refresh()
    await connection.api(f"STREAM.DELETE.{topology.later_stream}")
    with pytest.raises(ServerError):
        await follower.refresh()
    assert follower.standing(Kind.ID, "a") is not None, "a stream that is missing removes nothing"
    await ensure(connection, assets(topology))
    for key in "xyz":
        await cancelled(connection, topology, Kind.ID, key)
    await follower.refresh()
    assert [follower.standing(Kind.ID, key) is not None for key in "acxz"] == [False, False, True, True]


async def test_notes_survive_a_restart_of_the_server_and_those_that_are_known_stay_meanwhile(
    own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with JetStreamBroker.connect(own_server.url, registry=TaskRegistry()) as broker:
        connection, names = broker.connection, broker.namespace
        await cancelled(connection, names, Kind.ID, "a")
        async with following(connection, names) as follower:
            await wait_until(lambda: follower.any, description="it is known")
            own_server.stop()
            await wait_until(lambda: "cannot be read, and those that are known stay" in caplog.text, description="away")
            assert follower.standing(Kind.ID, "a") is not None
            own_server.start()
            assert await connection.wait_connected(30)
            await cancelled(connection, names, Kind.ID, "b")
            await wait_until(lambda: follower.standing(Kind.ID, "b"), description="it follows again", timeout=10)
            assert follower.standing(Kind.ID, "a") is not None


async def test_a_dead_subscription_is_made_up_by_the_poll(
    connection: Connection, topology: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[object] = []

    async def deaf(subject: str, listener: object) -> Any:
        heard.append(listener)
        return await listen("elsewhere", lambda _: None)

    listen = connection.client.listen
    monkeypatch.setattr(connection.client, "listen", deaf)
    async with following(connection, topology) as follower:
        await wait_until(lambda: heard, description="it follows")
        await cancelled(connection, topology, Kind.ID, "a")
        await wait_until(lambda: follower.any, description="the poll has it", timeout=10)


async def test_what_is_no_note_is_logged_and_ignored_and_many_notes_are_told_in_few_lines(
    connection: Connection, topology: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="diracx.tasks.cancellations")
    follower = CancellationFollower(connection, topology)
    await publish(connection, f"{topology.name}.cancelled.id.x", b"by hand", {})
    for key in range(MAX_LINES + 3):
        await cancelled(connection, topology, Kind.ID, str(key))
    await follower.refresh()
    await follower.refresh()
    assert caplog.text.count("no cancellation, and ignored") == 1
    assert caplog.text.count("is cancelled by alice") == MAX_LINES
    assert caplog.text.count("and 3 other cancellations are in force") == 1


async def test_without_a_note_nothing_is_asked_of_it(connection: Connection, topology: Namespace) -> None:
    follower = CancellationFollower(connection, topology)
    await follower.refresh()
    assert not follower.any


async def test_two_that_refresh_at_once_take_each_note_once(connection: Connection, topology: Namespace) -> None:
    told: list[datetime] = []
    follower = CancellationFollower(connection, topology)
    follower.on_new(lambda: told.append(connection.clock.now()))
    await cancelled(connection, topology, Kind.ID, "a")
    await asyncio.gather(follower.refresh(), follower.refresh())
    assert len(told) == 1
