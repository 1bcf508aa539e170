"""What an operator should know about a mesh, in sentences, each with the command that mends it.

`alerts_of` is a function of one snapshot: no request is made here. A name of `LEVELS` is a promise, since monitors
ignore alerts by name.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from diracx.tasks.plumbing.clock import TOLERANCE
from diracx.tasks.plumbing.jetstream.consumer_pause import pause_end_text
from diracx.tasks.plumbing.operations.figures import duration, size
from diracx.tasks.plumbing.operations.status_document import (
    Alert,
    QueueStatus,
    Status,
    StatusSnapshot,
    StorageStatus,
    StreamStatus,
)
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import readable_time

__all__ = ["LEVELS", "NEARLY_FULL", "Alert", "alerts_of", "command_line"]

LEVELS: Final[dict[str, Literal["critical", "warning"]]] = {
    "stream-missing": "critical",
    "bucket-missing": "critical",
    "consumer-missing": "critical",
    "no-leader": "critical",
    "storage-full": "critical",
    "stream-full": "critical",
    "dead-letters-full": "critical",
    "bucket-full": "critical",
    "due-not-sourced": "critical",
    "no-scheduler": "critical",
    "queue-not-served": "critical",
    "worker-gone": "warning",
    "storage-filling": "warning",
    "stream-filling": "warning",
    "bucket-filling": "warning",
    "replicas-behind": "warning",
    "wrong-clock": "warning",
    "task-not-served": "warning",
    "worker-isolated": "warning",
    "dead-letters": "warning",
    "queue-paused": "warning",
    "task-held": "warning",
    "history-missing": "warning",
}
"""The names of all alerts with their levels, the most important first."""

NEARLY_FULL: Final = 0.8
"""The part of a limit from which on a stream, a bucket or the storage is nearly full."""
_FULL: Final = 0.99
_MAX_NAMED: Final = 5
"""Of a kind; more are counted."""


def alerts_of(snapshot: StatusSnapshot) -> list[Alert]:
    """The alerts of a mesh at one moment, the most important first."""
    found = [
        *_missing(snapshot),
        *_leaderless(snapshot),
        *_storage(snapshot.status.storage),
        *(alert for stream in snapshot.status.streams for alert in _stream(snapshot.status, stream)),
        *_due(snapshot),
        *_scheduler(snapshot),
        *_queues(snapshot),
        *_workers(snapshot),
        *_tasks(snapshot.status),
    ]
    rank = list(LEVELS)
    return sorted(found, key=lambda alert: rank.index(alert.name))


def _alert(name: str, text: str, command: str | None = None) -> Alert:
    return Alert(level=LEVELS[name], name=name, text=text, command=command)


def command_line(namespace: str, words: str) -> str:
    """A command line for a mesh, e.g. `dlq list` for the one of a namespace."""
    return f"diracx-task-run {words}" + ("" if namespace == Namespace().name else f" --namespace {namespace}")


def _run(status: Status, words: str) -> str:
    return command_line(status.namespace, words)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _missing(snapshot: StatusSnapshot) -> Iterator[Alert]:
    status = snapshot.status
    setup = _run(status, "setup")
    # An optional stream takes nothing away but its own answers.
    optional = [name for name in snapshot.missing if name.endswith("_HISTORY")]
    for kind, name in (("stream", "stream-missing"), ("bucket", "bucket-missing")):
        gone = [each for each in snapshot.missing if each.startswith(f"{kind} ") and each not in optional]
        if gone:
            yield _alert(name, f"{_listed(gone)} {'is' if len(gone) == 1 else 'are'} missing", setup)
    if optional:
        yield _alert("history-missing", f"{_listed(optional)} is missing: no history is kept", setup)
    # Consumers go with their stream, and come back with it.
    if any(each == f"stream {Namespace(status.namespace).tasks_stream}" for each in snapshot.missing):
        return
    if queues := [queue.name for queue in status.queues if queue.missing]:
        yield _alert("consumer-missing", f"no worker can take tasks from {_listed(queues)}: no such consumer", setup)


def _leaderless(snapshot: StatusSnapshot) -> Iterator[Alert]:
    """What tasks cannot run without. The other streams and buckets are among those that catch up."""
    names = Namespace(snapshot.status.namespace)
    vital = {f"stream {names.tasks_stream}", f"stream {names.later_stream}", f"bucket {names.locks_bucket}"}
    found = [each for each in snapshot.leaderless if each in vital]
    if f"stream {names.tasks_stream}" not in found:  # which takes its consumers with it
        found += [each for each in snapshot.leaderless if each.startswith("consumer ")]
    if found:
        text = f"{_listed(found)} {'has' if len(found) == 1 else 'have'} no leader: tasks that need it do not run"
        yield _alert("no-leader", text, "nats stream report")


def _storage(storage: StorageStatus | None) -> Iterator[Alert]:
    if storage is None or not storage.max_bytes or storage.bytes < NEARLY_FULL * storage.max_bytes:
        return
    used = f"{size(storage.bytes)} of {size(storage.max_bytes)} are used"
    if storage.bytes >= _FULL * storage.max_bytes:
        yield _alert("storage-full", f"the storage of the streams is full, {used}: writes fail", "nats account info")
    else:
        yield _alert("storage-filling", f"the storage of the streams is nearly full: {used}", "nats account info")


def _stream(status: Status, stream: StreamStatus) -> Iterator[Alert]:
    """Whether a stream that refuses messages has room. One that removes old ones is full as a rule."""
    used, most, option = stream.bytes, stream.max_bytes, "max-bytes"
    text = f"{size(used)} of {size(most)}" if most else ""
    if stream.max_messages and (not most or stream.messages / stream.max_messages > used / most):
        used, most, option = stream.messages, stream.max_messages, "max-msgs"
        text = f"{used:,} of {most:,} messages"
    if not stream.refuses or not most or used < NEARLY_FULL * most:
        return
    mend = f"nats stream edit {stream.name} --{option}={2 * max(used, most)} --force"
    bucket = stream.name.removeprefix("KV_")
    names = Namespace(status.namespace)
    what, full, filling = f"the stream {stream.name}", "stream-full", "stream-filling"
    if bucket != stream.name:
        what, full, filling = f"the bucket {bucket}", "bucket-full", "bucket-filling"
    # A message that does not fit is refused before the last byte is used.
    average = stream.bytes / max(1, stream.messages) if option == "max-bytes" else 1
    if used < _FULL * most and used + average <= most:
        yield _alert(filling, f"{what} is nearly full: {text}", mend)
    elif stream.name == names.dead_letters_stream:
        why = "no dead letter can be stored, and dead tasks stay in their queues: replay or purge some, or raise"
        yield _alert("dead-letters-full", f"{what} is full, {text}: {why} its limit", mend)
    else:
        effects = {names.tasks_stream: "tasks are refused", f"KV_{names.results_bucket}": "results cannot be kept"}
        yield _alert(full, f"{what} is full, {text}: {effects.get(stream.name, 'writes are refused')}", mend)


def _due(snapshot: StatusSnapshot) -> Iterator[Alert]:
    due, names = snapshot.due, Namespace(snapshot.status.namespace)
    if not due.count:
        return
    fallen = f"{_counted(due.count, 'task')} or more fell due and do not reach"
    problem = f": {due.problem}" if due.problem else ""
    text = f"{fallen} {names.tasks_stream}, which takes them from {names.later_stream}{problem}"
    yield _alert("due-not-sourced", text, f"nats stream info {names.tasks_stream}")


def _scheduler(snapshot: StatusSnapshot) -> Iterator[Alert]:
    status = snapshot.status
    if not snapshot.schedules or status.scheduler.leader is not None:
        return
    standbys = len(status.scheduler.standbys)
    there = f"{_counted(standbys, 'scheduler')} standing by" if standbys else "no scheduler answers"
    text = f"nobody leads, {there}: {_counted(snapshot.schedules, 'schedule')} will run dry"
    yield _alert("no-scheduler", text, _run(status, "locks list" if standbys else "scheduler"))


def _queues(snapshot: StatusSnapshot) -> Iterator[Alert]:
    status = snapshot.status
    paused = [queue for queue in status.queues if queue.paused_until is not None]
    if snapshot.workers_asked:
        served = {worker.size for worker in status.workers}
        idle = [queue for queue in status.queues if _unsettled(queue) and queue.size not in served]
        idle = [queue for queue in idle if queue not in paused]
        for size in dict.fromkeys(queue.size for queue in idle):
            tasks = ", ".join(_counted_tasks(queue) for queue in idle if queue.size == size)
            text = f"no worker of size {size} answers, and tasks wait: {tasks}"
            yield _alert("queue-not-served", text, _run(status, f"worker --worker-size {size}"))
    if paused:
        ends = {queue.name: pause_end_text(queue.paused_until) for queue in paused if queue.paused_until}
        text, which = ", ".join(f"{name} until {end}" for name, end in ends.items()), " ".join(ends)
        if len(ends) == len(status.queues) > 1 and len(set(ends.values())) == 1:
            text, which = f"all queues, each until {next(iter(ends.values()))}", "--all"
        yield _alert("queue-paused", f"paused: {text}", _run(status, f"resume {which}"))


def _unsettled(queue: QueueStatus) -> int:
    """Tasks that a worker has to take. Also a parked one: it stays so for good while no worker of its size pulls."""
    return queue.waiting + (queue.parked or 0)


def _counted_tasks(queue: QueueStatus) -> str:
    parked = f" ({queue.parked:,} parked)" if queue.parked else ""
    return f"{_counted(_unsettled(queue), 'task')} in {queue.name}{parked}"


def _workers(snapshot: StatusSnapshot) -> Iterator[Alert]:
    status = snapshot.status
    for gone in snapshot.gone:
        back = "" if gone.back_by is None else f", by {readable_time(gone.back_by)}"
        yield _alert(
            "worker-gone",
            f"{gone.id} {gone.evidence} and does not answer: if it is gone, its tasks count as parked, and come back "
            f"when their leases lapse{back}",
        )
    ahead = {worker.id: worker.clock_ahead_seconds for worker in status.workers}
    for process, seconds in (ahead | status.scheduler.clock_ahead_seconds).items():
        if seconds is not None and abs(seconds) > TOLERANCE.total_seconds():
            far = f"{duration(abs(seconds))} {'ahead of' if seconds > 0 else 'behind'}"
            yield _alert("wrong-clock", f"the clock of {process} is {far} the server's: synchronise its machine")
    for worker in status.workers:
        if worker.isolated:
            text = f"{worker.id} takes nothing else while it isolates {worker.isolated}, which may kill workers"
            task_id = shlex.quote(worker.isolated.partition(" ")[2])
            yield _alert("worker-isolated", text, _run(status, f"task {task_id}"))
    if status.catching_up:
        yield _alert("replicas-behind", f"catching up: {'; '.join(status.catching_up)}", "nats stream report")


def _tasks(status: Status) -> Iterator[Alert]:
    if status.dead_letters:
        yield _alert("dead-letters", f"{_counted(status.dead_letters, 'dead letter')} stored", _run(status, "dlq list"))
    reasons = {task: reason for worker in status.workers for task, reason in worker.not_served.items()}
    workers = Counter(task for worker in status.workers for task in worker.not_served)
    for task, count in sorted(workers.items()):
        yield _alert("task-not-served", f"{_counted(count, 'worker')} cannot serve {task}: {reasons[task]}")
    if status.held:
        held = [each.task if each.vo is None else f"{each.task} of {each.vo}" for each in status.held]
        yield _alert("task-held", f"the configuration holds {', '.join(held)}", _run(status, "config show"))
