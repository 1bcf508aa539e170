"""What a consumer's next leader knows of the deliveries of the one before: leases, delays of naks, settlements."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from functools import partial

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.cluster import ClusterMesh
from support.recording_tasks import Record, Wait

PATIENCE = 60.0
DELAY_SECONDS = 12
"""Longer than it takes to elect a leader."""

failed_at: list[float] = []
"""When each execution of `FailsOnce` was, on a clock that never steps back."""


@dataclasses.dataclass
class FailsOnce(BaseTask):
    """Fails, and succeeds when it is tried again."""

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=DELAY_SECONDS, max_retries=1)

    async def execute(self) -> None:
        failed_at.append(time.monotonic())
        if len(failed_at) == 1:
            raise ValueError("once more")


@pytest.fixture(autouse=True)
def _records() -> Iterator[None]:
    recording_tasks.reset()
    failed_at.clear()
    yield
    failed_at.clear()


async def waits(mesh: ClusterMesh, number: int) -> bool:
    """Whether so many tasks are not settled."""
    return await mesh.waiting() == number


async def ends(mesh: ClusterMesh, in_flight_seconds: float) -> int:
    """Kill the leader of the consumer with a task in flight, one that waits for its retry, and some that have ended.

    Args:
        in_flight_seconds: The task in flight goes on for so long after that.

    Returns:
        How many deliveries the worker carried to an end.
    """
    mesh.register(Record, Wait, FailsOnce)
    async with mesh.working() as worker:
        for task in (Wait(n=0), FailsOnce(), *(Record(n=number) for number in range(1, 21))):
            await task.schedule()
        await wait_until(
            lambda: len(recording_tasks.ran) == 20 and recording_tasks.running and failed_at,
            description="one is in flight, and one waits",
            timeout=PATIENCE,
        )
        await wait_until(partial(waits, mesh, 2), description="the others are settled", timeout=PATIENCE)
        await mesh.end_leader(mesh.namespace.tasks_stream, "normal-small")
        goes_on_until = time.monotonic() + in_flight_seconds
        await wait_until(
            lambda: len(failed_at) == 2 and time.monotonic() > goes_on_until,
            description="the one that waits is tried again",
            timeout=PATIENCE + in_flight_seconds,
        )
        recording_tasks.go.set()
        await wait_until(partial(waits, mesh, 0), description="all are settled", timeout=PATIENCE)
    assert sorted(recording_tasks.ran) == list(range(21))
    assert recording_tasks.most_at_once == [1]
    first, second = failed_at
    assert second - first >= DELAY_SECONDS
    return worker.processed


async def test_the_next_leader_of_a_consumer_keeps_leases_and_delays_and_delivers_nothing_again(
    cluster_mesh: ClusterMesh,
) -> None:
    assert await ends(cluster_mesh, 0) == 23


@pytest.mark.long
async def test_heartbeats_keep_a_lease_at_the_next_leader_for_longer_than_ack_wait(cluster_mesh: ClusterMesh) -> None:
    assert await ends(cluster_mesh, 40) == 23
