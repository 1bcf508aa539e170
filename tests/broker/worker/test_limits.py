"""Limits of the configuration in workers that run: of tasks and of objects, for all VOs and for one."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Mapping

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.job import LockBusy, Outcome
from diracx.tasks.plumbing.lock_registry import JOB, TASK
from diracx.tasks.plumbing.locks import BaseLock, ConcurrencyLimiter, RateLimiter
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.worker import Worker
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh

running: Counter[str] = Counter()
"""How many tasks execute now, by VO or owner."""
most: Counter[str] = Counter()
"""How many of them executed at once at the most; under `all` those of every VO."""
ended: list[str] = []
gates: dict[str, asyncio.Semaphore] = {}
"""A permit for each task that may end, by VO or owner."""
refused: list[str] = []


@pytest.fixture(autouse=True)
async def _fresh() -> None:
    for record in (running, most, ended, gates, refused):
        record.clear()
    gates.update({name: asyncio.Semaphore(0) for name in ("atlas", "lhcb", "alice", "bob")})


async def _execute(*names: str) -> None:
    for name in (*names, "all"):
        running[name] += 1
        most[name] = max(most[name], running[name])
    try:
        await gates[names[0]].acquire()
    finally:
        running.subtract((*names, "all"))
    ended.append(names[0])


@dataclasses.dataclass
class Plain(BaseTask):
    """Declares no limiter; ends when its VO has a permit."""

    vo: str

    size = Size.SMALL

    async def execute(self) -> None:
        await _execute(self.vo)


@dataclasses.dataclass
class Few(Plain):
    """Declares limiters of its class, without a limit."""

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [ConcurrencyLimiter(TASK, "Few", limit=None), RateLimiter(TASK, "Few", limit=None, n_items=2)]


@dataclasses.dataclass
class OfOwner(BaseTask):
    """Declares a limiter on its owner."""

    vo: str
    owner: str

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [ConcurrencyLimiter(JOB, self.owner, limit=9)]

    async def execute(self) -> None:
        await _execute(self.owner, self.vo)


async def configure(mesh: TaskMesh, text: str, *workers: Worker) -> None:
    """Put a configuration in force, and wait until all workers have it."""
    revision = await ConfigurationBucket(mesh.connection, mesh.namespace).write(text)
    seen = f"the workers have revision {revision}"
    await wait_until(lambda: all(worker.configuration_revision >= revision for worker in workers), description=seen)


def let_end(name: str, count: int) -> None:
    for _ in range(count):
        gates[name].release()


def note(name: str, task_id: str, outcome: Outcome) -> None:
    if isinstance(outcome, LockBusy):
        refused.append(task_id)


async def settled(count: int, runs: Mapping[str, int]) -> None:
    """Wait until `runs` execute, and everything else of `count` tasks was refused at least once."""
    others = count - sum(runs.values())

    def is_settled() -> bool:
        return +running - Counter(all=running["all"]) == Counter(runs) and len(set(refused)) >= others

    await wait_until(is_settled, description=f"{runs} run, and {others} wait")


async def test_four_tasks_without_a_limiter_run_one_at_a_time_in_two_workers(mesh: TaskMesh) -> None:
    mesh.register(Plain)
    async with mesh.working(slots=8, on_outcome=note) as first, mesh.working(slots=8, on_outcome=note) as second:
        await configure(mesh, "tasks: {test:Plain: {concurrency_limit: 1}}", first, second)
        await mesh.broker.submit_many(Plain(vo) for vo in ("atlas", "atlas", "lhcb", "lhcb"))
        await wait_until(lambda: len(set(refused)) == 3, description="three were refused")
        assert running["all"] == 1
        for vo in ("atlas", "lhcb"):
            let_end(vo, 2)
        await wait_until(lambda: len(ended) == 4, description="all have run", timeout=30)
    assert most["all"] == 1


async def test_a_limit_for_one_vo_counts_its_tasks_apart(mesh: TaskMesh) -> None:
    mesh.register(Plain)
    text = "tasks: {test:Plain: {concurrency_limit: 2, vos: {atlas: {concurrency_limit: 1}}}}"
    async with mesh.working(slots=8, on_outcome=note) as first, mesh.working(slots=8, on_outcome=note) as second:
        await configure(mesh, text, first, second)
        await mesh.broker.submit_many([Plain(vo) for vo in ("atlas", "lhcb") for _ in range(4)])
        await settled(8, {"atlas": 1, "lhcb": 2})
        let_end("atlas", 4)
        let_end("lhcb", 4)
        await wait_until(lambda: len(ended) == 8, description="all have run", timeout=30)
    assert (most["atlas"], most["lhcb"]) == (1, 2)


async def test_limits_that_are_raised_and_lowered_count_from_the_next_start_on(mesh: TaskMesh) -> None:
    mesh.register(Plain)
    async with mesh.working(slots=9, on_outcome=note) as worker:
        await configure(mesh, "tasks: {test:Plain: {concurrency_limit: 1}}", worker)
        await mesh.broker.submit_many([Plain("atlas") for _ in range(6)])
        await settled(6, {"atlas": 1})
        await configure(mesh, "tasks: {test:Plain: {concurrency_limit: 3}}", worker)
        await wait_until(lambda: running["atlas"] == 3, description="three run")
        await configure(mesh, "tasks: {test:Plain: {concurrency_limit: 1}}", worker)
        let_end("atlas", 3)
        await wait_until(
            lambda: (len(ended), running["atlas"]) == (3, 1),
            description="those of the old limit have ended",
            timeout=30,
        )
        most.clear()
        let_end("atlas", 2)
        await wait_until(lambda: len(ended) == 5, description="all but one have run", timeout=30)
        assert most["atlas"] == 1
        await configure(mesh, "tasks: {}", worker)
        await mesh.broker.submit_many([Plain("atlas") for _ in range(5)])
        await wait_until(lambda: running["atlas"] == 6, description="without a limit all run", timeout=30)
        let_end("atlas", 6)
        await wait_until(lambda: len(ended) == 11, description="all have run")


async def test_a_rate_and_a_concurrency_limit_hold_together_for_a_task_with_its_own_limiters(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    mesh.register(Few)
    text = """
    tasks:
      Few:
        concurrency_limit: 2
        rate_limit: {limit: 6, window_seconds: 3600}
        vos: {atlas: {rate_limit: {limit: 2, window_seconds: 3600}}}
    """
    async with mesh.working(slots=9, on_outcome=note) as worker:
        await configure(mesh, text, worker)
        await mesh.broker.submit_many([Few("lhcb") for _ in range(4)])
        await settled(4, {"lhcb": 2})
        let_end("lhcb", 4)
        await wait_until(lambda: len(ended) == 3, description="three of two items each were admitted")
        await mesh.broker.submit_many([Few("atlas") for _ in range(2)])
        await settled(3, {"atlas": 1})
        let_end("atlas", 1)
        await wait_until(lambda: len(ended) == 4, description="atlas has an admission of its own")
        await configure(mesh, text.replace("limit: 6", "limit: 8"), worker)
        assert most["lhcb"] == 2
        keys = sorted({key.partition("./slots")[0] for key in await mesh.locks.keys() if key.startswith("rate.")})
    assert keys == ["rate.task.Few", "rate.task.Few./vo.atlas"]


async def test_limits_of_objects_hold_for_all_vos_and_for_one(mesh: TaskMesh) -> None:
    mesh.register(OfOwner)
    text = """
    limits: {Job: {default: {concurrency_limit: 2}, alice: {concurrency_limit: 1}}}
    vo_limits: {atlas: {Job: {bob: {concurrency_limit: 1}}}}
    """
    async with mesh.working(slots=20, on_outcome=note) as first, mesh.working(slots=20, on_outcome=note) as second:
        await configure(mesh, text, first, second)
        owners = [(vo, owner) for vo in ("atlas", "lhcb") for owner in ("alice", "bob") for _ in range(3)]
        await mesh.broker.submit_many([OfOwner(vo, owner) for vo, owner in owners])

        def is_settled() -> bool:
            return (running["alice"], running["bob"], len(set(refused))) == (1, 3, 8)

        await wait_until(is_settled, description="one of alice, two of bob and one of bob in atlas run")
        for name in ("alice", "bob"):
            let_end(name, 6)
        await wait_until(lambda: len(ended) == 12, description="all have run", timeout=30)
    assert (most["alice"], most["bob"]) == (1, 3)
