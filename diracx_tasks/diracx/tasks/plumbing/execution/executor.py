"""The executor turns a job into an outcome: locks, injection, execution, and the retry policy on a failure.

* Any exception of the task, KeyboardInterrupt and SystemExit included, is a failure of the task. Its retry policy
  decides.
* A cancellation from outside is never a failure of the task. `execute` raises it as CancelledError, and the code that
  cancelled knows its meaning. The one exception is a lost lock, which ends as `Interrupted`.
* A cancellation that nobody asked for (the task awaited something that was cancelled) is a failure of the task.
* A failure to take the locks because the server does not answer ends as `Interrupted`, not as a failure.
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
from diracx.tasks.plumbing.execution.job import (
    Dead,
    Discarded,
    Interrupted,
    Job,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
)
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.locks import BaseLimiter, BaseLock, CountingLimiter, FencingToken, LockOwner
from diracx.tasks.plumbing.locks.fencing import current_token
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.observability.telemetry import current, current_traceparent
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.plumbing.wire.failure import Failure

OnStart: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited when all locks are held, just before the task executes."""

TaskCall: TypeAlias = Callable[[BaseTask], Coroutine[Any, Any, Any]]
"""Executes a task with its dependencies, on the event loop that awaits it."""

Invoke: TypeAlias = Callable[[TaskCall, BaseTask], Awaitable[Any]]
"""Runs a `TaskCall` elsewhere: on another event loop, or under a debugger."""

Limits: TypeAlias = Callable[[Job, CountingLimiter], CountingLimiter]
"""Returns the limiter to take for a job in place of the task's own, see `CountingLimiter.limited`."""

_SERVER_RETRY_DELAY: Final = timedelta(seconds=5)
"""The delay before the next delivery when the locks could not be taken because of the server."""


class Executor:
    """Executes jobs. One for each worker process; many executions use it at once.

    Args:
        injector: Prepares the dependencies of `execute()`.
        keeper: Holds the locks.
        worker: The id of the worker, for lock owners and failures.
        limiters: False skips rate and concurrency limiters.
        timeouts: False lets a task run longer than its `timeout_seconds`, e.g. under a debugger.
        invoke: Runs the task elsewhere. None: on this event loop.
        limits: Overrides the limits of limiters, e.g. from the configuration. None: the limits in the code hold.
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
        """Execute a job once, under the task's locks.

        Args:
            job: The task to execute.
            on_start: Awaited when all locks are held, just before the task executes. An exception that it raises is
                raised here, and is no failure of the task.

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
        except (Exception, SystemExit) as error:  # the property is the author's code: its failure is the task's
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
        owner = LockOwner.new(task=job.envelope.name, id=job.envelope.id, worker=self._worker)
        executing = asyncio.current_task()
        assert executing is not None
        lost_locks: list[bool] = []

        def on_lost() -> None:
            lost_locks.append(True)
            executing.cancel()

        held = None
        try:
            async with AsyncExitStack() as stack:
                try:
                    held = await stack.enter_async_context(self._keeper.hold(locks, owner, on_lost))
                except UnableToAcquireLockError as error:
                    return LockBusy(error)
                except ServerError as error:
                    return Interrupted(f"its locks could not be taken: {error}", _SERVER_RETRY_DELAY)
                except Exception as error:  # the lock may be the author's code: its failure is the task's
                    return self._failed(job, error)
                current_token.set(held.token or FencingToken(0))
                outcome = await self._attempt(job, on_start)
        except asyncio.CancelledError:
            if not lost_locks:
                raise
            executing.uncancel()
        if held is None:
            return Interrupted("a lock was lost while the next one was taken", _SERVER_RETRY_DELAY)
        if held.lost is not None:
            if self._telemetry is not None:
                self._telemetry.lock_lost(held.lost.key)
            return Interrupted(str(held.lost))
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
            # Nobody cancelled this execution. The task awaited something that was cancelled.
            return self._failed(job, error)
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # The clean-up failed during a cancellation from outside. That is no failure of the task either.
                raise asyncio.CancelledError from error
            return self._failed(job, error)

    def _run(self, job: Job) -> Awaitable[Any]:
        call: TaskCall = self._injector.prepare(job.registered.task_class)
        seconds = job.registered.task_class.timeout_seconds
        if seconds is not None and self._timeouts:
            call = _with_timeout(call, seconds)
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
                # The policy is the author's code, and nothing is awaited here: even a cancellation is its own.
                # There is no retry, and the reason says so.
                policy_failure = Failure.of(broken, self._worker)
                retry_at = None
                verdict = f"its retry policy failed ({policy_failure.type}: {policy_failure.message})"
        if retry_at is not None:
            return Retry(retry_at, failure)
        reason = f"{verdict} after {job.attempt + 1} executions: {failure.type}: {failure.message}"
        if job.registered.task_class.dlq_eligible:
            return Dead(reason, failure)
        return Discarded(reason, failure)


def _with_timeout(call: TaskCall, seconds: float) -> TaskCall:
    """Wrap `call` so that it is cancelled and fails after `seconds`, on the event loop where it runs."""

    async def timed(task: BaseTask) -> Any:
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                value = await call(task)
        except Exception as error:
            if timeout.expired():
                raise TimeoutError(f"ran longer than timeout_seconds={seconds:g}") from error
            raise
        if timeout.expired():
            raise TimeoutError(f"ran longer than timeout_seconds={seconds:g}")  # the task swallowed the cancellation
        return value

    return timed
