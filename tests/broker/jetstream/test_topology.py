"""Streams, consumers and buckets on a real server: created, compared, updated, left alone or refused."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import SendTaskError, TopologyDriftError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import Asset, assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import ApiError, NoRespondersError
from diracx.tasks.plumbing.jetstream.headers import schedule_headers
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.topology import differences, ensure
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until


@dataclasses.dataclass
class Greet(BaseTask):
    name: str

    async def execute(self) -> None: ...


def registry() -> TaskRegistry:
    tasks = TaskRegistry()
    tasks.add("test:Greet", Greet)
    return tasks


async def stream_config(connection: Connection, stream: str) -> dict[str, Any]:
    config: dict[str, Any] = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
    return config


async def consumer_config(connection: Connection, stream: str, consumer: str) -> dict[str, Any]:
    config: dict[str, Any] = (await connection.api(f"CONSUMER.INFO.{stream}.{consumer}"))["config"]
    return config


async def config_of(connection: Connection, asset: Asset) -> dict[str, Any]:
    if asset.kind == "consumer":
        return await consumer_config(connection, asset.stream, asset.name)
    return await stream_config(connection, asset.stream)


async def edit(connection: Connection, stream: str, **fields: Any) -> None:
    """What `nats stream edit` does."""
    config = await stream_config(connection, stream)
    await connection.api(f"STREAM.UPDATE.{stream}", {**config, **fields})


async def edit_consumer(connection: Connection, stream: str, consumer: str, **fields: Any) -> None:
    """What `nats consumer edit` does."""
    config = {**await consumer_config(connection, stream, consumer), **fields}
    subject = f"CONSUMER.CREATE.{stream}.{consumer}.{config['filter_subject']}"
    await connection.api(subject, {"stream_name": stream, "config": config})


async def test_a_fresh_namespace_gets_its_streams_queues_and_buckets(connection: Connection, names: Namespace) -> None:
    wanted = assets(names)
    done = await ensure(connection, wanted)
    assert sorted(done) == sorted(f"created {asset}" for asset in wanted)
    kinds = [asset.kind for asset in wanted]
    assert (kinds.count("stream"), kinds.count("consumer"), kinds.count("bucket")) == (4, 9, 4)
    listed = (await connection.api("STREAM.NAMES", {"subject": f"{names.name}.>"}))["streams"]
    streams = [names.tasks_stream, names.later_stream, names.dead_letters_stream, names.history_stream]
    assert sorted(listed) == sorted(streams)
    queues = (await connection.api(f"CONSUMER.NAMES.{names.tasks_stream}"))["consumers"]
    assert sorted(queues) == sorted(asset.name for asset in wanted if asset.kind == "consumer")


async def test_a_second_run_finds_nothing_to_do(connection: Connection, topology: Namespace) -> None:
    assert await ensure(connection, assets(topology)) == []


async def test_what_the_server_adds_to_a_fresh_asset_is_no_difference(
    connection: Connection, topology: Namespace
) -> None:
    for asset in assets(topology):
        assert differences(asset, await config_of(connection, asset)) == {}, asset


async def test_the_server_keeps_every_setting_that_is_defined(connection: Connection, topology: Namespace) -> None:
    for asset in assets(topology):
        found = await config_of(connection, asset)
        for field, value in asset.definition.items():
            if field == "metadata":
                assert value.items() <= found[field].items()
            elif not value:
                assert not found.get(field), (asset, field)
            else:
                assert found[field] == value, (asset, field)


async def test_a_safe_difference_is_updated_and_told(connection: Connection, topology: Namespace) -> None:
    await edit(connection, topology.tasks_stream, duplicate_window=60_000_000_000, description="changed")
    await edit(connection, f"KV_{topology.locks_bucket}", allow_direct=True)
    await edit_consumer(connection, topology.tasks_stream, "normal-small", max_ack_pending=10)
    assert sorted(await ensure(connection, assets(topology))) == sorted(
        [
            f"updated stream {topology.tasks_stream}: description, duplicate_window",
            f"updated bucket {topology.locks_bucket}: allow_direct",
            "updated consumer normal-small: max_ack_pending",
        ]
    )
    assert (await stream_config(connection, topology.tasks_stream))["duplicate_window"] == 120_000_000_000
    assert not (await stream_config(connection, f"KV_{topology.locks_bucket}"))["allow_direct"]
    assert (await consumer_config(connection, topology.tasks_stream, "normal-small"))["max_ack_pending"] == -1
    assert await ensure(connection, assets(topology)) == []


@pytest.mark.parametrize(("kept", "then"), [(1, 20), (19, 20), (20, 20), (64, 64), (-1, -1)])
async def test_the_history_of_the_configuration_is_made_long_enough_and_never_cut(
    connection: Connection, topology: Namespace, kept: int, then: int
) -> None:
    bucket = f"KV_{topology.config_bucket}"
    await edit(connection, bucket, max_msgs_per_subject=kept)
    updated = [] if kept == then else [f"updated bucket {topology.config_bucket}: max_msgs_per_subject"]
    assert await ensure(connection, assets(topology)) == updated
    assert (await stream_config(connection, bucket))["max_msgs_per_subject"] == then


async def test_what_an_operator_set_beside_it_survives_an_update(connection: Connection, topology: Namespace) -> None:
    stream = topology.tasks_stream
    by_hand = {"max_bytes": 5_000_000, "max_msg_size": 70_000, "compression": "s2"}
    metadata = (await stream_config(connection, stream))["metadata"]
    await edit(connection, stream, **by_hand, metadata={**metadata, "team": "ops"}, description="changed")
    await edit_consumer(connection, stream, "normal-small", ack_wait=7_000_000_000, max_batch=99, description="changed")
    before = await stream_config(connection, stream)
    queue_before = await consumer_config(connection, stream, "normal-small")
    assert before["max_bytes"] == 5_000_000
    assert before["compression"] == "s2"
    assert len(await ensure(connection, assets(topology))) == 2
    fresh = {asset.name: asset for asset in assets(topology)}
    after = await stream_config(connection, stream)
    assert after == {**before, "description": fresh[stream].config["description"]}
    assert after["metadata"]["team"] == "ops"
    queue_after = await consumer_config(connection, stream, "normal-small")
    assert queue_after == {**queue_before, "description": fresh["normal-small"].config["description"]}
    assert queue_after["ack_wait"] == 7_000_000_000


async def test_metadata_of_ours_that_was_lost_comes_back_beside_theirs(
    connection: Connection, topology: Namespace
) -> None:
    await edit(connection, topology.later_stream, metadata={"team": "ops"})
    assert await ensure(connection, assets(topology)) == [f"updated stream {topology.later_stream}: metadata"]
    metadata = (await stream_config(connection, topology.later_stream))["metadata"]
    assert {"team": "ops", "diracx.tasks": "later"}.items() <= metadata.items()


def changed(asset: Asset, **config: Any) -> Asset:
    return dataclasses.replace(asset, config={**asset.config, **config})


@pytest.mark.parametrize(
    ("which", "field", "value"),
    [
        ("TASKS", "retention", "limits"),
        ("TASKS", "storage", "memory"),
        ("TASKS", "allow_msg_ttl", True),
        ("TASKS", "sources", []),
        ("LATER", "allow_msg_schedules", False),
        ("locks", "allow_msg_ttl", False),
        ("attempts", "max_msgs_per_subject", 5),
        ("attempts", "max_msgs_per_subject", -1),
    ],
)
async def test_an_unsafe_difference_is_an_error_that_names_asset_and_field(
    connection: Connection, names: Namespace, which: str, field: str, value: object
) -> None:
    wanted = assets(names)
    standing = [changed(asset, **{field: value}) if asset.name.endswith(which) else asset for asset in wanted]
    await ensure(connection, standing)
    before = {str(asset): await config_of(connection, asset) for asset in wanted}
    with pytest.raises(TopologyDriftError, match=field) as caught:
        await ensure(connection, wanted)
    assert caught.value.asset.endswith(which)
    assert caught.value.field == field
    assert caught.value.asset in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {str(asset): await config_of(connection, asset) for asset in wanted} == before


async def test_a_queue_with_another_filter_is_an_error_that_names_it(
    connection: Connection, topology: Namespace
) -> None:
    wanted = [
        changed(asset, filter_subject=f"{topology.name}.tasks.normal.huge") if asset.name == "normal-small" else asset
        for asset in assets(topology)
    ]
    with pytest.raises(TopologyDriftError, match=r"consumer normal-small: filter_subject is '.*small'"):
        await ensure(connection, wanted)


async def test_many_at_once_create_one_mesh(connection: Connection, names: Namespace) -> None:
    await asyncio.gather(*(ensure(connection, assets(names)) for _ in range(8)))
    assert await ensure(connection, assets(names)) == []


async def test_two_at_once_that_want_other_limits_create_one_mesh(connection: Connection, names: Namespace) -> None:
    def limited(size: int) -> list[Asset]:
        return [
            asset if asset.kind == "consumer" else dataclasses.replace(asset, initial={"max_bytes": size})
            for asset in assets(names)
        ]

    await asyncio.gather(*(ensure(connection, limited(size)) for size in range(10_000, 10_008)))
    assert await ensure(connection, assets(names)) == []


async def test_two_namespaces_on_one_server_do_not_meet(
    server: EmbeddedServer, connection: Connection, names: Namespace
) -> None:
    # The longer name begins with the shorter one.
    one, other = names, Namespace(f"{names.name}_b")
    for namespace in (one, other):
        await ensure(connection, assets(namespace))
    async with (
        JetStreamBroker.connect(server.url, registry=registry(), namespace=one.name, bind=False) as mine,
        JetStreamBroker.connect(server.url, registry=registry(), namespace=other.name, bind=False) as theirs,
    ):
        await mine.submit(Greet("a"))
        await mine.submit(Greet("b"))
        await theirs.submit(Greet("c"))

    async def waiting(namespace: Namespace) -> int:
        info = await connection.api(f"CONSUMER.INFO.{namespace.tasks_stream}.normal-medium")
        return int(info["num_pending"])

    assert (await waiting(one), await waiting(other)) == (2, 1)


@pytest.mark.one_server("a cluster has what is refused here")
async def test_one_server_refuses_replicas_in_its_own_words(connection: Connection, names: Namespace) -> None:
    with pytest.raises(ApiError, match="replicas > 1"):
        await ensure(connection, assets(names, replicas=3))


async def test_another_number_of_replicas_of_an_operator_is_left_alone(
    connection: Connection, topology: Namespace
) -> None:
    # One server cannot hold three; asking for three where one stands must not even be tried.
    assert await ensure(connection, assets(topology, replicas=3)) == []


@asynccontextmanager
async def server_with_roles(publish: str) -> AsyncIterator[tuple[EmbeddedServer, ConnectionSettings]]:
    """A server with an operator, and a producer that may publish to `publish` only; yields the producer's access."""
    users = f"""
    authorization {{ users: [
        {{ user: operator, password: p }}
        {{ user: producer, password: p, permissions: {{
            publish: {{ allow: [{publish}] }},
            subscribe: {{ allow: ["_INBOX_diracx_producer.>", "_INBOX_missing_producer.>"] }} }} }}
    ] }}
    """
    async with EmbeddedServer(extra_config=users) as server:
        async with Connection.open(
            ConnectionSettings(servers=(server.url,), user="operator", password="p"),
            name="an operator",
            inbox_prefix="_INBOX_operator",
        ) as operator:
            await ensure(operator, assets(Namespace()))
        yield server, ConnectionSettings(servers=(server.url,), user="producer", password="p")


async def test_a_producer_without_a_right_to_look_connects_and_publishes() -> None:
    async with (
        server_with_roles('"diracx.tasks.>"') as (_, access),
        JetStreamBroker.connect(settings=access, registry=registry()) as broker,
    ):
        assert len(await broker.submit(Greet("a"))) == 32


async def test_a_producer_that_may_look_but_not_create_connects() -> None:
    allowed = '"diracx.tasks.>", "$JS.API.STREAM.INFO.>", "$JS.API.CONSUMER.INFO.>"'
    async with server_with_roles(allowed) as (_, access):
        async with JetStreamBroker.connect(settings=access, registry=registry()) as broker:
            await broker.submit(Greet("a"))
        async with JetStreamBroker.connect(settings=access, registry=registry(), namespace="missing"):
            pass


async def test_a_producer_without_the_right_to_publish_is_told_at_once() -> None:
    async with (
        server_with_roles('"diracx.tasks.normal.small"') as (_, access),
        JetStreamBroker.connect(settings=access, registry=registry()) as broker,
    ):
        with pytest.raises(SendTaskError, match=r"no permission for publish to diracx\.tasks\.normal\.medium"):
            await broker.submit(Greet("a"))


ODD_SUBJECTS = ["silly.huge", "*.*", "normal.*", "normal.small.more", "normal", ">"]


async def test_the_streams_take_the_nine_queues_and_no_other_subject(
    connection: Connection, topology: Namespace
) -> None:
    for kind in ("tasks", "due"):
        for odd in ODD_SUBJECTS:
            with pytest.raises(NoRespondersError):
                await publish(connection, f"{topology.name}.{kind}.{odd}", b"{}", {})
    for number, (priority, size) in enumerate((priority, size) for priority in Priority for size in Size):
        ack = await publish(connection, topology.task_subject(priority, size), b"{}", {})
        assert (ack.stream, ack.seq) == (topology.tasks_stream, number + 1)


async def test_a_task_for_later_that_would_fall_due_on_another_subject_is_refused(
    connection: Connection, topology: Namespace
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    for odd in ODD_SUBJECTS:
        headers = schedule_headers(later, f"{topology.name}.due.{odd}")
        with pytest.raises(ApiError, match="schedules target is invalid"):
            await publish(connection, topology.delayed_subject("a"), b"{}", headers)


async def test_no_dead_letter_has_another_form(connection: Connection, topology: Namespace) -> None:
    for odd in ("a", "a.b", "a.b.1.c"):
        with pytest.raises(NoRespondersError):
            await publish(connection, f"{topology.name}.dlq.{odd}", b"{}", {})
    assert (await publish(connection, topology.dead_letter_subject("a:B", 1), b"{}", {})).seq == 1


async def test_a_mesh_that_took_more_subjects_is_updated_and_what_it_holds_on_them_is_named(
    connection: Connection, names: Namespace
) -> None:
    earlier = {
        names.tasks_stream: [f"{names.name}.tasks.*.*"],
        names.later_stream: [f"{names.name}.{kind}" for kind in ("delayed.*", "periodic.>", "state.>", "due.*.*")],
        names.dead_letters_stream: [f"{names.name}.dlq.>"],
    }
    wanted = assets(names)
    await ensure(
        connection,
        [changed(asset, subjects=earlier[asset.name]) if asset.name in earlier else asset for asset in wanted],
    )
    good = names.task_subject(Priority.NORMAL, Size.SMALL)
    odd = [f"{names.name}.tasks.{each}" for each in ("*.*", "silly.a", "silly.b", "silly.c", "silly.d", "silly.e")]
    for subject in [good, *odd]:
        await publish(connection, subject, b"{}", {})
    later = await publish(connection, names.delayed_subject("a"), b"{}", {})
    done = {line.partition(":")[0]: line for line in await ensure(connection, wanted)}
    assert done == {
        f"updated stream {names.tasks_stream}": (
            f"updated stream {names.tasks_stream}: subjects; nothing reads what it still holds on "
            f"{', '.join(odd[:5])} and 1 more: look with `nats stream view {names.tasks_stream} --subject=...`, and "
            f"remove it with `nats stream purge {names.tasks_stream} --subject=...`"
        ),
        f"updated stream {names.later_stream}": f"updated stream {names.later_stream}: subjects",
        f"updated stream {names.dead_letters_stream}": f"updated stream {names.dead_letters_stream}: subjects",
    }
    assert await ensure(connection, wanted) == []
    state = (await connection.api(f"STREAM.INFO.{names.tasks_stream}"))["state"]
    assert state["messages"] == 1 + len(odd), "nothing was removed"
    assert later.seq == 1


async def test_what_falls_due_while_the_subjects_are_updated_arrives(connection: Connection, names: Namespace) -> None:
    wanted = assets(names)
    wide = {names.tasks_stream: [f"{names.name}.tasks.*.*"]}
    await ensure(
        connection,
        [
            changed(each, subjects=wide.get(each.name, each.config.get("subjects")))
            for each in wanted
            if each.kind != "consumer"
        ],
    )
    due = names.due_subject(Priority.NORMAL, Size.SMALL)
    for number in range(10):
        at = datetime.now(UTC) + timedelta(seconds=0.1 * number)
        await publish(connection, names.delayed_subject(str(number)), b"{}", schedule_headers(at, due))
    await ensure(connection, wanted)

    async def all_came() -> bool:
        info = await connection.api(f"CONSUMER.INFO.{names.tasks_stream}.normal-small")
        return int(info["num_pending"]) == 10

    await wait_until(all_came, description="all 10 are in their queue", timeout=30)
