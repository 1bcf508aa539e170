"""From a job to an outcome: locks, injection, execution, and the policy's word on a failure.

A cancellation from outside is never a failure of the task: it comes out of `execute` as CancelledError, and whoever
cancelled knows what it means. The one exception is a lost lock, which ends as `Interrupted`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final, TypeAlias

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import (
    ServerError,
    StopRetryingError,
    TaskDefinitionError,
    TaskRetryRequestedError,
    UnableToAcquireLockError,
    UnretryableError,
)
from diracx.tasks.plumbing.execution.job import Job
from diracx.tasks.plumbing.execution.outcomes import (
    Dead,
    Discarded,
    Interrupted,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
)
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.locks import BaseLimiter, BaseLock, CountingLimiter, FencingToken, Holder
from diracx.tasks.plumbing.locks.fencing import current_token
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.observability.telemetry import current, current_traceparent
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.plumbing.wire.failure import Failure

OnStart: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited when all locks are held and the task is about to execute."""

TaskCall: TypeAlias = Callable[[BaseTask], Coroutine[Any, Any, Any]]
"""Executes a task with what it needs, on the loop that awaits it."""

Invoke: TypeAlias = Callable[[TaskCall, BaseTask], Awaitable[Any]]
"""Runs a call: on another loop, or under a debugger."""

Limits: TypeAlias = Callable[[Job, CountingLimiter], CountingLimiter]
"""Gives the limiter that is taken for a job in place of the one that its task has, see `CountingLimiter.limited`."""


_SERVER_DELAY: Final = timedelta(seconds=5)


class Executor:
    """Executes jobs. One for each worker process, used by many deliveries at once.

    Args:
        injector: Prepares what `execute()` needs.
        keeper: Holds the locks.
        worker: Who executes, for holders and failures.
        limiters: False skips rate and concurrency limiters.
        timeouts: False lets a task run longer than its `timeout_seconds`: a debugger stops it, and no clock.
        invoke: Where the task runs; None is here.
        limits: The configuration's word on a limiter; None: the code's stands.
    """

    def __init__(
        self,
        injector: Injector,
        keeper: LockKeeper,
        worker: str,
        *,
        limiters: bool = True,
        timeouts: bool = True,
        invoke: Invoke | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._injector = injector
        self._keeper = keeper
        self._worker = worker
        self._limiters = limiters
        self._timeouts = timeouts
        self._invoke = invoke
        self._telemetry = current()
        self._limits = limits

    async def execute(self, job: Job, on_start: OnStart | None = None) -> Outcome:
        """Execute once, under the task's locks.

        Raises:
            asyncio.CancelledError: This execution was cancelled from outside.
        """
        current_task_id.set(job.envelope.id)
        current_token.set(FencingToken(0))
        if job.envelope.traceparent is not None:
            current_traceparent.set(job.envelope.traceparent)
        if not job.registered.takes_locks:
            return await self._attempt(job, on_start)
        try:
            locks = self._locks_of(job)
        except (Exception, SystemExit) as error:  # an author's property; it fails like the rest of the task
            return self._failed(job, error)
        if not locks:
            return await self._attempt(job, on_start)
        return await self._attempt_locked(job, locks, on_start)

    def _locks_of(self, job: Job) -> list[BaseLock]:
        locks: list[BaseLock] = []
        for lock in job.task.execution_locks:
            if not isinstance(lock, BaseLock):
                raise TaskDefinitionError(
                    f"{type(job.task).__qualname__}.execution_locks gives {lock!r}; make it a property that gives a "
                    "list of locks, e.g. [MutexLock(JOB, self.job_id)]"
                )
            if isinstance(lock, BaseLimiter) and not self._limiters:
                continue
            if isinstance(lock, CountingLimiter):
                limiter = lock if self._limits is None else self._limits(job, lock)
                if limiter.limit is None:
                    continue
                lock = limiter
            locks.append(lock)
        return locks

    async def _attempt_locked(self, job: Job, locks: list[BaseLock], on_start: OnStart | None) -> Outcome:
        holder = Holder.new(task=job.envelope.name, id=job.envelope.id, worker=self._worker)
        executing = asyncio.current_task()
        assert executing is not None
        losing: list[bool] = []

        def on_lost() -> None:
            losing.append(True)
            executing.cancel()

        holding = None
        try:
            async with AsyncExitStack() as stack:
                try:
                    holding = await stack.enter_async_context(self._keeper.holding(locks, holder, on_lost))
                except UnableToAcquireLockError as error:
                    return LockBusy(error)
                except ServerError as error:
                    return Interrupted(f"its locks could not be taken: {error}", _SERVER_DELAY)
                except Exception as error:  # a lock of an author's own; it fails like the rest of the task
                    return self._failed(job, error)
                current_token.set(holding.token or FencingToken(0))
                outcome = await self._attempt(job, on_start)
        except asyncio.CancelledError:
            if not losing:
                raise
            executing.uncancel()
        if holding is None:
            return Interrupted("a lock was lost while the next one was taken", _SERVER_DELAY)
        if holding.lost is not None:
            if self._telemetry is not None:
                self._telemetry.lock_lost(holding.lost.key)
            return Interrupted(str(holding.lost))
        return outcome

    async def _attempt(self, job: Job, on_start: OnStart | None) -> Outcome:
        if on_start is not None:
            await on_start()
        try:
            return Succeeded(await self._run(job))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled this execution: the task awaited something that was cancelled.
            return self._failed(job, error)
        except (Exception, SystemExit) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # Its cleaning up failed while it was cancelled from outside: still no failure of the task.
                raise asyncio.CancelledError from error
            return self._failed(job, error)

    def _run(self, job: Job) -> Awaitable[Any]:
        call: TaskCall = self._injector.prepare(job.registered.task_class)
        seconds = job.registered.task_class.timeout_seconds
        if seconds is not None and self._timeouts:
            call = _limited(call, seconds)
        return call(job.task) if self._invoke is None else self._invoke(call, job.task)

    def _failed(self, job: Job, error: BaseException) -> Outcome:
        requested = isinstance(error, TaskRetryRequestedError)
        failure = Failure.of(error, self._worker, with_traceback=not requested)
        retry_at, verdict = None, "no retry is left"
        if isinstance(error, StopRetryingError):
            verdict = "it cannot be retried" if isinstance(error, UnretryableError) else "no retry is wanted"
        else:
            try:
                retry_at = job.registered.task_class.retry_policy.schedule_retry(job.attempt, error)
                if retry_at is not None and retry_at.tzinfo is None:
                    raise ValueError(f"{retry_at} has no time zone")
            except StopRetryingError:
                verdict = "no retry is wanted"
            except (Exception, SystemExit, asyncio.CancelledError) as broken:
                # An author's policy, and nothing is awaited here: even a cancellation is its own doing. No retry, and
                # the story says so.
                blame = Failure.of(broken, self._worker)
                retry_at, verdict = None, f"its retry policy failed ({blame.type}: {blame.message})"
        if retry_at is not None:
            return Retry(retry_at, failure)
        reason = f"{verdict} after {job.attempt + 1} executions: {failure.type}: {failure.message}"
        if job.registered.task_class.dlq_eligible:
            return Dead(reason, failure)
        return Discarded(reason, failure)


def _limited(call: TaskCall, seconds: float) -> TaskCall:
    """Like `call`, but cancelled and failed after `seconds`, on whichever loop it runs."""

    async def limited(task: BaseTask) -> Any:
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                value = await call(task)
        except Exception as error:
            if timeout.expired():
                raise TimeoutError(f"ran longer than timeout_seconds={seconds:g}") from error
            raise
        if timeout.expired():
            raise TimeoutError(f"ran longer than timeout_seconds={seconds:g}")  # it swallowed the cancellation
        return value

    return limited
