"""A server that is killed with -9 at the worst moments: the attempt records hold what it forgets."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh

RETRY_SECONDS = 2.0
began: list[float] = []
attempts: list[int] = []
due: list[datetime] = []


class OneRetry(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        attempts.append(attempt)
        if attempt:
            return None
        due.append(datetime.now(UTC) + timedelta(seconds=RETRY_SECONDS))
        return due[0]


class Fails(BaseTask):
    size = Size.SMALL
    retry_policy = OneRetry()

    async def execute(self) -> None:
        began.append(time.time())
        raise ValueError("always")


class Succeeds(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        began.append(time.time())


class Heard(logging.Handler):
    """Sets an event when the worker logs a text."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.words in record.getMessage():
            self.event.set()


@pytest.fixture
async def mesh(own_server: EmbeddedServer, namespace: str) -> AsyncIterator[TaskMesh]:
    for record in (began, attempts, due):
        record.clear()
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        mesh.register(Fails, Succeeds)
        yield mesh


@pytest.fixture
async def nak_sent(caplog: pytest.LogCaptureFixture) -> AsyncIterator[asyncio.Event]:
    caplog.set_level(logging.INFO)
    heard = Heard("will retry test:Fails")
    logging.getLogger("diracx.tasks.worker").addHandler(heard)
    yield heard.event
    logging.getLogger("diracx.tasks.worker").removeHandler(heard)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.3])
async def test_a_retry_comes_no_earlier_and_counts_on_when_the_server_is_killed_right_after_its_nak(
    mesh: TaskMesh, own_server: EmbeddedServer, nak_sent: asyncio.Event, seconds: float
) -> None:
    await Fails().schedule()
    async with mesh.working():
        async with asyncio.timeout(10):
            await nak_sent.wait()
        # Not a wait for anything: how much the server has kept by then is what the three cases differ in.
        await asyncio.sleep(seconds)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
        await wait_until(
            lambda: attempts == [0, 1], description="it was tried again before its lease ran out", timeout=15
        )
        await wait_until(lambda: _nothing_waits(mesh), description="it has ended")
    assert len(began) == 2
    assert began[1] >= due[0].timestamp()
    assert await mesh.attempts.keys() == []


async def test_what_is_done_is_not_executed_again_when_the_server_is_killed_right_after_its_ack(
    mesh: TaskMesh, own_server: EmbeddedServer
) -> None:
    await mesh.broker.schedule_many(Succeeds() for _ in range(3000))
    async with mesh.working() as worker:
        await wait_until(lambda: worker.processed > 300, description="many are done, and many are not")
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
        await wait_until(lambda: _nothing_waits(mesh), description="no lease had to run out", timeout=15)
    assert len(began) == 3000


async def _nothing_waits(mesh: TaskMesh) -> bool:
    try:
        return await mesh.waiting() == 0
    except ServerUnavailableError:
        return False  # it is being started
