"""Thousands of tasks that wait for a retry, and the others of their queue."""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.plumbing.operations.worker_service import advertised
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh

PARKED: Final = 3_000
"""Past the 1,024 from which on the server's look for what is due gives way to acknowledgements."""
RETRIES: Final = 100
FRESH: Final = 2_000
CHUNK: Final = 50
TIMEOUT_SECONDS: Final = 60.0

parked: Counter[int] = Counter()
fresh: Counter[int] = Counter()
due: dict[int, datetime] = {}
came: dict[int, list[datetime]] = {}


@pytest.fixture(autouse=True)
def afresh() -> None:
    for record in (parked, fresh, due, came):
        record.clear()


class SoonOnce(RetryPolicyBase):
    """A retry at a time of its own for each task, within two seconds; remembers it."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        number = int(str(exception))
        due[number] = datetime.now(UTC) + timedelta(seconds=0.2 + 1.8 * number / RETRIES)
        return None if attempt else due[number]


@dataclasses.dataclass
class Numbered(BaseTask):
    number: int
    size = Size.SMALL


class Parks(Numbered):
    retry_policy = ExponentialBackoff(base_delay_seconds=3600, max_retries=1)

    async def execute(self) -> None:
        parked[self.number] += 1
        raise ConnectionError("no route to example.org")


class FailsOnce(Numbered):
    retry_policy = SoonOnce()

    async def execute(self) -> None:
        came.setdefault(self.number, []).append(datetime.now(UTC))
        if len(came[self.number]) == 1:
            raise ConnectionError(str(self.number))


class Fresh(Numbered):
    async def execute(self) -> None:
        fresh[self.number] += 1


async def test_fresh_tasks_flow_and_due_retries_come_while_thousands_are_parked_and_stay_so(mesh: TaskMesh) -> None:
    mesh.register(Parks, FailsOnce, Fresh)
    mesh.allows_residue = True
    await mesh.broker.schedule_many(Parks(number) for number in range(PARKED))
    async with (
        mesh.working(slots=100) as first,
        mesh.working(slots=10),
        advertised(first, Counters(), mesh.connection, mesh.namespace),
    ):
        await wait_until(lambda: len(parked) == PARKED, description="thousands are parked", timeout=TIMEOUT_SECONDS)
        await mesh.broker.schedule_many(FailsOnce(number) for number in range(RETRIES))
        for start in range(0, FRESH, CHUNK):
            # Some that fail come among them: each puts off the server's look for what is due.
            await mesh.broker.schedule_many(Fresh(number) for number in range(start, start + CHUNK))
            await Parks(PARKED + start).schedule()
        await wait_until(lambda: len(fresh) == FRESH, description="all fresh tasks are done", timeout=TIMEOUT_SECONDS)
        await wait_until(_all_came, description="all retries came", timeout=TIMEOUT_SECONDS)
        await wait_until(lambda: _rests(mesh), description="nothing but the parked is left", timeout=TIMEOUT_SECONDS)
        glance = await StatusReader(mesh.connection, mesh.namespace).read()
    stay = PARKED + FRESH // CHUNK
    assert set(fresh.values()) == {1}
    assert all(len(times) == 2 and times[1] >= due[number] for number, times in came.items())
    assert (len(parked), set(parked.values())) == (stay, {1}), "none was woken"
    small = next(queue for queue in glance.status.queues if queue.subject.endswith("normal.small"))
    assert (small.parked, small.waiting, small.in_hand) == (stay, 0, 0)
    assert len(await mesh.attempts.keys()) == stay


async def test_a_worker_that_starts_beside_thousands_that_are_parked_trusts_their_records(mesh: TaskMesh) -> None:
    """As after a kill of the server, which may have forgotten that they wait."""
    mesh.register(Parks, Fresh)
    mesh.allows_residue = True
    await mesh.broker.schedule_many(Parks(number) for number in range(PARKED))
    await mesh.burst(slots=100)
    assert len(parked) == PARKED
    await _forget_that_they_wait(mesh)
    await mesh.broker.schedule_many(Fresh(number) for number in range(CHUNK))
    async with mesh.working(slots=100):
        await wait_until(lambda: len(fresh) == CHUNK, description="the fresh ones are done", timeout=TIMEOUT_SECONDS)
    assert set(parked.values()) == {1}, "none was executed early"


def _all_came() -> bool:
    return len(came) == RETRIES and all(len(times) > 1 for times in came.values())


async def _rests(mesh: TaskMesh) -> bool:
    return await mesh.waiting() == len(parked) == await mesh.in_flight()


async def _forget_that_they_wait(mesh: TaskMesh) -> None:
    """Make the queue anew: it hands out everything as if for the first time."""
    stream = mesh.namespace.tasks_stream
    consumer = mesh.namespace.consumer(Parks.priority, Parks.size)
    config = (await mesh.connection.api(f"CONSUMER.INFO.{stream}.{consumer}"))["config"]
    await mesh.connection.api(f"CONSUMER.DELETE.{stream}.{consumer}")
    await mesh.connection.api(
        f"CONSUMER.CREATE.{stream}.{consumer}.{config['filter_subject']}", {"stream_name": stream, "config": config}
    )
