"""Schedulers that are killed at each request to the server, and others that take over."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.locks import RevisionConflictError
from diracx.tasks.plumbing.scheduler.instances import Instance
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.reconciler import ScheduleReconciler, StoredState
from diracx.tasks.plumbing.scheduler.state import ScheduleKey
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase
from diracx.tasks.testing import wait_until
from support.scheduling import SchedulingMesh, more_than_once


class Killed(BaseException):
    """The process was killed here."""


class DyingConnection:
    """A connection whose process is killed at the `at`-th point. There is a point before and after each await."""

    def __init__(self, connection: Connection, at: int) -> None:
        self._connection = connection
        self._left = at
        self.clock, self.in_cluster = connection.clock, connection.in_cluster
        self.asked: list[str] = []

    def _point(self) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1

    async def _dying(self, call: Callable[..., Awaitable[Any]], subject: str, *args: Any, **kwargs: Any) -> Any:
        self._point()
        answer = await call(subject, *args, **kwargs)
        if isinstance(answer, asyncio.Future) and kwargs.get("headers", {}).get("Nats-Batch-Commit"):
            # Killed after the send, and killed after the answer, are two points.
            self._point()
            await asyncio.wait([answer])
        self._point()
        return answer

    async def send_request(self, subject: str, *args: Any, **kwargs: Any) -> Any:
        return await self._dying(self._connection.send_request, subject, *args, **kwargs)

    async def request(self, subject: str, *args: Any, **kwargs: Any) -> Any:
        return await self._dying(self._connection.request, subject, *args, **kwargs)

    async def api(self, subject: str, *args: Any, **kwargs: Any) -> Any:
        return await self._dying(self._connection.api, subject, *args, **kwargs)


def instance(task: str, schedule: TaskScheduleBase, *, enabled: bool = True) -> Instance:
    return Instance(ScheduleKey(f"test:{task}"), Rule(schedule, enabled), Priority.NORMAL, Size.SMALL, b"{}")


class OneStore(JetStreamScheduleStore):
    """Reads one schedule only, so that the points do not depend on the number of schedules."""

    key = ScheduleKey("")

    async def read_all(self) -> dict[ScheduleKey, StoredState]:
        return await self.read([self.key])


async def advance(mesh: SchedulingMesh, each: Instance, *, seconds: float = 3, dies_at: int | None = None) -> bool:
    """Run one round of a scheduler that has just become the leader; return whether it completed."""
    connection: Any = mesh.connection if dies_at is None else DyingConnection(mesh.connection, dies_at)
    store = OneStore(connection, mesh.namespace)
    store.key = each.key
    reconciler = ScheduleReconciler(store, timedelta(seconds=seconds), "a test")
    while True:
        try:
            await reconciler.load()
            await reconciler.advance([each])
        except Killed:
            return False
        except RevisionConflictError:
            continue  # a write of the killed scheduler was still on its way
        return True


async def test_a_scheduler_that_continues_after_another_took_over_changes_nothing(mesh: SchedulingMesh) -> None:
    each, other = instance("Ticks", IntervalSeconds(60)), instance("Hourly", IntervalSeconds(3600))
    stale, fresh = (ScheduleReconciler(mesh.store, timedelta(seconds=30), name) for name in ("stale", "fresh"))
    await stale.load()
    await fresh.load()
    await fresh.advance([each])
    before = (await mesh.store.read_all(), await mesh.held())
    # One write for both, so that the change without a conflict is refused, too.
    with pytest.raises(RevisionConflictError):
        await stale.advance([other, each])
    assert (await mesh.store.read_all(), await mesh.held()) == before
    await stale.advance([other, each])
    assert [stored.state.scheduler for stored in (await mesh.store.read([each.key, other.key])).values()] == [
        "fresh",
        "stale",
    ]


SUPPLY, REFILL, CHANGE, DISABLE = "supply", "refill", "change", "disable"


@pytest.mark.parametrize("action", [SUPPLY, REFILL, CHANGE, DISABLE])
async def test_no_crash_point_loses_or_doubles_an_occurrence(mesh: SchedulingMesh, action: str) -> None:
    point, finished = 0, False
    names: list[str] = []
    while not finished:
        name = f"{action}{point}"
        names.append(name)
        first, second = instance(name, IntervalSeconds(1)), instance(name, IntervalSeconds(1))
        if action == CHANGE:
            first = instance(name, IntervalSeconds(0.5))
        if action == DISABLE:
            second = instance(name, IntervalSeconds(1), enabled=False)
        if action != SUPPLY:
            await advance(mesh, first, seconds=1)
        finished = await advance(mesh, second, dies_at=point)
        assert await advance(mesh, second), "the scheduler that takes over completes its round"
        point += 1
    assert point > 6
    await _check_all(mesh, names, silent=action == DISABLE)


async def _check_all(mesh: SchedulingMesh, names: list[str], *, silent: bool) -> None:
    states = {name: await mesh.schedule_state(name) for name in names}
    await wait_until(lambda: nothing_held(mesh), description="everything has fallen due", timeout=20)
    arrived = await mesh.arrived()
    assert not more_than_once(arrived)
    for name in names:
        state = states[name]
        assert state is not None
        dues = {each.due for each in arrived if each.headers["Task-Name"] == f"test:{name}"}
        if silent:
            assert not [due for due in dues if due > state.after + timedelta(seconds=1)], name
        else:
            assert set(state.pending) <= dues, f"{name}: an occurrence was lost"
            steps = sorted(due for due in dues if due.microsecond == 0)
            assert all(b - a == timedelta(seconds=1) for a, b in itertools.pairwise(steps)), name


async def nothing_held(mesh: SchedulingMesh) -> bool:
    return not await mesh.held()
