"""The sentences of `task`: one for each reason for which a task does not run, with what to do about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED
from diracx.tasks.plumbing.operations import task_reasons
from diracx.tasks.plumbing.operations.in_flight import WorkerTasks
from diracx.tasks.plumbing.operations.locks import LockHolder
from diracx.tasks.plumbing.operations.status import QueueStatus, SchedulerStatus, Status, WorkerStatus
from diracx.tasks.plumbing.operations.task_document import (
    BusyLock,
    CancellationNote,
    GroupState,
    KeptResult,
    ResultError,
    Running,
)
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.snapshot import HeldTask, InFlightTask

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)
NAME = "lollygag:SyncOwnersTask"


def a_queue(
    priority: Priority = Priority.NORMAL,
    *,
    waiting: int = 0,
    paused_until: datetime | None = None,
    missing: bool = False,
    size: Size = Size.SMALL,
) -> QueueStatus:
    return QueueStatus(
        subject=f"diracx.tasks.{priority}.{size}",
        priority=priority,
        size=size,
        waiting=waiting,
        in_hand=0,
        redelivered=0,
        oldest_seconds=None,
        paused_until=paused_until,
        missing=missing,
    )


def a_worker(number: int = 1, *, busy: int = 0, isolated: str | None = None, refuses: str = "") -> WorkerStatus:
    return WorkerStatus(
        id=f"host-{number}-small",
        size=Size.SMALL,
        slots=2,
        busy=busy,
        host="host",
        pid=number,
        since=AT,
        isolated=isolated,
        not_served={NAME: refuses} if refuses else {},
    )


def a_status(*workers: WorkerStatus, held: tuple[HeldTask, ...] = ()) -> Status:
    return Status(
        namespace="diracx",
        server="nats://127.0.0.1:4222",
        queues=[],
        delayed=0,
        dead_letters=0,
        locks=0,
        scheduler=SchedulerStatus(leader=None, standbys=[]),
        workers=list(workers),
        held=list(held),
        at=AT,
    )


OF_QUEUE = [
    (a_queue(), a_status(a_worker()), []),
    (
        a_queue(missing=True),
        a_status(a_worker()),
        ["its queue normal-small is missing on the server: run `diracx-task-run setup`"],
    ),
    (
        a_queue(paused_until=AT),
        a_status(a_worker()),
        ["its queue is paused until 2026-12-01T06:00:00Z: `diracx-task-run resume normal-small`"],
    ),
    (
        a_queue(paused_until=UNTIL_RESUMED),
        None,
        [
            "its queue is paused until it is resumed: `diracx-task-run resume normal-small`",
            "whether a worker serves it is not known: this user may not ask the workers",
        ],
    ),
    (
        a_queue(size=Size.LARGE),
        a_status(a_worker()),
        ["no worker of size large answers: start one with `diracx-task-run worker --worker-size large`"],
    ),
    (
        a_queue(),
        a_status(a_worker(), held=(HeldTask(NAME, "lhcb"), HeldTask(NAME, None))),
        [f"the configuration holds {NAME}: `enabled` is false, see `diracx-task-run config show`"],
    ),
    (a_queue(), a_status(a_worker(), held=(HeldTask(NAME, "lhcb"),)), []),
    (
        a_queue(),
        a_status(a_worker(1, refuses="no DiracX database"), a_worker(2, refuses="no DiracX database")),
        [f"no worker serves {NAME}: no DiracX database"],
    ),
    (a_queue(), a_status(a_worker(1, refuses="no DiracX database"), a_worker(2)), []),
    (
        a_queue(),
        a_status(a_worker(isolated="a:B 7")),
        ["host-1-small takes nothing else while it isolates a:B 7"],
    ),
    (a_queue(), a_status(a_worker(1, busy=2), a_worker(2, busy=1)), []),
    (
        a_queue(),
        a_status(a_worker(1, busy=2), a_worker(2, busy=2)),
        ["all slots of size small are in use: 4 in 2 workers"],
    ),
]


@pytest.mark.parametrize(("queue", "status", "said"), OF_QUEUE)
def test_what_keeps_a_queue_from_its_workers(queue: QueueStatus, status: Status | None, said: list[str]) -> None:
    assert task_reasons.of_queue(queue, NAME, "atlas", status) == said


def test_the_place_counts_those_before_it_and_those_that_are_more_urgent() -> None:
    queue = a_queue()
    urgent = a_queue(Priority.REALTIME, waiting=4)
    others = [queue, a_queue(Priority.BACKGROUND, waiting=9), a_queue(Priority.REALTIME, waiting=9, size=Size.LARGE)]
    assert task_reasons.of_place(1, queue, others) == "it is the next one of its queue"
    next_one = "it is the next one of its queue, and 4 of more urgent queues come before it"
    assert task_reasons.of_place(1, queue, [*others, urgent]) == next_one
    assert task_reasons.of_place(3, queue, others) == "about 2 tasks of its queue come before it"
    more = "about 2 tasks of its queue come before it, and 4 of more urgent queues"
    assert task_reasons.of_place(3, queue, [*others, urgent]) == more


def test_a_task_whose_time_is_over_says_so() -> None:
    said = ["it expired at 2026-12-01T06:00:00Z, and is not executed when its turn comes"]
    assert task_reasons.of_expiry(AT, AT) == said
    assert task_reasons.of_expiry(AT, AT - timedelta(seconds=1)) == []
    assert task_reasons.of_expiry(None, AT) == []


def test_a_running_task_that_was_cancelled_and_blocks_says_where() -> None:
    running = Running(
        worker="host-1-small",
        since=AT,
        attempt=2,
        state="executing",
        cancelled_since=AT + timedelta(minutes=1),
        cancelled_for="cancelled by an operator",
        blocked_at="at tasks.py:3 in execute",
    )
    assert task_reasons.of_running([running]) == [
        "host-1-small has it since 2026-12-01T06:00:00Z, attempt 2: executing",
        "it was cancelled at 2026-12-01T06:01:00Z: cancelled by an operator",
        "it does not yield: its code is at tasks.py:3 in execute",
    ]
    yields = msgspec.structs.replace(running, blocked_at=None)
    assert task_reasons.of_running([yields])[2:] == [task_reasons.CLEANS_UP]


@pytest.mark.parametrize(
    ("note", "then", "said"),
    [
        (
            CancellationNote(kind="id", key="7", at=AT, by="alice"),
            task_reasons.DROPPED,
            "alice has cancelled it at 2026-12-01T06:00:00Z; it is dropped when its turn comes",
        ),
        (
            CancellationNote(kind="task", key=NAME, at=AT, by=None),
            "",
            f"an operator has cancelled all {NAME} submitted until 2026-12-01T06:00:00Z",
        ),
        (
            CancellationNote(kind="group", key="7-0", at=AT, by=None),
            "",
            "an operator has cancelled its group 7-0 at 2026-12-01T06:00:00Z",
        ),
        (
            CancellationNote(kind="id", key="7", at=AT, by=None),
            task_reasons.GONE,
            f"an operator has cancelled it at 2026-12-01T06:00:00Z; {task_reasons.GONE}",
        ),
    ],
)
def test_a_cancellation_says_what_was_cancelled(note: CancellationNote, then: str, said: str) -> None:
    assert task_reasons.of_cancelled(note, then) == said


def test_a_cancelled_group_says_what_becomes_of_the_children_that_are_left() -> None:
    note = CancellationNote(kind="group", key="7-0", at=AT, by="alice")
    said = "alice has cancelled its children at 2026-12-01T06:00:00Z"
    assert task_reasons.of_cancelled_group(note, 0) == said
    assert task_reasons.of_cancelled_group(note, 2) == (
        f"{said}; those in their queues are dropped when their turn comes"
    )
    by_nobody = CancellationNote(kind="group", key="7-0", at=AT, by=None)
    assert task_reasons.of_cancelled_group(by_nobody, 0).startswith("an operator has cancelled its children at ")


def test_a_child_says_how_it_has_ended() -> None:
    assert task_reasons.of_child("g", 1, "failed") == "it is child 1 of group g, and has failed"
    assert task_reasons.of_child("g", 1, "cancelled") == "it is child 1 of group g, and was cancelled"


FAILURE = Failure("ValueError", "no such\nowner", "", "host-1-small", AT)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (AttemptRecord(1), []),
        (AttemptRecord(1, not_before=AT - timedelta(seconds=1)), []),
        (AttemptRecord(1, not_before=AT + timedelta(hours=1)), ["it is tried again at 2026-12-01T07:00:00Z"]),
        (
            AttemptRecord(1, failures=(FAILURE,), not_before=AT + timedelta(hours=1)),
            ["it is tried again at 2026-12-01T07:00:00Z, since it failed with ValueError: no such owner"],
        ),
        (AttemptRecord(1, exhausted="over"), ["it becomes a dead letter at its next delivery: over"]),
        (AttemptRecord(1, exhausted="over", dropped=True), ["it is dropped at its next delivery: over"]),
        (AttemptRecord(1, unknown=3), ["3 deliveries went to workers that do not know the task: see their log"]),
        (
            AttemptRecord(1, unended=("a", "b")),
            ["2 executions of it began and never ended: it waits to be isolated"],
        ),
        (
            AttemptRecord(1, unended=tuple("abcde")),
            ["5 executions of it began and never ended: it becomes a dead letter at its next delivery"],
        ),
    ],
)
def test_an_attempt_record_says_what_comes_next(record: AttemptRecord, said: list[str]) -> None:
    assert task_reasons.of_record(record, AT) == said


def test_the_next_turn_of_a_cancelled_task_is_no_retry() -> None:
    crashed = AttemptRecord(1, unended=tuple("abcde"))
    assert task_reasons.of_record(crashed, AT, cancelled=True) == ["5 executions of it began and never ended"]
    record = AttemptRecord(1, not_before=AT + timedelta(hours=1))
    assert task_reasons.of_record(record, AT, cancelled=True) == ["its turn comes at 2026-12-01T07:00:00Z"]


def test_a_busy_lock_names_its_holders_and_how_many_it_takes() -> None:
    holders = [LockHolder(NAME, str(number), "w", AT) for number in range(5)]
    lock = BusyLock(key="conc.job.7", kind="conc", holders=holders, limit=5, expires_in=None)
    (line,) = task_reasons.of_locks([lock])
    assert line.startswith(f"it waits for conc.job.7, held by {NAME} 0 on w since 2026-12-01T06:00:00Z, {NAME} 1 on w")
    assert line.endswith(f"{NAME} 2 on w since 2026-12-01T06:00:00Z and 2 more (5 at a time)")


def test_a_task_of_which_nothing_else_is_known_may_be_where_nobody_answers() -> None:
    assert task_reasons.of_parked([]).startswith(
        "no worker says that it has it: one gave it back, vanished with it, or"
    )
    silent = [WorkerTasks("a", Size.SMALL, answered=False), WorkerTasks("b", Size.SMALL, answered=False)]
    assert task_reasons.of_parked(silent) == "it may run in a, b, which did not answer"


def test_a_result_says_how_when_and_where_it_has_ended() -> None:
    assert task_reasons.of_result(KeptResult(status="succeeded")) == "it has succeeded"
    failed = KeptResult(status="failed", error=ResultError("ValueError", "no\nowner"), ended=AT, worker="w")
    assert task_reasons.of_result(KeptResult(status="cancelled")) == "it was cancelled"
    assert task_reasons.of_result(failed) == "it has failed at 2026-12-01T06:00:00Z on w: ValueError: no owner"
    cancelled = KeptResult(status="cancelled", ended=AT)
    assert task_reasons.of_result(cancelled) == "it was cancelled at 2026-12-01T06:00:00Z"
    assert task_reasons.of_child("7-0", 1, "cancelled") == "it is child 1 of group 7-0, and was cancelled"
    assert task_reasons.of_child("7-0", 1, "failed") == "it is child 1 of group 7-0, and has failed"


def a_group(ended: str | None, **counts: int) -> GroupState:
    return GroupState(
        id="7-0",
        parent="7",
        spawned=AT,
        fires=AT + timedelta(hours=1),
        children=5,
        counts=counts,
        callback=NAME,
        callback_id="7-0-callback",
        ended=ended,
        ended_at=AT,
    )


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (
            a_group(None, waiting=2, succeeded=3),
            f"3 of 5 children have ended; {NAME} runs after the last one, at 2026-12-01T07:00:00Z at the latest",
        ),
        (
            a_group(None),
            f"its parts have expired; {NAME} runs after the last one, at 2026-12-01T07:00:00Z at the latest",
        ),
        (a_group("complete"), f"all 5 children have ended, and {NAME} was let go"),
        (
            a_group("expired", waiting=1),
            f"its time was over with 4 of 5 children ended, and {NAME} was let go",
        ),
        (a_group("cancelled"), f"an operator has withdrawn its callback {NAME}"),
    ],
)
def test_a_group_says_how_far_it_is(group: GroupState, said: str) -> None:
    assert task_reasons.of_group(group) == said


@pytest.mark.parametrize(
    ("cancelled_for", "blocked_at", "text"),
    [
        (None, None, "executing"),
        (None, "tasks.py:7", "it does not yield: its code is tasks.py:7"),
        ("the worker stops", None, "was told to end: the worker stops"),
        (
            "the worker stops",
            "tasks.py:7",
            "was told to end: the worker stops; it does not yield: its code is tasks.py:7",
        ),
    ],
)
def test_what_a_task_in_flight_does_is_told_in_short(
    cancelled_for: str | None, blocked_at: str | None, text: str
) -> None:
    task = InFlightTask("0192", NAME, "diracx.tasks.normal.small", 7, AT, 1, "executing")
    since = None if cancelled_for is None else AT
    task = msgspec.structs.replace(task, cancelled_since=since, cancelled_for=cancelled_for, blocked_at=blocked_at)
    assert task_reasons.of_in_flight(task) == text
