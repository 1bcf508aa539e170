"""The limits of the configuration as limiters of a task."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.execution.job import Job
from diracx.tasks.plumbing.lock_registry import JOB, TASK
from diracx.tasks.plumbing.locks import BaseLock, ConcurrencyLimiter, CountingLimiter, MutexLock, RateLimiter
from diracx.tasks.plumbing.overrides.configuration import Configuration, ObjectLimits, RateLimit
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.worker.limits import with_limits
from support.lock_store import RecordingStore
from support.locking import new_owner


@dataclasses.dataclass
class Sync(BaseTask):
    vo: str | None = None

    async def execute(self) -> None:
        """Do nothing."""


@dataclasses.dataclass
class Numbered(BaseTask):
    vo: int

    async def execute(self) -> None:
        """Do nothing."""


def taken(configuration: Configuration, task: BaseTask, locks: Sequence[BaseLock] = ()) -> list[object]:
    """The locks that a task takes: the key, and of a limiter its limit, and the window of a rate."""
    name = f"acme:{type(task).__name__}"
    job = Job(TaskRegistry().add(name, type(task)), Envelope(name=name, id="1"), task)
    return [shown(lock) for lock in with_limits(configuration, job, locks)]


def shown(lock: BaseLock) -> object:
    if isinstance(lock, RateLimiter):
        return lock.key, lock.limit, lock.window_seconds
    return (lock.key, lock.limit) if isinstance(lock, CountingLimiter) else lock.key


BOTH = parse("tasks: {acme:Sync: {concurrency_limit: 4, rate_limit: {limit: 10, window_seconds: 60}}}")
FOR_ATLAS = parse("tasks: {acme:Sync: {concurrency_limit: 4, vos: {atlas: {concurrency_limit: 1}}}}")


def test_a_task_without_limiters_gets_one_for_each_limit() -> None:
    assert taken(BOTH, Sync("lhcb")) == [("rate.task.acme.Sync", 10, 60), ("conc.task.acme.Sync", 4)]
    assert taken(BOTH, Sync(), [MutexLock(JOB, 7)]) == [
        "mutex.job.7",
        ("rate.task.acme.Sync", 10, 60),
        ("conc.task.acme.Sync", 4),
    ]


def test_a_task_without_limits_takes_what_it_declares() -> None:
    locks = [MutexLock(JOB, 7), ConcurrencyLimiter(JOB, 7, limit=2)]
    configuration = parse("tasks: {acme:Other: {concurrency_limit: 4}, acme:Sync: {enabled: true}}")
    assert taken(configuration, Sync(), locks) == ["mutex.job.7", ("conc.job.7", 2)]


@pytest.mark.parametrize(
    "parts", [("acme", "Sync"), ("Sync",), ("acme:Sync",), (*__name__.split("."), "Sync"), (f"{__name__}.Sync",)]
)
def test_a_limiter_on_the_class_gets_the_limit_and_none_is_added(parts: tuple[str, ...]) -> None:
    limiter = ConcurrencyLimiter(TASK, *parts, limit=None)
    assert taken(FOR_ATLAS, Sync("lhcb"), [limiter]) == [(limiter.key, 4)]


def test_limiters_on_anything_else_get_the_limit_too_and_do_not_bound_the_class() -> None:
    locks = [
        ConcurrencyLimiter(JOB, "Sync", limit=9),
        ConcurrencyLimiter(TASK, "Sync", "alice", limit=9),
        RateLimiter(JOB, 7, n_items=3, limit=9),
    ]
    assert taken(FOR_ATLAS, Sync("lhcb"), locks) == [
        ("conc.job.Sync", 4),
        ("conc.task.Sync.alice", 4),
        ("rate.job.7", 9, 1),
        ("conc.task.acme.Sync", 4),
    ]


def test_a_limit_for_one_vo_counts_its_tasks_apart_under_a_key_that_no_limiter_in_the_code_has() -> None:
    declared = ConcurrencyLimiter(TASK, "Sync", limit=9)
    assert taken(FOR_ATLAS, Sync("atlas")) == [("conc.task.acme.Sync./vo.atlas", 1)]
    assert taken(FOR_ATLAS, Sync("atlas"), [declared]) == [("conc.task.Sync./vo.atlas", 1)]
    assert taken(FOR_ATLAS, Sync("lhcb"), [declared]) == [("conc.task.Sync", 4)]
    assert (declared.key, declared.limit) == ("conc.task.Sync", 9), "the limiter of the code is as it was"
    odd = parse("tasks: {acme:Sync: {vos: {my vo.org: {rate_limit: {limit: 1, window_seconds: 2}}}}}")
    assert taken(odd, Sync("my vo.org")) == [("rate.task.acme.Sync./vo.my=20vo=2Eorg", 1, 2)]
    assert taken(odd, Sync("lhcb")) == []


def test_a_task_whose_vo_is_no_text_has_none() -> None:
    assert taken(FOR_ATLAS, Sync(None)) == [("conc.task.acme.Sync", 4)]
    configuration = parse("tasks: {acme:Numbered: {concurrency_limit: 4, vos: {'1': {concurrency_limit: 1}}}}")
    assert taken(configuration, Numbered(1)) == [("conc.task.acme.Numbered", 4)]


OBJECTS = Configuration(
    objects={
        ("", "job", "default"): ObjectLimits(concurrency_limit=5),
        ("", "job", "7"): ObjectLimits(concurrency_limit=2, rate_limit=RateLimit(limit=8, window_seconds=30)),
        ("", "job", "7", "remove"): ObjectLimits(concurrency_limit=1),
        ("atlas", "job", "7"): ObjectLimits(concurrency_limit=3),
    }
)


def test_a_limiter_takes_the_limit_of_its_object_and_a_mutex_takes_none() -> None:
    locks = [
        MutexLock(JOB, 7),
        ConcurrencyLimiter(JOB, 7, limit=9),
        ConcurrencyLimiter(JOB, 7, "remove", limit=None),
        ConcurrencyLimiter(JOB, 8, limit=None),
        RateLimiter(JOB, 7, n_items=3, limit=3),
        RateLimiter(JOB, 8, limit=4),
    ]
    assert taken(OBJECTS, Sync("lhcb"), locks) == [
        "mutex.job.7",
        ("conc.job.7", 2),
        ("conc.job.7.remove", 1),
        ("conc.job.8", 5),
        ("rate.job.7", 8, 30),
        ("rate.job.8", 4, 1),
    ]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (
            "concurrency_limit: 1",
            "conc.task.acme.Sync is held by all 1 that may run at a time (tasks.Sync), among them",
        ),
        ("rate_limit: {limit: 1, window_seconds: 9}", "rate.task.acme.Sync has admitted its 1 in 9 s (tasks.Sync)"),
    ],
)
async def test_a_refusal_names_the_place_of_the_limit(store: RecordingStore, text: str, refusal: str) -> None:
    task, name = Sync(), "acme:Sync"
    job = Job(TaskRegistry().add(name, Sync), Envelope(name=name, id="1"), task)
    (limiter,) = with_limits(parse(f"tasks: {{Sync: {{{text}}}}}"), job, [])
    await limiter.acquire(store, new_owner())
    with pytest.raises(UnableToAcquireLockError, match=f"^{re.escape(refusal)}"):
        await limiter.acquire(store, new_owner())


def test_a_limit_of_an_object_for_one_vo_counts_its_tasks_apart() -> None:
    limiter = ConcurrencyLimiter(JOB, 7, limit=9)
    assert taken(OBJECTS, Sync("atlas"), [limiter]) == [("conc.job.7./vo.atlas", 3)]
    assert taken(OBJECTS, Sync("atlas")) == []


def test_the_limit_of_an_object_wins_over_that_of_the_task_which_holds_besides() -> None:
    configuration = Configuration(
        tasks=BOTH.tasks,
        objects={
            ("", "job", "7"): ObjectLimits(concurrency_limit=2),
            ("", "task", "Sync"): ObjectLimits(concurrency_limit=99, rate_limit=RateLimit(limit=99, window_seconds=1)),
        },
    )
    locks = [ConcurrencyLimiter(JOB, 7, limit=9), ConcurrencyLimiter(TASK, "Sync", limit=9)]
    assert taken(configuration, Sync(), locks) == [
        ("conc.job.7", 2),
        ("conc.task.Sync", 4),
        ("rate.task.acme.Sync", 10, 60),
    ]
    without_task = Configuration(objects=configuration.objects)
    assert taken(without_task, Sync(), locks) == [("conc.job.7", 2), ("conc.task.Sync", 99)]
