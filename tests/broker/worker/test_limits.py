"""Limits by configuration: workers follow it while they run."""

from __future__ import annotations

import dataclasses

import pytest

from diracx.tasks.plumbing.lock_registry import TASK
from diracx.tasks.plumbing.locks import BaseLock, ConcurrencyLimiter, RateLimiter
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Wait, ran, running


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()


@dataclasses.dataclass
class Few(Wait):
    """As many at a time as there are slots, unless the configuration says otherwise."""

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [ConcurrencyLimiter(TASK, "few", limit=None)]


@dataclasses.dataclass
class Seldom(Wait):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return [RateLimiter(TASK, "seldom", limit=None, window_seconds=60)]


async def test_a_concurrency_limit_is_in_force_as_soon_as_it_is_set(mesh: TaskMesh) -> None:
    mesh.register(Few)
    async with mesh.working(slots=8) as worker:
        await ConfigurationBucket(mesh.connection, mesh.namespace).write("tasks: {test:Few: {concurrency_limit: 2}}")
        await wait_until(lambda: worker.configuration_revision, description="the worker has seen it")
        await mesh.broker.schedule_many(Few(n) for n in range(6))
        await wait_until(lambda: len(running) == 2, description="two run")
        await wait_until(lambda: _is_pending(mesh), description="the others were told to wait")
        assert len(running) == 2
        recording_tasks.go.set()
        await wait_until(lambda: len(ran) == 6, description="all ran", timeout=30)
    assert max(recording_tasks.most_at_once) == 2


async def test_a_rate_is_in_force_with_its_window(mesh: TaskMesh) -> None:
    mesh.register(Seldom)
    recording_tasks.go.set()
    text = "tasks: {test:Seldom: {rate_limit: {limit: 3, window_seconds: 3600}}}"
    await ConfigurationBucket(mesh.connection, mesh.namespace).write(text)
    async with mesh.working(slots=8) as worker:
        await wait_until(lambda: worker.configuration_revision, description="the worker has seen it")
        await mesh.broker.schedule_many(Seldom(n) for n in range(5))
        await wait_until(lambda: len(ran) == 3, description="three were admitted")
        await wait_until(lambda: _is_pending(mesh), description="the others were told to wait")
    assert len(ran) == 3
    mesh.allows_residue = True


async def _is_pending(mesh: TaskMesh) -> bool:
    return await mesh.in_flight() >= 2
