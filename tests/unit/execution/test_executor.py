"""Each outcome of one execution."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import (
    StopRetryingError,
    TaskRetryRequestedError,
    TooManyRetriesError,
    UnretryableError,
)
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.execution.executor import Executor
from diracx.tasks.plumbing.execution.job import Dead, Discarded, Interrupted, Outcome, Retry, Succeeded
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    MutexLock,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, NoRetry
from diracx.tasks.plumbing.submitter import current_task_id
from support.jobs import LATER, WORKER, Policy, forever, job, nothing, raising
from support.lock_store import RecordingStore

LATE = datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))


async def test_a_task_that_returns_succeeds_with_its_value(executor: Executor) -> None:
    assert await executor.execute(job(nothing)) == Succeeded("done")


async def test_a_coroutine_that_is_returned_unawaited_is_a_failure(executor: Executor) -> None:
    async def insert() -> None: ...

    async def forgets() -> Any:
        return insert()

    outcome = await executor.execute(job(forgets))
    assert isinstance(outcome, Discarded)
    assert "insert() unawaited, so it has not run; put `await` before it" in outcome.reason


async def test_a_task_that_returns_what_cannot_be_looked_at_succeeds(executor: Executor) -> None:
    """As a proxy of werkzeug or Django does, whose object is gone with its request."""

    class Proxy:
        def refuses(self, *args: object) -> Any:
            raise RuntimeError("working outside of request context")

        __class__ = property(refuses)
        __getattr__ = __eq__ = __bool__ = __len__ = __hash__ = __str__ = __repr__ = refuses

    async def returns() -> Any:
        return Proxy()

    outcome = await executor.execute(job(returns))
    assert type(outcome) is Succeeded
    assert type(outcome.value) is Proxy


async def test_an_exception_that_cannot_be_looked_at_is_a_failure(executor: Executor) -> None:
    class OpaqueError(Exception):
        def __getattribute__(self, name: str) -> Any:
            raise LookupError(name)

    outcome = await executor.execute(job(raising(OpaqueError())))
    assert isinstance(outcome, Discarded)
    assert outcome.reason.endswith("TypeError: execute() raised OpaqueError, which does not tell its __class__")


async def test_a_failure_that_the_policy_retries_is_a_retry(executor: Executor) -> None:
    policy, error = Policy(LATER), LookupError("gone")
    outcome = await executor.execute(job(raising(error), attempt=3, retry_policy=policy))
    assert isinstance(outcome, Retry)
    assert outcome.at == LATER
    assert (outcome.failure.type, outcome.failure.message) == ("LookupError", "gone")
    assert outcome.failure.worker == WORKER
    assert "in body" in outcome.failure.traceback
    ((attempt, exception),) = policy.asked
    assert attempt == 3
    assert exception is error


async def test_a_final_failure_is_dead_where_eligible_and_discarded_elsewhere(executor: Executor) -> None:
    for eligible, kind in ((True, Dead), (False, Discarded)):
        outcome = await executor.execute(job(raising(ValueError("no")), attempt=2, dlq_eligible=eligible))
        assert type(outcome) is kind
        assert isinstance(outcome, Dead | Discarded)
        assert outcome.reason == "no retry is left after 3 executions: ValueError: no"
        assert outcome.failure is not None


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (UnretryableError("bad owner"), "it cannot be retried"),
        (TooManyRetriesError("enough"), "no retry is wanted"),
        (StopRetryingError("stop"), "no retry is wanted"),
    ],
)
async def test_an_error_that_forbids_a_retry_does_not_ask_the_policy(
    executor: Executor, error: Exception, verdict: str
) -> None:
    policy = Policy(LATER)
    outcome = await executor.execute(job(raising(error), retry_policy=policy, dlq_eligible=True))
    assert isinstance(outcome, Dead)
    assert outcome.reason.startswith(f"{verdict} after 1 execution: ")
    assert not policy.asked


async def test_a_requested_retry_has_no_traceback_and_the_policy_decides(executor: Executor) -> None:
    request = raising(TaskRetryRequestedError("not ready"))
    outcome = await executor.execute(job(request, retry_policy=Policy(LATER)))
    assert isinstance(outcome, Retry)
    assert (outcome.failure.message, outcome.failure.traceback) == ("not ready", "")
    assert isinstance(await executor.execute(job(request, retry_policy=NoRetry())), Discarded)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (None, "no retry is left"),
        (StopRetryingError("stop"), "no retry is wanted"),
        (RuntimeError("oops"), "its retry policy failed (RuntimeError: oops)"),
        (RuntimeError("\udc80"), "its retry policy failed (RuntimeError: \\udc80)"),
        (
            datetime(2030, 1, 1),  # noqa: DTZ001
            "its retry policy failed (ValueError: 2030-01-01T00:00:00 has no time zone; use e.g. datetime.now(UTC))",
        ),
        (5, "its retry policy failed (ValueError: 5 is no datetime; use e.g. datetime.now(UTC))"),
        (
            LATE,
            f"its retry policy failed (ValueError: {LATE.isoformat()} is out of range: years go from 1 to 9999 in UTC)",
        ),
        (SystemExit("out"), "its retry policy failed (SystemExit: out)"),
        (GeneratorExit(), "its retry policy failed (GeneratorExit: )"),
        (asyncio.CancelledError(), "its retry policy failed (asyncio.exceptions.CancelledError: )"),
    ],
)
async def test_a_policy_that_returns_no_aware_time_gives_no_retry_and_the_reason_says_why(
    executor: Executor, answer: Any, verdict: str
) -> None:
    outcome = await executor.execute(job(raising(ValueError("no")), retry_policy=Policy(answer), dlq_eligible=True))
    assert isinstance(outcome, Dead)
    assert outcome.reason == f"{verdict} after 1 execution: ValueError: no"


@pytest.mark.parametrize(
    "answer",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime(2030, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))),
    ],
    ids=str,
)
async def test_the_time_of_a_retry_is_kept_to_the_second_whatever_its_zone(
    executor: Executor, answer: datetime
) -> None:
    outcome = await executor.execute(job(raising(ValueError("no")), retry_policy=Policy(answer)))
    assert isinstance(outcome, Retry)
    stored = msgspec.json.decode(msgspec.json.encode(outcome.at), type=datetime)
    assert stored == outcome.at == answer


async def test_a_task_that_runs_too_long_is_cancelled_and_has_failed(executor: Executor) -> None:
    policy = Policy(LATER)
    outcome = await executor.execute(job(forever, retry_policy=policy, timeout_seconds=0.01))
    assert isinstance(outcome, Retry)
    assert outcome.failure.message == "ran longer than timeout_seconds=0.01"
    assert "in forever" in outcome.failure.traceback
    assert isinstance(policy.asked[0][1], TimeoutError)


@pytest.mark.parametrize("end", [None, ValueError("while cleaning up")])
async def test_a_task_that_resists_its_timeout_fails_with_it(executor: Executor, end: Exception | None) -> None:
    async def resist() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        if end is not None:
            raise end

    outcome = await executor.execute(job(resist, timeout_seconds=0.01))
    assert isinstance(outcome, Discarded)
    assert "TimeoutError: ran longer than timeout_seconds=0.01" in outcome.reason


async def test_a_timeout_error_that_the_task_raises_is_an_ordinary_failure(executor: Executor) -> None:
    outcome = await executor.execute(job(raising(TimeoutError("the database")), timeout_seconds=60))
    assert isinstance(outcome, Discarded)
    assert outcome.reason.endswith("TimeoutError: the database")


async def test_without_timeouts_a_task_may_run_longer(keeper: LockKeeper) -> None:
    async def longer() -> str:
        await asyncio.sleep(0.05)
        return "done"

    executor = Executor(Injector(), keeper, WORKER, timeouts=False)
    assert await executor.execute(job(longer, timeout_seconds=0.01)) == Succeeded("done")


class Panic(BaseException):
    """No Exception."""


async def cancel_itself_and_return() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def cancel_itself_and_wait() -> None:
    await cancel_itself_and_return()
    await forever()


async def await_something_cancelled() -> None:
    other = asyncio.create_task(forever())
    other.cancel()
    await other


async def fail_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(raising(ValueError("in a group"))())  # type: ignore[arg-type]


CANCELLED = "asyncio.exceptions.CancelledError"


@pytest.mark.parametrize("locks", [None, [MutexLock(JOB, 1)]])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (raising(SystemExit(3)), "SystemExit"),
        (raising(KeyboardInterrupt()), "KeyboardInterrupt"),
        (raising(GeneratorExit()), "GeneratorExit"),
        (raising(Panic("no Exception")), f"{__name__}.Panic"),
        (raising(asyncio.CancelledError()), CANCELLED),
        (cancel_itself_and_wait, CANCELLED),
        (await_something_cancelled, CANCELLED),
        (fail_in_a_group, "ExceptionGroup"),
    ],
)
async def test_whatever_leaves_the_code_of_a_task_is_one_failure_of_the_task(
    executor: Executor, store: RecordingStore, body: Any, kind: str, locks: Any
) -> None:
    outcome = await executor.execute(job(body, locks=locks, dlq_eligible=True))
    assert isinstance(outcome, Dead)
    assert outcome.failure is not None
    assert outcome.failure.type == kind
    assert "Traceback" in outcome.failure.traceback
    assert not store.entries, "its locks are free again"


@pytest.mark.parametrize("locks", [None, [MutexLock(JOB, 1)]])
async def test_a_task_that_cancels_itself_and_returns_has_succeeded(
    executor: Executor, store: RecordingStore, locks: Any
) -> None:
    executing = asyncio.create_task(executor.execute(job(cancel_itself_and_return, locks=locks)))
    await asyncio.wait([executing])
    # Without locks the cancellation is still pending at the end, and asyncio gives it in place of the result.
    assert executing.cancelled() if locks is None else executing.result() == Succeeded(None)
    assert not store.entries


@pytest.mark.parametrize("locks", [None, [MutexLock(JOB, 1)]])
@pytest.mark.parametrize("timeout_seconds", [None, 60])
async def test_a_cancellation_by_the_worker_interrupts_and_is_no_failure(
    executor: Executor, locks: Any, timeout_seconds: Any
) -> None:
    started, policy, execution = asyncio.Event(), Policy(LATER), Execution()

    async def body() -> None:
        started.set()
        await forever()

    called = job(body, locks=locks, timeout_seconds=timeout_seconds, retry_policy=policy)
    executing = asyncio.create_task(executor.execute(called, execution))
    await started.wait()
    execution.cancel(Cancellation(Cause.STOP, "the worker stops"))
    assert await executing == Interrupted("the worker stops")
    assert not policy.asked


async def test_a_cancellation_by_the_end_of_the_event_loop_is_no_failure(executor: Executor) -> None:
    started, policy = asyncio.Event(), Policy(LATER)

    async def body() -> None:
        started.set()
        await forever()

    owner = asyncio.create_task(forever())
    executing = asyncio.create_task(executor.execute(job(body, retry_policy=policy), Execution(owner=owner)))
    await started.wait()
    owner.cancel()
    executing.cancel()
    assert await executing == Interrupted("the event loop ends")
    assert not policy.asked


@pytest.mark.parametrize("cause", [Cause.LEASE_LAPSED, Cause.LOCK_LOST])
async def test_code_that_succeeds_after_its_lease_or_a_lock_lapsed_does_not_count(
    executor: Executor, cause: Cause
) -> None:
    execution = Execution()

    async def body() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            execution.cancel(Cancellation(cause, "too late"))
            await forever()

        await asyncio.sleep(0)

    assert await asyncio.create_task(executor.execute(job(body), execution)) == Interrupted("too late")


async def test_code_that_ends_well_although_the_worker_stops_has_succeeded(executor: Executor) -> None:
    execution = Execution()

    async def body() -> str:
        execution.cancel(Cancellation(Cause.STOP, "the worker stops"))
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        return "saved"

    assert await executor.execute(job(body), execution) == Succeeded("saved")


async def test_a_task_knows_its_id(executor: Executor) -> None:
    async def body() -> str | None:
        return current_task_id.get()

    assert await executor.execute(job(body)) == Succeeded("the-id")


async def test_an_invoker_runs_the_task_in_place_of_the_executor(keeper: LockKeeper) -> None:
    calls: list[BaseTask] = []

    async def invoke(invocation: Callable[[BaseTask], Awaitable[Any]], task: BaseTask, _: Execution) -> Any:
        calls.append(task)
        return f"elsewhere: {await invocation(task)}"

    executor = Executor(Injector(), keeper, WORKER, invoke=invoke)
    called = job(nothing)
    assert await executor.execute(called) == Succeeded("elsewhere: done")
    assert calls == [called.task]


async def test_an_exponential_backoff_ends_after_its_retries(executor: Executor) -> None:
    outcomes: list[type[Outcome]] = []
    for attempt in range(4):
        outcome = await executor.execute(
            job(raising(ValueError("no")), attempt, retry_policy=ExponentialBackoff(1, 3), dlq_eligible=True)
        )
        outcomes.append(type(outcome))
    assert outcomes == [Retry, Retry, Retry, Dead]
