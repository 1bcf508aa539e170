"""Locks that the server cannot take: their own task fails, its neighbours go on, and the connection stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, ConcurrencyLimiter, ExclusiveRWLock, MutexLock, SharedRWLock
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record


@pytest.fixture(autouse=True)
def _fresh() -> None:
    recording_tasks.reset()


class Bare(MutexLock):
    """An author's lock that makes its key itself."""

    @cached_property
    def key(self) -> str:
        return str(self.parts[0])


AWKWARD = ["", ".", "a.b", "a b", "*", ">", "é", "\x00", "\r\nPUB x 0\r\n", "\ud800", "x" * 10_000]
LOCKS: dict[str, Callable[[], BaseLock]] = {
    "30 long parts": lambda: MutexLock(JOB, *["x" * 200] * 30),
    "30 long parts of a writer": lambda: ExclusiveRWLock(JOB, *["x" * 200] * 30),
    "30 long parts of a limiter": lambda: ConcurrencyLimiter(JOB, *["x" * 200] * 30, limit=1),
    "no id": lambda: MutexLock(JOB, None),
    "a space": lambda: Bare(JOB, "two words"),
    "a line break": lambda: Bare(JOB, "a\r\nPUB x 0\r\n"),
    "a wildcard": lambda: Bare(JOB, "mutex.>"),
    "no text": lambda: Bare(JOB, ""),
    "an empty token": lambda: Bare(JOB, "mutex..a"),
    "a letter beyond ASCII": lambda: Bare(JOB, "mutex.\u00e9"),
    "a line that is too long": lambda: Bare(JOB, "x" * 4_096),
}


@dataclasses.dataclass
class Locked(BaseTask):
    n: int
    lock: str
    size = Size.SMALL
    dlq_eligible = True

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [LOCKS[self.lock]()]

    async def execute(self) -> None:
        recording_tasks.ran.append(self.n)


@dataclasses.dataclass
class Awkward(Record):
    """Takes each kind of lock, all with one awkward part."""

    part: str = ""

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [kind(JOB, self.part) for kind in (MutexLock, SharedRWLock)]


async def test_a_lock_that_the_server_cannot_take_fails_its_own_task_only(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    mesh.register(Locked, Awkward)
    awkward = [part for part in AWKWARD if part.isprintable() or part.isascii()]
    async with mesh.working(slots=30):
        for number, lock in enumerate(LOCKS):
            await mesh.broker.submit(Locked(number, lock))
        for number, part in enumerate(awkward):
            await mesh.broker.submit(Awkward(1_000 + number, part))

        async def all_ended() -> bool:
            return await mesh.waiting() == 0

        await wait_until(all_ended, description="every task has ended")
    assert sorted(recording_tasks.ran) == [1_000 + number for number in range(len(awkward))]
    reasons = {letter.headers["Dead-Reason"] for letter in await mesh.dead_letters()}
    assert len(await mesh.dead_letters()) == len(LOCKS)
    assert all(" after 1 execution: " in reason and len(reason) < 500 for reason in reasons), reasons
    assert any("at most 3000 are allowed" in reason for reason in reasons)
    assert any("is no key of a bucket" in reason for reason in reasons)
    assert any("max_control_line, 4096" in reason for reason in reasons)
    assert mesh.connection.generation == 0, "the server has not cut the connection"


class Long(Locked):
    """A key that is legal, and too long for a server whose limit was lowered."""

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, *["x" * 190] * self.n)]


async def test_on_a_server_with_a_lower_limit_the_connection_is_cut_until_it_hears_why_and_then_the_task_fails(
    namespace: str,
) -> None:
    with EmbeddedServer(extra_config="max_control_line: 1024") as server:
        async with TaskMesh.open(server.url, namespace) as mesh:
            mesh.register(Long, Record)
            mesh.allows_residue = True
            await mesh.set_ack_wait(2)  # the task cannot be given back while the connection is down

            async def all_ended() -> bool:
                try:
                    return await mesh.waiting() == 0
                except ServerUnavailableError:  # it may be cut once more
                    return False

            async with mesh.working():
                await mesh.broker.submit(Long(10, ""))
                await wait_until(lambda: mesh.connection.generation > 0, description="the connection was cut")
                for number in range(5):
                    await mesh.broker.submit(Record(number))
                await wait_until(all_ended, description="every task has ended", timeout=30)
                assert sorted(recording_tasks.ran) == list(range(5))
                # The reason that the server gives is lost if the connection is reset while something is written to it:
                # then the line is sent once more. What has been heard once holds for every task that follows.
                heard = mesh.connection.generation
                await mesh.broker.submit(Long(10, ""))
                await wait_until(all_ended, description="the second one has ended", timeout=30)
            letters = await mesh.dead_letters()
            assert len(letters) == 2
            assert all("over the server's max_control_line" in letter.headers["Dead-Reason"] for letter in letters)
            assert mesh.connection.generation == heard, "it was cut no more"
