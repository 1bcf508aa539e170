"""Limits and holds of the configuration in two worker processes, for the tasks of two VOs."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.worker.snapshot import HeldTask
from diracx.tasks.testing import wait_until
from support.lock_mesh import lock_mesh, worker_process
from support.lock_tasks import OfVo, let_out, lines_of
from support.processes import LoggedProcess

VOS = ("atlas", "lhcb")


async def configure(broker: JetStreamBroker, text: str, *workers: LoggedProcess) -> None:
    """Put a configuration in force, and wait until the workers have it."""
    revision = await ConfigurationBucket(broker.connection, broker.namespace).write(text)
    for worker in workers:
        await worker.logs(f"revision {revision} of the configuration is in force")


@asynccontextmanager
async def two_workers(url: str, namespace: str, journal: Path) -> AsyncIterator[tuple[LoggedProcess, LoggedProcess]]:
    async with (
        worker_process(url, namespace, journal, slots=20, lock_retry_delay=0.2) as first,
        worker_process(url, namespace, journal, slots=20, lock_retry_delay=0.2) as second,
    ):
        yield first, second


def inside(journal: Path) -> Counter[str]:
    """How many tasks are inside now, by `<vo> <place>`."""
    return +_counts(journal)[-1]


def most_inside(journal: Path) -> Counter[str]:
    """How many tasks were inside at the most, by `<vo> <place>`, and by place alone."""
    most: Counter[str] = Counter()
    for counts in _counts(journal):
        places: Counter[str] = Counter()
        for key, count in counts.items():
            places[key.split()[1]] += count
        most |= counts | places
    return most


def _counts(journal: Path) -> list[Counter[str]]:
    counts = [Counter[str]()]
    for line in lines_of(journal):
        _, _, what, vo, place, _ = line.split()
        counts.append(counts[-1].copy())
        counts[-1][f"{vo} {place}"] += 1 if what == "enters" else -1
    return counts


async def unsettled(broker: JetStreamBroker) -> int:
    info = await broker.connection.api(f"STREAM.INFO.{broker.namespace.tasks_stream}")
    return int(info["state"]["messages"])


async def each_was_delivered(broker: JetStreamBroker) -> bool:
    stream = broker.namespace.tasks_stream
    return bool((await broker.connection.api(f"CONSUMER.INFO.{stream}.normal-small"))["num_pending"] == 0)


async def all_done(broker: JetStreamBroker) -> None:
    async def is_empty() -> bool:
        return await unsettled(broker) == 0

    await wait_until(is_empty, description="all tasks are done", timeout=60)


async def test_a_limit_of_a_task_holds_across_processes_and_counts_one_vo_apart(
    server: EmbeddedServer, namespace: str, journal: Path
) -> None:
    text = "tasks: {locks:OfVo: {concurrency_limit: 1, vos: {atlas: {concurrency_limit: 2}}}}"
    async with lock_mesh(server.url, namespace) as broker, two_workers(server.url, namespace, journal) as workers:
        await configure(broker, text, *workers)
        await broker.submit_many(OfVo(vo, number) for number in range(4) for vo in VOS)
        expected = {"atlas nowhere": 2, "lhcb nowhere": 1}
        await wait_until(lambda: inside(journal) == expected, description="as many as may run do", timeout=30)
        await wait_until(lambda: each_was_delivered(broker), description="the others were refused", timeout=30)
        let_out(journal)
        await all_done(broker)
    most = most_inside(journal)
    assert (most["atlas nowhere"], most["lhcb nowhere"]) == (2, 1)


async def test_limits_of_two_objects_and_a_vo_hold_across_processes_and_follow_the_configuration(
    server: EmbeddedServer, namespace: str, journal: Path
) -> None:
    text = """
    limits: {Job: {default: {concurrency_limit: 3}, CERN: {concurrency_limit: 1}}}
    vo_limits: {atlas: {Job: {CERN: {concurrency_limit: 2}}}}
    """
    async with lock_mesh(server.url, namespace) as broker, two_workers(server.url, namespace, journal) as workers:
        await configure(broker, text, *workers)
        tasks = [OfVo(vo, number, place) for number in range(4) for vo in VOS for place in ("CERN", "RAL")]
        await broker.submit_many(tasks)

        def may_run(at_ral: int) -> bool:
            counts = inside(journal)
            of_cern = counts["atlas CERN"], counts["lhcb CERN"]
            return (of_cern, counts["atlas RAL"] + counts["lhcb RAL"]) == ((2, 1), at_ral)

        await wait_until(lambda: may_run(3), description="as many as may run do", timeout=30)
        await wait_until(lambda: each_was_delivered(broker), description="the others were refused", timeout=30)
        await configure(broker, text.replace("3", "5"), *workers)
        await wait_until(lambda: may_run(5), description="more may run now", timeout=30)
        let_out(journal)
        await all_done(broker)
    most = most_inside(journal)
    assert (most["atlas CERN"], most["lhcb CERN"], most["RAL"]) == (2, 1, 5)


async def test_the_tasks_of_one_vo_are_held_until_they_are_enabled(
    server: EmbeddedServer, namespace: str, journal: Path
) -> None:
    text = "tasks: {OfVo: {vos: {atlas: {enabled: false}}}}"
    async with lock_mesh(server.url, namespace) as broker, two_workers(server.url, namespace, journal) as workers:
        await configure(broker, text, *workers)
        let_out(journal)
        await broker.submit_many(OfVo(vo, number) for number in range(3) for vo in VOS)

        def is_held() -> bool:
            return any("is held by tasks.OfVo.vos.atlas.enabled: false" in worker.log for worker in workers)

        async def only_atlas_is_left() -> bool:
            return await unsettled(broker) == 3

        await wait_until(is_held, description="a worker says that it holds them", timeout=30)
        await wait_until(only_atlas_is_left, description="those of lhcb are done", timeout=30)
        assert most_inside(journal)["atlas nowhere"] == 0
        status = (await StatusReader(broker.connection, broker.namespace).read()).status
        assert status.held == [HeldTask("locks:OfVo", "atlas")]
        await configure(broker, "{}", *workers)
        await all_done(broker)
    assert most_inside(journal)["atlas nowhere"] >= 1
