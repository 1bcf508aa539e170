"""The history of a mesh: stored by whoever leads, read by anybody, and missed by nothing where there is none."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.background import in_background
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.observability import telemetry
from diracx.tasks.plumbing.operations.history import HistoryKeeper, HistoryReader
from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample
from diracx.tasks.plumbing.operations.worker_service import advertised
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.measuring import measuring
from support.mesh import TaskMesh
from support.recording_tasks import Record

SPAN = 0.5
"""The seconds that a stored sample stands for."""
NO_HISTORY = "no history of the mesh is kept, and all else goes on"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class Leadership:
    """Whether a scheduler leads, as a test says."""

    def __init__(self) -> None:
        self.leads = True

    def __call__(self) -> bool:
        return self.leads


@asynccontextmanager
async def keeping(mesh: TaskMesh, leads: Leadership, store_seconds: float = SPAN) -> AsyncIterator[HistoryKeeper]:
    """Keep the history with short steps."""
    keeper = HistoryKeeper(mesh.connection, mesh.namespace, leads, sample_seconds=0.05, store_seconds=store_seconds)
    async with in_background(history=keeper.run()):
        yield keeper


async def history(mesh: TaskMesh, since: datetime = LONG_AGO) -> list[Sample]:
    return (await HistoryReader(mesh.connection, mesh.namespace).since(since)).samples


async def until_stored(mesh: TaskMesh, count: int) -> list[Sample]:
    """Wait until so many samples are stored."""
    found: list[Sample] = []

    async def are_there() -> bool:
        found[:] = await history(mesh)
        return len(found) >= count

    await wait_until(are_there, description=f"{count} samples are stored")
    return found


async def test_the_leader_stores_what_happened_in_each_span_and_nobody_else_does(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Record)
    counters, leads, standby = Counters(), Leadership(), Leadership()
    standby.leads = False
    async with (
        mesh.working(counters=counters) as worker,
        advertised(worker, counters, mesh.connection, mesh.namespace),
        keeping(mesh, leads) as keeper,
        keeping(mesh, standby),
    ):
        await until_stored(mesh, 1)
        for n in range(5):
            await Record(n).schedule()
        await wait_until(lambda: counters.deliveries == 5, description="all have ended")
        found = await until_stored(mesh, 3)
        leads.leads = False
        await wait_until(lambda: keeper.latest is None, description="it has noticed that it does not lead")
    assert sum(sample.queues["normal-small"].succeeded for sample in found) == 5
    assert sum(sample.queues["normal-small"].submitted for sample in found) == 5
    spans = [sample.at.timestamp() // SPAN for sample in found]
    assert spans == sorted(set(spans)), "one for each"
    assert all(sample.leader and sample.workers["small"].slots == 10 for sample in found)
    assert await history(mesh, found[0].at) == (await history(mesh))[1:]
    assert await history(mesh, datetime.now(UTC) + timedelta(hours=1)) == []


async def test_a_new_leader_goes_on_with_a_sample_of_its_own(mesh: TaskMesh) -> None:
    first, second = Leadership(), Leadership()
    second.leads = False
    async with keeping(mesh, first), keeping(mesh, second):
        count = len(await until_stored(mesh, 1))
        first.leads, second.leads = False, True
        assert len(await until_stored(mesh, count + 2)) >= count + 2


async def test_a_mesh_without_the_stream_has_no_history_and_its_leader_says_so_once(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stream = mesh.namespace.history_stream
    await mesh.connection.api(f"STREAM.DELETE.{stream}")
    found = await HistoryReader(mesh.connection, mesh.namespace).since(LONG_AGO)
    assert (found.samples, found.kept) == ([], False)
    said = (
        f"no history of the mesh is kept, and all else goes on: stream {stream} is missing: run `diracx-task-run setup`"
    )
    async with keeping(mesh, Leadership(), store_seconds=0.1) as keeper:
        await wait_until(lambda: said in caplog.messages, description="the leader says so")
        seen = keeper.latest
        await wait_until(lambda: keeper.latest is not seen, description="it goes on with samples")
        assert caplog.messages == [said]
        assert await ensure(mesh.connection, assets(mesh.namespace)) == [f"created stream {stream}"]
        await until_stored(mesh, 1)
        await wait_until(
            lambda: caplog.messages == [said, "the history of the mesh is kept again"], description="its end is told"
        )


async def test_a_missing_stream_beside_the_tasks_counts_as_empty(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = mesh.namespace
    async with keeping(mesh, Leadership()) as keeper:
        for stream in (names.dead_letters_stream, names.later_stream):
            await mesh.connection.api(f"STREAM.DELETE.{stream}")
        await until_next_sample(keeper)
        await until_next_sample(keeper)
        assert keeper.latest is not None
        assert (keeper.latest.dead_letters, keeper.latest.delayed) == (0, 0)
        await ensure(mesh.connection, assets(names))
    assert caplog.messages == []


async def until_next_sample(keeper: HistoryKeeper) -> None:
    seen = keeper.latest
    await wait_until(lambda: keeper.latest not in (None, seen), description="there is another sample")


async def test_the_latest_sample_outlives_failed_tries_for_a_while_and_those_who_need_the_stream_tell_of_them(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "diracx.tasks.scheduler")
    async with keeping(mesh, Leadership(), store_seconds=2.0) as keeper:
        await until_next_sample(keeper)
        await mesh.connection.api(f"STREAM.DELETE.{mesh.namespace.tasks_stream}")
        failed = "no sample: JetStream says: stream not found (code 404, err_code 10059)"
        await wait_until(lambda: failed in caplog.messages, description="a sample fails")
        assert keeper.latest is not None
        assert list(keeper.gauges())[1:], "telemetry goes on with it"
        await wait_until(lambda: keeper.latest is None, description="it is too old")
        await ensure(mesh.connection, assets(mesh.namespace))
        await until_next_sample(keeper)
    assert not [each for each in caplog.records if each.levelno >= logging.INFO]


async def test_a_refused_sample_is_told_once_and_takes_nothing_from_telemetry(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stream = mesh.namespace.history_stream
    config = (await mesh.connection.api(f"STREAM.INFO.{stream}"))["config"]
    await mesh.connection.api(f"STREAM.UPDATE.{stream}", config | {"max_msg_size": 10})
    gone: list[int] = []
    async with keeping(mesh, Leadership(), store_seconds=0.2) as keeper:
        await until_next_sample(keeper)

        def is_told() -> bool:
            gone.extend([1] if keeper.latest is None else [])
            return bool(caplog.messages)

        await wait_until(is_told, description="the refusal is told")
        for _ in range(10):
            await until_next_sample(keeper)
        assert not gone
        (said,) = caplog.messages
        assert said.startswith(f"{NO_HISTORY}: JetStream says: message size exceeds maximum allowed")
        await mesh.connection.api(f"STREAM.UPDATE.{stream}", config)
        await until_stored(mesh, 1)
        await wait_until(
            lambda: caplog.messages[1:] == ["the history of the mesh is kept again"], description="its end"
        )


async def test_what_somebody_wrote_by_hand_is_no_sample(mesh: TaskMesh) -> None:
    sample = Sample(datetime.now(UTC), 60.0, {"normal-small": QueueSample(waiting=1)}, 0, 0, {}, leader=True)
    for body in (b"hello", msgspec.json.encode(sample), b"[" * 5_000):
        await publish(mesh.connection, mesh.namespace.history_subject, body, {})
    assert await history(mesh) == [sample]


async def test_more_than_one_batch_is_read_the_oldest_first(mesh: TaskMesh) -> None:
    start = datetime.now(UTC) - timedelta(minutes=1_201)
    samples = [Sample(start + timedelta(minutes=n), 60.0, {}, n, 0, {}, leader=True) for n in range(1, 1_201)]
    for first in range(0, len(samples), 300):
        await asyncio.gather(
            *(
                publish(mesh.connection, mesh.namespace.history_subject, msgspec.json.encode(each), {})
                for each in samples[first : first + 300]
            )
        )
    assert [each.dead_letters for each in await history(mesh, start)] == list(range(1, 1_201))


async def test_telemetry_hears_of_the_mesh_from_its_leader(mesh: TaskMesh) -> None:
    mesh.register(Record)
    leads = Leadership()
    await Record(0).schedule()
    with measuring() as measured:
        async with keeping(mesh, leads) as keeper:
            await wait_until(lambda: keeper.latest is not None, description="there is a sample")
            with telemetry.observing(keeper.gauges):
                _, waiting = measured.metric("diracx.tasks.queue.waiting")
                small = {"diracx.tasks.priority": "normal", "diracx.tasks.size": "small"}
                assert [point.value for point in waiting if dict(point.attributes) == small] == [1]
                assert len(waiting) == 9
                unit, oldest = measured.metric("diracx.tasks.queue.oldest")
                assert (unit, sorted(point.value > 0 for point in oldest)) == ("s", [False] * 8 + [True])
                for name in ("queue.in_flight", "queue.parked", "dead_letters", "delayed"):
                    assert {point.value for point in measured.metric(f"diracx.tasks.{name}")[1]} == {0}
                assert [point.value for point in measured.metric("diracx.tasks.scheduler.leader")[1]] == [1]
                leads.leads = False
                await wait_until(lambda: keeper.latest is None, description="it has noticed")
                assert [point.value for point in measured.metric("diracx.tasks.scheduler.leader")[1]] == [0]
                with pytest.raises(KeyError):
                    measured.metric("diracx.tasks.queue.waiting")
    await mesh.burst()


HUGE = 10**400
STRANGE = (
    *({"at": each} for each in ("2026-11-27T13:00:00", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", 5)),
    *({"seconds": each} for each in (-1, 1e308)),
    *({"queues": {"normal-small": {name: value}}} for name in ("submitted", "waiting") for value in (-1, HUGE, 0.5)),
    *({"queues": {"normal-small": {"wait": [each]}}} for each in (-1, HUGE)),
    {"queues": {"normal-small": {"oldest_seconds": 1e308}}},
    {"workers": {"small": {"slots": HUGE}}},
    {"dead_letters": HUGE},
)


async def test_what_somebody_wrote_beside_the_samples_is_left_out(mesh: TaskMesh) -> None:
    subject = mesh.namespace.history_subject
    good = Sample(
        at=mesh.connection.clock.now(), seconds=60, queues={}, dead_letters=0, delayed=0, workers={}, leader=True
    )
    fields = json.loads(msgspec.json.encode(good))
    for body in (b"", b"null", b"\xff", b"[" * 50_000, *(json.dumps(fields | each).encode() for each in STRANGE)):
        await publish(mesh.connection, subject, body, {})
    await publish(mesh.connection, subject, msgspec.json.encode(good), {})
    assert await history(mesh) == [good]
