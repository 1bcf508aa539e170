"""Why a task does not run, in sentences for operators: what to do next stands in each that has a cure.

Everything here is a function of what was read: no request is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from diracx.tasks.plumbing.enums import Priority
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.jetstream.consumer_pause import pause_end_text
from diracx.tasks.plumbing.operations.in_flight import WorkerTasks
from diracx.tasks.plumbing.operations.status import QueueStatus, Status
from diracx.tasks.plumbing.operations.task_document import (
    BusyLock,
    CancellationNote,
    GroupState,
    KeptResult,
    PastDelivery,
    Running,
)
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.times import readable_time
from diracx.tasks.plumbing.worker.isolation import ISOLATE_AFTER_CRASHES, POISON_AFTER_CRASHES
from diracx.tasks.plumbing.worker.snapshot import InFlightTask

UNKNOWN_MEANS = (
    "nothing of this id is stored: it has ended and kept no result and no dead letter, or it was never submitted here"
)
SPAWNED_MEANS = "it has ended and kept no result; its groups are remembered"
LET_GO_MEANS = "it has ended and kept no result, or moves at this moment"
DROPPED = "it is dropped when its turn comes"
DROPPED_CHILDREN = "those in their queues are dropped when their turn comes"
GONE = "nothing else of it is stored: it ended then, had ended before, or was never submitted here"
ENDS = "it ends at its next await"
CLEANS_UP = "it was told so and has not ended: it cleans up, or ignores its cancellation"
MAX_HOLDERS_NAMED = 3


def of_delay(until: datetime | None) -> str:
    """What it waits for before it comes to its queue."""
    if until is None:
        return "it has fallen due, and the server has not moved it to its queue: is the stream of tasks full?"
    return f"it was submitted for {readable_time(until)}"


def of_in_flight(task: InFlightTask) -> str:
    """What a task does in its worker, in short."""
    said = [] if task.cancelled_since is None else [f"was told to end: {task.cancelled_for}"]
    if task.blocked_at is not None:
        said.append(f"it does not yield: its code is {task.blocked_at}")
    return "; ".join(said) or task.state


def of_expiry(expires: datetime | None, now: datetime) -> list[str]:
    """Whether its time is over."""
    if expires is None or expires > now:
        return []
    return [f"it expired at {readable_time(expires)}, and is not executed when its turn comes"]


def of_dead(seq: int, reason: str) -> str:
    """Why it will not run again."""
    return f"it is dead letter {seq}, see `diracx-task-run dlq show {seq}`: {reason}"


def of_child(group: str, index: int, status: str | None) -> str:
    """What its group knows of it."""
    if status is None:
        return f"it is child {index} of group {group}, and is not stored in its queue yet, or moves at this moment"
    return f"it is child {index} of group {group}, and {_has_ended(status)}"


def _has_ended(status: str) -> str:
    return "was cancelled" if status == "cancelled" else f"has {status}"


def of_running(running: Sequence[Running]) -> list[str]:
    """Where it runs."""
    said = []
    for each in running:
        attempt = "" if each.attempt == 1 else f", attempt {each.attempt}"
        said.append(f"{each.worker} has it since {readable_time(each.since)}{attempt}: {each.state}")
        if each.cancelled_since is not None:
            said.append(f"it was cancelled at {readable_time(each.cancelled_since)}: {each.cancelled_for}")
            if each.blocked_at is None:
                said.append(CLEANS_UP)
        if each.blocked_at is not None:
            said.append(f"it does not yield: its code is {each.blocked_at}")
    return said


def of_cancelled(note: CancellationNote, then: str = "") -> str:
    """What an operator has done to a task, and what follows from that."""
    when = readable_time(note.at)
    what = {"id": f"it at {when}", "group": f"its group {note.key} at {when}"}
    by = f"{shown(note.by)} has" if note.by else "an operator has"
    return f"{by} cancelled {what.get(note.kind, f'all {note.key} submitted until {when}')}{then and f'; {then}'}"


def of_cancelled_group(note: CancellationNote, waiting: int) -> str:
    """What an operator has done to a group, and what follows for the children that have not ended."""
    by = f"{shown(note.by)} has" if note.by else "an operator has"
    said = f"{by} cancelled its children at {readable_time(note.at)}"
    return f"{said}; {DROPPED_CHILDREN}" if waiting else said


def of_queue(queue: QueueStatus, name: str, vo: object, status: Status | None) -> list[str]:
    """Why no worker takes what is in this queue, or why it would give it back.

    Args:
        name: The name of the task.
        vo: Its VO, if it has one.
        status: Of the mesh; None: this user may not ask the workers.
    """
    said = []
    if queue.missing:
        said.append(f"its queue {queue.name} is missing on the server: run `diracx-task-run setup`")
    if queue.paused_until is not None:
        until = pause_end_text(queue.paused_until)
        said.append(f"its queue is paused until {until}: `diracx-task-run resume {queue.name}`")
    if status is None:
        return [*said, "whether a worker serves it is not known: this user may not ask the workers"]
    if any(held.task == name and held.vo in (None, vo) for held in status.held):
        said.append(f"the configuration holds {name}: `enabled` is false, see `diracx-task-run config show`")
    workers = [worker for worker in status.workers if worker.size == queue.size]
    if not workers:
        start = f"`diracx-task-run worker --worker-size {queue.size}`"
        return [*said, f"no worker of size {queue.size} answers: start one with {start}"]
    refusals = [worker.not_served[name] for worker in workers if name in worker.not_served]
    if len(refusals) == len(workers):
        said.append(f"no worker serves {name}: {refusals[0]}")
    if isolated := [worker for worker in workers if worker.isolated]:
        first = isolated[0]
        said.append(f"{first.id} takes nothing else while it isolates {first.isolated}")
    busy, slots = sum(worker.busy for worker in workers), sum(worker.slots for worker in workers)
    if busy >= slots:
        count = "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
        said.append(f"all slots of size {queue.size} are in use: {slots} in {count}")
    return said


def of_place(place: int, queue: QueueStatus, queues: Sequence[QueueStatus]) -> str:
    """How many tasks come before it."""
    urgent = [each for each in queues if each.size == queue.size and _more_urgent(each.priority, queue.priority)]
    before = sum(each.waiting for each in urgent)
    more = f", and {before} of more urgent queues" if before else ""
    if place == 1:
        return f"it is the next one of its queue{more and f'{more} come before it'}"
    return f"about {place - 1} tasks of its queue come before it{more}"


def _more_urgent(one: Priority, other: Priority) -> bool:
    ranks = list(Priority)
    return ranks.index(one) < ranks.index(other)


def of_record(record: AttemptRecord, now: datetime, *, cancelled: bool = False) -> list[str]:
    """What its attempts say.

    Args:
        cancelled: Whether its next turn drops it.
    """
    said = []
    if record.exhausted is not None:
        ends = "is dropped" if record.dropped else "becomes a dead letter"
        said.append(f"it {ends} at its next delivery: {record.exhausted}")
    elif record.not_before is not None and record.not_before > now:
        last = record.last_failure
        failed = "" if last is None else f", since it failed with {last.type}: {' '.join(last.message.split())}"
        turn = "its turn comes at" if cancelled else "it is tried again at"
        said.append(f"{turn} {readable_time(record.not_before)}{failed}")
    if record.unknown:
        said.append(f"{record.unknown} deliveries went to workers that do not know the task: see their log")
    if record.crashes >= ISOLATE_AFTER_CRASHES:
        poison = record.crashes >= POISON_AFTER_CRASHES
        then = ": it becomes a dead letter at its next delivery" if poison else ": it waits to be isolated"
        said.append(f"{record.crashes} executions of it began and never ended{'' if cancelled else then}")
    return said


def of_locks(locks: Sequence[BusyLock]) -> list[str]:
    """Which locks it waits for, and who holds them."""
    return [f"it waits for {lock.key}, {_holders(lock)}" for lock in locks]


def _holders(lock: BusyLock) -> str:
    named = [
        f"{holder.task} {shown(holder.id)} on {holder.worker} since {readable_time(holder.since)}"
        for holder in lock.holders[:MAX_HOLDERS_NAMED]
    ]
    rest = len(lock.holders) - len(named)
    more = f" and {rest} more" if rest else ""
    limit = "" if lock.limit is None else f" ({lock.limit} at a time)"
    return f"held by {', '.join(named)}{more}{limit}"


def of_parked(silent: Sequence[WorkerTasks]) -> str:
    """Where it may be when nothing else tells.

    Args:
        silent: The workers of its size that did not answer.
    """
    if silent:
        return f"it may run in {', '.join(worker.worker for worker in silent)}, which did not answer"
    return (
        "no worker says that it has it: one gave it back, vanished with it, or does not answer at the moment; it is "
        "delivered again within `ack_wait` (30 s) of the last heartbeat"
    )


def of_result(result: KeptResult) -> str:
    """How it has ended, by its kept result."""
    when = "" if result.ended is None else f" at {readable_time(result.ended)}"
    where = f" on {result.worker}" if result.worker else ""
    error = "" if result.error is None else f": {result.error.type}: {' '.join(result.error.message.split())}"
    return f"it {_has_ended(result.status)}{when}{where}{error}"


def of_past(last: PastDelivery) -> str:
    """How it has ended, by what the worker remembers of its last delivery."""
    why = f"{last.error}: {last.message}" if last.error else last.message
    told = f"it {_has_ended(last.status or '')} at {readable_time(last.at)} on {last.worker}: {' '.join(why.split())}"
    return f"{told}; nothing else of it is stored"


def of_callback(group: GroupState) -> str:
    """What its group knows of a callback."""
    return f"it follows the group {group.id}: {of_group(group)}"


def of_group(group: GroupState) -> str:
    """How far a group is."""
    done = group.children - group.counts.get("waiting", 0)
    if group.ended == "complete":
        return f"all {group.children} children have ended, and {group.callback} was let go"
    if group.ended == "expired":
        return f"its time was over with {done} of {group.children} children ended, and {group.callback} was let go"
    if group.ended is not None:
        return f"an operator has withdrawn its callback {group.callback}"
    ended = f"{done} of {group.children} children have ended" if group.counts else "its parts have expired"
    return f"{ended}; {group.callback} runs after the last one, at {readable_time(group.fires)} at the latest"
