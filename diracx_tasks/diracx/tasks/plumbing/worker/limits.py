"""The limits of the configuration, as limiters of a task.

A limit of a task bounds its executions in the mesh, whether its code declares a limiter or not:

* A limiter that the code declares on the class of the task gets the limit. If there is none, a limiter is added:
  `ConcurrencyLimiter(TASK, <category>, <ClassName>)`, or `RateLimiter`. It admits one start for each execution.
* A limiter that the code declares on anything else gets the limit of its object, if one is configured, else the limit
  of the task, in place of the number in the code.
* A limit for one VO counts the tasks of that VO apart, by a key of their own: `CountingLimiter.of_vo`.

The configuration is read at each execution, so a change counts from the next execution on. Limiters are stateless: what
runs already holds its slot, whatever its limit was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from diracx.tasks.plumbing.execution.job import Job
from diracx.tasks.plumbing.lock_registry import TASK
from diracx.tasks.plumbing.locks import BaseLock, ConcurrencyLimiter, CountingLimiter, RateLimiter
from diracx.tasks.plumbing.overrides.configuration import Configuration, Limit, LimitKind, RateLimit
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.wire.names import split_task_name

_LIMITERS: Final[dict[LimitKind, type[CountingLimiter]]] = {
    LimitKind.CONCURRENCY: ConcurrencyLimiter,
    LimitKind.RATE: RateLimiter,
}


class ConfiguredLimits:
    """Implements `Limits` of an executor by the configuration that a worker follows."""

    def __init__(self, follower: ConfigurationFollower) -> None:
        self._follower = follower
        self.active = False
        """Whether the configuration has any limit."""
        follower.on_change(self._look)

    def _look(self) -> None:
        configuration = self._follower.current
        settings = (*configuration.tasks.values(), *configuration.task_vos.values(), *configuration.objects.values())
        self.active = any(getattr(each, kind) is not None for each in settings for kind in LimitKind)

    def applied(self, job: Job, locks: Sequence[BaseLock]) -> Sequence[BaseLock]:
        """See `with_limits`, by the configuration as it is now."""
        return with_limits(self._follower.current, job, locks)


def with_limits(configuration: Configuration, job: Job, locks: Sequence[BaseLock]) -> Sequence[BaseLock]:
    """The locks that a job takes.

    Args:
        configuration: Has the limits.
        locks: Those that the code of the task declares.
    """
    for kind in LimitKind:
        of_task = configuration.task_limit(kind, job.envelope.name, job.vo)
        if of_task is not None or (configuration.objects and locks):
            locks = _with_limits_of_kind(kind, of_task, configuration, job, locks)
    return locks


def _with_limits_of_kind(
    kind: LimitKind, of_task: Limit | None, configuration: Configuration, job: Job, locks: Sequence[BaseLock]
) -> list[BaseLock]:
    limiter_class = _LIMITERS[kind]
    bounded, changed = False, list[BaseLock]()
    for lock in locks:
        if isinstance(lock, limiter_class):
            on_class = _is_on_class(lock, job)
            of_object = configuration.object_limit(kind, lock.obj, tuple(map(str, lock.parts)), job.vo)
            limit = of_task or of_object if on_class else of_object or of_task
            lock = lock if limit is None else _limited(lock, limit)
            bounded = bounded or on_class
        changed.append(lock)
    if of_task is not None and not bounded:
        changed.append(_limited(limiter_class(TASK, *split_task_name(job.envelope.name)), of_task))
    return changed


def _is_on_class(limiter: CountingLimiter, job: Job) -> bool:
    """Whether the key of a limiter is the class of the task, as an author may write it."""
    if limiter.obj != TASK:
        return False
    name, task_class = job.envelope.name, job.registered.task_class
    category, class_name = split_task_name(name)
    path = (*task_class.__module__.split("."), task_class.__qualname__)
    parts = tuple(map(str, limiter.parts))
    return parts in ((name,), (category, class_name), (class_name,), (task_class.__name__,), path, (".".join(path),))


def _limited(limiter: CountingLimiter, limit: Limit) -> CountingLimiter:
    value = limit.value
    if isinstance(value, RateLimit):
        assert isinstance(limiter, RateLimiter)
        limiter = limiter.limited(value.limit, value.window_seconds)
    else:
        limiter = limiter.limited(value)
    limiter.written_at = limit.path  # of the copy
    return limiter.of_vo(limit.vo) if limit.vo else limiter
