"""The executor turns a job into an outcome: locks, injection, execution, and the retry policy on a failure.

* Whatever leaves the task's code is a failure of the task, and its retry policy decides. Its code is `execute()`, its
  dependencies, its locks and its policy.
* The exceptions are the cancellations that the worker gave to the `Execution`: `_conclude` lists what each one means.
* A failure to take the locks because the server does not answer ends as `Interrupted`, not as a failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from types import CoroutineType
from typing import Any, Final, Protocol, TypeAlias

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.callbacks.outcomes import GroupOutcomes, current_outcomes
from diracx.tasks.plumbing.clock import ServerClock
from diracx.tasks.plumbing.exceptions import (
    ServerError,
    StopRetryingError,
    TaskDefinitionError,
    TaskRetryRequestedError,
    UnableToAcquireLockError,
    UnretryableError,
    UnsendableError,
)
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.execution.job import (
    Cancelled,
    Dead,
    Discarded,
    Interrupted,
    Job,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
)
from diracx.tasks.plumbing.execution.thread import run_code
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.locks import BaseLimiter, BaseLock, CountingLimiter, FencingToken, LockOwner
from diracx.tasks.plumbing.locks.fencing import current_token
from diracx.tasks.plumbing.locks.keeper import HeldLocks, LockKeeper
from diracx.tasks.plumbing.observability.telemetry import current, current_traceparent
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.times import in_utc

logger = logging.getLogger("diracx.tasks.worker")

OnStart: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited when all locks are held, just before the task executes."""

TaskCall: TypeAlias = Callable[[BaseTask], Coroutine[Any, Any, Any]]
"""Executes a task with its dependencies, on the event loop that awaits it."""

Invoke: TypeAlias = Callable[[TaskCall, BaseTask, Execution], Awaitable[Any]]
"""Runs a `TaskCall` elsewhere: on another event loop, or under a debugger."""


class Limits(Protocol):
    """Limits from outside the code, e.g. from the configuration."""

    active: bool
    """Whether there is any limit. While there is none, `applied` is not called."""

    def applied(self, job: Job, locks: Sequence[BaseLock]) -> Sequence[BaseLock]:
        """Return the locks to take in place of those that the task declares: other limits, and further limiters."""


MAX_LEFT: Final = 16
"""When something of so many ended executions still runs, the worker ends: it would run out of threads."""
_LOCK_LOST: Final = Cancellation(Cause.LOCK_LOST, "a lock was lost")
_LEFT_BEHIND_DELAY: Final = timedelta(seconds=10)
"""The delay before the next delivery when something of an interrupted execution still runs."""
_SERVER_RETRY_DELAY: Final = timedelta(seconds=5)
"""The delay before the next delivery when the locks could not be taken because of the server."""


def unawaited(value: Any) -> TypeError | None:
    """The failure of an `execute()` that returned a coroutine, whose code has not run; None: it returned a value."""
    # By its type: `isinstance` asks the value for its `__class__`, and that of a lazy proxy may raise.
    if not issubclass(type(value), CoroutineType):
        return None
    value.close()
    return TypeError(f"execute() returned {value.__qualname__}() unawaited, so it has not run; put `await` before it")


def _opaque(error: BaseException) -> TypeError | None:
    """What takes the place of an exception that `isinstance` cannot be asked about; None: this one can stay."""
    try:
        error.__class__  # noqa: B018 - it may raise
    except BaseException:  # the author's code must not hide the failure
        return TypeError(f"execute() raised {type(error).__name__}, which does not tell its __class__")
    return None


class Executor:
    """Executes jobs. One for each worker process; many executions use it at once.

    Args:
        injector: Prepares the dependencies of `execute()`.
        keeper: Holds the locks.
        worker: The id of the worker, for lock owners and failures.
        limiters: False skips rate and concurrency limiters.
        timeouts: False lets a task run longer than its `timeout_seconds`, e.g. under a debugger.
        invoke: Runs the task elsewhere. None: on this event loop.
        limits: Changes and adds limiters, e.g. by the configuration. None: those in the code hold.
        clock: The time of failures, lock owners and retries. None: that of this machine.
        outcomes_of: The outcomes of the group with an id, for its callback. None: no task is a callback.
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
        clock: ServerClock | None = None,
        outcomes_of: Callable[[str], GroupOutcomes] | None = None,
    ) -> None:
        self._injector = injector
        self._outcomes_of = outcomes_of
        self._clock = clock or ServerClock()
        self._keeper = keeper
        self._worker = worker
        self._limiters = limiters
        self._timeouts = timeouts
        self._invoke = invoke
        self._telemetry = current()
        self._limits = limits
        self._left_behind: list[Execution] = []
        self._broken_delays: set[type[BaseTask]] = set()
        """The classes whose `lock_retry_delay` failed; each is logged once."""

    async def execute(self, job: Job, execution: Execution | None = None, on_start: OnStart | None = None) -> Outcome:
        """Execute a job once, under the task's locks.

        Args:
            job: The task to execute.
            execution: Cancels it, and knows why; None: nobody cancels it.
            on_start: Awaited when all locks are held, just before the task executes. An exception that it raises is
                raised here, and is no failure of the task.
        """
        execution = execution or Execution(lambda: job.envelope.name)
        if execution.task is None:
            execution.begin()
        current_task_id.set(job.envelope.id)
        if current_token.get():  # of whoever executes this job, e.g. another task
            current_token.set(FencingToken(0))
        if job.envelope.callback is not None and self._outcomes_of is not None:
            current_outcomes.set(self._outcomes_of(job.envelope.callback))
        if job.envelope.traceparent is not None:
            current_traceparent.set(job.envelope.traceparent)
        limits = self._limits if self._limiters and self._limits is not None and self._limits.active else None
        if limits is None and not job.registered.takes_locks:
            return await self._attempt(job, execution, on_start)
        try:
            locks = self._locks_of(job, limits)
        except BaseException as error:  # the property is the author's code: its failure is the task's
            return self._failed(job, error)
        if not locks:
            return await self._attempt(job, execution, on_start)
        return await self._attempt_locked(job, execution, locks, on_start)

    def _locks_of(self, job: Job, limits: Limits | None) -> list[BaseLock]:
        given: Any = job.task.execution_locks if job.registered.takes_locks else []
        listed = type(given) is list or isinstance(given, Iterable)
        declared: list[BaseLock] = list(given) if listed else [given]
        for lock in declared:
            if not (listed and isinstance(lock, BaseLock)):
                raise TaskDefinitionError(
                    f"{type(job.task).__qualname__}.execution_locks gives {lock!r}; make it a property that gives a "
                    "list of locks, e.g. [MutexLock(JOB, self.job_id)]"
                )
        if not self._limiters:
            return [lock for lock in declared if not isinstance(lock, BaseLimiter)]
        locks = declared if limits is None else limits.applied(job, declared)
        return [lock for lock in locks if not isinstance(lock, CountingLimiter) or lock.limit is not None]

    def _busy(self, job: Job, error: UnableToAcquireLockError) -> LockBusy:
        refusals, wanted = job.refusals + 1, None
        try:
            wanted = job.task.lock_retry_delay(refusals)
            if wanted is not None and not (isinstance(wanted, timedelta) and wanted > timedelta(0)):
                raise ValueError(f"it returned {wanted!r}, neither None nor a timedelta of more than 0")
        except BaseException as broken:  # the author's code: the task waits as if it had none
            wanted, task_class, failure = None, type(job.task), Failure.of(broken, self._worker, with_traceback=False)
            if task_class not in self._broken_delays:
                self._broken_delays.add(task_class)
                logger.warning(
                    "%s.lock_retry_delay(%d) failed, and the delay of the worker holds: %s: %s",
                    task_class.__qualname__,
                    refusals,
                    failure.type,
                    failure.message,
                )
        return LockBusy(error, refusals, wanted)

    async def _attempt_locked(
        self, job: Job, execution: Execution, locks: list[BaseLock], on_start: OnStart | None
    ) -> Outcome:
        owner = LockOwner.new(task=job.envelope.name, id=job.envelope.id, worker=self._worker, since=self._clock.now())
        outcome: Outcome | None = None
        held: HeldLocks | None = None
        try:
            try:
                held = await self._keeper.take(locks, owner, lambda: execution.cancel(_LOCK_LOST))
            except UnableToAcquireLockError as error:
                return self._busy(job, error)
            except UnsendableError as error:  # the key of a lock is too long for this server
                return self._conclude(job, execution, None, error)
            except ServerError as error:
                return Interrupted(f"its locks could not be taken: {error}", _SERVER_RETRY_DELAY)
            except BaseException as error:  # the lock may be the author's code: its failure is the task's
                if execution.cancellation is _LOCK_LOST:
                    return Interrupted("a lock was lost while the next one was taken", _SERVER_RETRY_DELAY)
                return self._conclude(job, execution, None, error)
            try:
                execution.held = held
                current_token.set(held.token or FencingToken(0))
                outcome = await self._attempt(job, execution, on_start)
                if execution.runs_on:
                    held.release_after(execution.nothing_runs)
                held.check()
            finally:
                execution.held = None
                behind = execution.only_acked and type(outcome) is Succeeded and held.lost is None
                await self._keeper.release(held, behind=behind)
        except asyncio.CancelledError:
            # It arrived while locks were taken or released, which no cancellation interrupts.
            if outcome is None:
                raise
        assert held is not None
        if held.lost is not None:
            if self._telemetry is not None:
                self._telemetry.lock_lost(held.lost.key)
            return Interrupted(str(held.lost))
        return outcome

    async def _attempt(self, job: Job, execution: Execution, on_start: OnStart | None) -> Outcome:
        task_class = job.registered.task_class
        if on_start is not None:
            try:
                await on_start()
            except asyncio.CancelledError as error:
                return self._conclude(job, execution, None, error)
        try:
            call: TaskCall = self._injector.prepare(task_class)
        except TaskDefinitionError as error:
            return self._failed(job, error)
        seconds = task_class.timeout_seconds if self._timeouts else None
        if self._invoke is not None:
            code = self._invoke(call, job.task, execution)
        else:
            code = call(job.task)
            if seconds is not None:
                # In an asyncio task of its own, so that the execution can give up code that is deaf to cancellations.
                code = run_code(asyncio.get_running_loop(), execution.in_steps(code), execution)
        value, raised = await execution.run(code, seconds)
        if execution.runs_on:
            self._note_left_behind(execution)
        raised = unawaited(value) if raised is None else _opaque(raised) or raised
        if raised is None and execution.cancellation is None:
            return Succeeded(value)
        return self._conclude(job, execution, value, raised)

    def _note_left_behind(self, execution: Execution) -> None:
        self._left_behind = [left for left in self._left_behind if left.runs_on] + [execution]
        if len(self._left_behind) >= MAX_LEFT:
            execution.retire_worker(f"what {MAX_LEFT} tasks left behind still runs")

    @property
    def left_behind(self) -> int:
        """The number of executions that have ended, and of which something still runs: calls in threads, or code that
        was given up."""
        return sum(left.runs_on for left in self._left_behind)

    def _conclude(self, job: Job, execution: Execution, value: Any, error: BaseException | None) -> Outcome:
        """The outcome of code that returned `value`, or raised `error`.

        cancelled for               the code returned   it raised
            (nothing)                   Succeeded           failure
            stop                        Succeeded           Interrupted
            cancelled by an operator    Succeeded           Cancelled
            timeout, held up, escaped   failure             failure
            lease lapsed, lock lost     Interrupted         Interrupted
        Code that found no place to execute is Interrupted, whatever else happened.
        """
        if execution.refusal is not None:
            return Interrupted.of(execution.refusal)
        cancellation = execution.explain(error)
        if cancellation is None:
            return Succeeded(value) if error is None else self._failed(job, error)
        if cancellation.error is not None:
            if cancellation.cause is Cause.TIMEOUT:
                cancellation.error.__cause__ = error  # its traceback shows where the code was
            return self._failed(job, cancellation.error)
        if error is None and not cancellation.voids:
            return Succeeded(value)
        if cancellation.cause is Cause.CANCELLED:
            return Cancelled(cancellation.reason)
        # What still runs ends with its process. Until then the task should not begin elsewhere.
        return Interrupted(cancellation.reason, _LEFT_BEHIND_DELAY if execution.runs_on else timedelta(0))

    def _failed(self, job: Job, error: BaseException) -> Outcome:
        requested = isinstance(error, TaskRetryRequestedError)
        failure = Failure.of(error, self._worker, with_traceback=not requested, at=self._clock.now())
        retry_at, verdict = None, "no retry is left"
        if isinstance(error, StopRetryingError):
            verdict = "it cannot be retried" if isinstance(error, UnretryableError) else "no retry is wanted"
        else:
            try:
                retry_at = job.registered.task_class.retry_policy.schedule_retry(job.attempt, error)
                # In UTC, since the stored form rounds the seconds of an offset away.
                retry_at = None if retry_at is None else in_utc(retry_at)
            except StopRetryingError:
                verdict = "no retry is wanted"
            except BaseException as broken:  # the policy is the author's code: no retry, and the reason says so
                policy_failure = Failure.of(broken, self._worker)
                retry_at = None
                verdict = f"its retry policy failed ({policy_failure.type}: {policy_failure.message})"
        if retry_at is not None:
            return Retry(self._clock.corrected(retry_at), failure)
        number = job.attempt + 1
        reason = f"{verdict} after {number} execution{'s' if number > 1 else ''}: {failure.type}: {failure.message}"
        if job.registered.task_class.dlq_eligible:
            return Dead(reason, failure)
        return Discarded(reason, failure)
