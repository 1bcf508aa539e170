"""What a process remembers by name or number is bounded, however many names and numbers it has met."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.execution.job import Held, LockBusy
from diracx.tasks.plumbing.jetstream.connection.log import MAX_TEXTS, ConnectionLog
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    AcquiredLock,
    ConcurrencyLimiter,
    LockOwner,
    LockStore,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.plumbing.locks.arbiter import LocalLockArbiter
from diracx.tasks.plumbing.locks.watchdog import Watchdog
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import instances_of, removed_instances
from diracx.tasks.plumbing.scheduler.reconciler import FORGET_INTERVAL, ORPHAN_AGE, REMOVAL_AGE, ScheduleReconciler
from diracx.tasks.plumbing.schedules import TaskScheduleBase
from diracx.tasks.plumbing.worker.settlement.lock_backoff import MAX_KEYS, LockBackoff
from support.clock import ManualClock
from support.interleaving import Server, instance
from support.lock_store import RecordingStore
from support.locking import new_owner
from support.remembering import remembered
from support.scheduling import Report, SubmitPilots

NAMES = 5_000


def test_the_measure_sees_what_an_object_keeps() -> None:
    backoff = LockBackoff(timedelta(seconds=5), ManualClock(1_000.0))
    before = remembered(backoff)
    for number in range(10):
        backoff.delay(LockBusy(UnableToAcquireLockError(f"mutex.job.{number}"), 1, None))
    assert remembered(backoff) == before + 10


def test_waits_for_locks_and_settings_that_never_come_again() -> None:
    clock = ManualClock(1_000.0)
    backoff = LockBackoff(timedelta(seconds=5), clock)
    for number in range(NAMES):
        clock.now += 0.1
        backoff.delay(LockBusy(UnableToAcquireLockError(f"mutex.job.{number}", f"owner {number}"), 1, None))
        backoff.delay(Held(f"tasks.{number}.enabled"))
    assert remembered(backoff) < 2 * MAX_KEYS + 10


async def test_locks_that_were_taken_refused_and_lost() -> None:
    clock, store = ManualClock(1_000.0), RecordingStore()
    arbiter, watchdog = LocalLockArbiter(clock), Watchdog(clock)
    theirs = await MutexLock(JOB, "theirs").acquire(store, new_owner("another"))
    empty = remembered(store)
    for number in range(NAMES // 4):
        clock.now += 2
        for lock in (
            MutexLock(JOB, number),
            SharedRWLock(JOB, number),
            ConcurrencyLimiter(JOB, number, limit=2),
            RateLimiter(JOB, number, limit=2, window_seconds=1),
        ):
            acquired = await arbiter.take(lock, store, new_owner())
            watchdog.watch(acquired, lambda error: None)
            assert await watchdog.unwatch(acquired)
            await arbiter.give_back(lock, acquired.release)
        store.failing.add("create")
        with pytest.raises(Exception, match="create"):
            await arbiter.take(MutexLock(JOB, f"fails {number}"), store, new_owner())
        store.failing.clear()
    await theirs.release()
    assert remembered(arbiter) < 3_000
    assert remembered(watchdog) < 20
    assert empty < NAMES


class Batch(RateLimiter):
    """Stands for `n_items`; an odd number is refused."""

    limit = 10 * NAMES

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        if self.n_items % 2:
            raise UnableToAcquireLockError(self.key)
        return await MutexLock(JOB, "items", self.n_items).acquire(store, owner)


async def test_numbers_of_items_that_one_limiter_has_met() -> None:
    clock, store = ManualClock(1_000.0), RecordingStore()
    arbiter = LocalLockArbiter(clock)
    running = await arbiter.take(Batch(JOB, "files", n_items=2), store, new_owner())  # the key is always in use
    for number in range(3, NAMES):
        clock.now += 2
        batch = Batch(JOB, "files", n_items=number)
        with suppress(UnableToAcquireLockError):
            acquired = await arbiter.take(batch, store, new_owner())
            await arbiter.give_back(batch, acquired.release)
    assert remembered(arbiter) < 1_500
    await arbiter.give_back(Batch(JOB, "files", n_items=2), running.release)
    # One that is refused only is never given back.
    for number in range(3, NAMES, 2):
        clock.now += 2
        with pytest.raises(UnableToAcquireLockError):
            await arbiter.take(Batch(JOB, "others", n_items=number), store, new_owner())
    assert remembered(arbiter) < 5_000


class Message:
    """The message of a task."""


@pytest.mark.parametrize("failing", [False, True], ids=["held", "server away"])
async def test_a_refusal_that_is_remembered_does_not_keep_the_task_that_it_refused(failing: bool) -> None:
    store = RecordingStore()
    theirs = await MutexLock(JOB, 1).acquire(store, new_owner("another"))
    if failing:
        store.failing.add("create")
    arbiter = LocalLockArbiter(ManualClock(1_000.0))
    messages = weakref.WeakSet[Message]()
    texts = set[str]()

    async def execute() -> None:
        message = Message()
        messages.add(message)
        await arbiter.take(MutexLock(JOB, 1), store, new_owner())

    for _ in range(3):
        results = await asyncio.gather(*(execute() for _ in range(5)), return_exceptions=True)
        texts |= {f"{type(each).__name__}: {each}" for each in results}
        del results
    await asyncio.sleep(0)  # the loop itself holds the results until its next turn
    gc.collect()
    assert len(messages) == 0
    assert len(texts) == 1, "the refusal from memory is that of the server"
    await theirs.release()


def test_errors_of_a_connection_that_name_another_subject_each_time() -> None:
    log = ConnectionLog(str, ManualClock(1_000.0))
    for number in range(NAMES):
        log.error(RuntimeError(f"permissions violation for publish to diracx.delayed.{number}"))
    assert remembered(log) < MAX_TEXTS + 10


class Failing(TaskScheduleBase):
    """Raises."""

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        raise ValueError("no occurrence")

    def __str__(self) -> str:
        return "failing"


class Scheduling:
    """A reconciler on a simulated server, whose calls never wait."""

    def __init__(self) -> None:
        self.server: Any = Server()
        self.reconciler = ScheduleReconciler(self.server, timedelta(seconds=30), "a test", lambda: self.server.clock)

    def load(self) -> None:
        run_through(self.reconciler.load())

    def round(self, *instances: Any, installed: bool = True) -> None:
        async def supply() -> None:
            await self.reconciler.forget_gone(instances, lambda key: installed)
            await self.reconciler.advance(self.reconciler.due(instances))

        run_through(supply())


def run_through(running: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing."""
    with suppress(StopIteration):
        while True:
            running.send(None)


def test_schedules_that_come_and_go() -> None:
    mesh = Scheduling()
    for number in range(300):
        there = instance("c:T0", 10, entry=f"{number}")
        fails = instance("c:T1", 10, entry=f"{number}", schedule=Failing())
        mesh.round(there, fails)
        gone = instance("c:T0", 10, entry=f"{number}", enabled=False, removed=True)
        mesh.round(gone)
        mesh.server.pass_time(REMOVAL_AGE.total_seconds() + 1)
        mesh.round(gone)
    mesh.server.pass_time(FORGET_INTERVAL.total_seconds())
    mesh.round()
    assert (mesh.server.states, mesh.server.schedules) == ({}, {})
    assert remembered(mesh.reconciler) < 20 + remembered(mesh.server)


def test_virtual_organisations_that_come_and_go() -> None:
    mesh, registry, silent = Scheduling(), TaskRegistry(), Configuration()
    registry.add("c:Report", Report)
    registry.add("c:SubmitPilots", SubmitPilots)
    for number in range(200):
        wanted = instances_of(registry, silent, [f"vo{number}", f"vo{number + 1}"])
        gone = removed_instances(registry, mesh.reconciler.known, wanted, vos_known=True)
        mesh.round(*wanted.values(), *gone)
        mesh.server.pass_time(REMOVAL_AGE.total_seconds() + 1)
    # The present ones, and the one that went last.
    assert len(mesh.server.states) == 2 * 3
    assert len(mesh.reconciler.known) == 2 * 3


def test_a_state_that_nobody_supplies_is_forgotten_after_a_week_if_its_task_is_not_installed() -> None:
    mesh = Scheduling()
    mesh.round(instance("c:T0", 10))
    week = ORPHAN_AGE.total_seconds()
    mesh.server.pass_time(week - 1)
    mesh.round(installed=False)
    assert mesh.server.states, "another scheduler may have the task, as during an upgrade"
    mesh.server.pass_time(120)
    mesh.round(installed=True)
    assert mesh.server.states, "no scheduler was there for a week"
    mesh.server.pass_time(FORGET_INTERVAL.total_seconds() - 1)
    mesh.round(installed=False)
    assert mesh.server.states, "it looks once in a while"
    mesh.server.pass_time(1)
    mesh.round(installed=False)
    assert not mesh.server.states
    mesh.round(instance("c:T0", 10))
    assert mesh.server.states, "it begins anew"


def test_a_state_that_another_scheduler_supplied_stays() -> None:
    mesh, other = Scheduling(), Scheduling()
    other.server = mesh.server
    other.reconciler = ScheduleReconciler(mesh.server, timedelta(seconds=30), "other", lambda: mesh.server.clock)
    mesh.round(instance("c:T0", 10))
    mesh.server.pass_time(ORPHAN_AGE.total_seconds() + 60)
    other.load()
    other.round(instance("c:T0", 10))
    # This one has led all the time, or believes so, and does not know what the other one wrote.
    mesh.round(installed=False)
    assert mesh.server.states
