"""What is known of one task: the document of `task --json`, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from diracx.tasks.plumbing.operations.locks import LockHolder
from diracx.tasks.plumbing.wire.failure import Failure


class State(StrEnum):
    """Where a task is, in one word."""

    DELAYED = "delayed"
    """It waits for its time, or a callback for its group."""
    WAITING = "waiting"
    """In its queue; no worker has had it."""
    PARKED = "parked"
    """In its queue; a worker gave it back, for a retry, a lock, or another reason."""
    RUNNING = "running"
    """A worker has it in flight."""
    DEAD = "dead"
    """It is a dead letter."""
    DONE = "done"
    """It has ended: its result, or its group, says how."""
    CANCELLED = "cancelled"
    """An operator has cancelled it, and it is nowhere any more."""
    FAILED = "failed"
    """An execution failed, whatever became of the task then. Only a search has this state."""
    GROUP = "group"
    """The id is that of a group."""
    UNKNOWN = "unknown"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that has the task in flight."""

    worker: str
    since: datetime
    attempt: int
    state: str
    """See `InFlightTask.state`."""
    cancelled_since: datetime | None
    cancelled_for: str | None
    blocked_at: str | None


class BusyLock(msgspec.Struct, frozen=True, kw_only=True):
    """A lock that the task takes, and that others hold."""

    key: str
    """The argument of `locks release`."""
    kind: str
    holders: list[LockHolder]
    limit: int | None
    """How many may hold it; None: one, or one writer."""
    expires_in: float | None
    """Seconds until its last key expires if it is not renewed; None: never."""


class DeadTask(msgspec.Struct, frozen=True, kw_only=True):
    """Its dead letter."""

    seq: int
    """The argument of `dlq show`."""
    reason: str
    died: datetime


class CancellationNote(msgspec.Struct, frozen=True, kw_only=True):
    """An operator has cancelled the task."""

    kind: str
    """`id`, `task` or `group`: what was cancelled."""
    key: str
    at: datetime
    """By the server's clock."""
    by: str | None


class PastDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery of the task that ended, and was no success, as its worker remembers it."""

    task: str
    """Its name."""
    worker: str
    at: datetime
    """When it ended."""
    seconds: float
    """How long the worker had it."""
    attempt: int
    """1 at the first execution. Only failed ones raise the count."""
    outcome: str
    """One word, see `EndedTask.outcome`."""
    error: str
    """The type of the error; empty if the task raised none."""
    message: str
    """The message of the error, else the reason."""
    status: str | None
    """How the task has ended with it: `failed`, `expired` or `cancelled`; None: it went on, or that is not known."""


class ResultError(msgspec.Struct, frozen=True):
    """The error in a kept result."""

    type: str = ""
    message: str = ""
    traceback: str = ""


class KeptResult(msgspec.Struct, frozen=True, kw_only=True):
    """The kept result of the task."""

    task: str | None = None
    status: str
    """`succeeded`, `failed`, `expired` or `cancelled`."""
    value: Any = None
    problem: str | None = None
    """Why its value was not kept; None: it was."""
    error: ResultError | None = None
    ended: datetime | None = None
    worker: str | None = None


class GroupState(msgspec.Struct, frozen=True, kw_only=True):
    """A group of tasks."""

    id: str
    parent: str | None
    """The id of the task that spawned it."""
    spawned: datetime
    fires: datetime
    """When its callback runs at the latest."""
    children: int
    counts: Mapping[str, int]
    """How many children are `waiting` (they have not ended), `succeeded`, `failed`, `expired`, `cancelled`. Empty: the
    records of its parts have expired."""
    callback: str
    """The name of the task that runs after the children."""
    callback_id: str
    ended: str | None
    """Why the callback was let go: `complete`, `expired` or `cancelled`; None: it waits."""
    ended_at: datetime | None


class TaskDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One task, or one group. These fields, in this order, are those of `task --json`."""

    id: str
    state: State
    why: list[str]
    """Where it is and why it does not run, in sentences; the most important first."""
    status: str | None = None
    """How it has ended: `succeeded`, `failed`, `expired` or `cancelled`; None: it has not, or that is not known."""
    until: datetime | None = None
    """When it runs at the earliest; None: as soon as it can."""
    task: str | None = None
    queue: str | None = None
    """`<priority>-<size>`."""
    sequence: int | None = None
    """Of its message, in the stream of tasks."""
    place: int | None = None
    """Its place in its queue, 1 for the next one; None: it does not wait for its first delivery."""
    args: Any = None
    """The fields of the task as JSON; None also if the body is not JSON."""
    labels: dict[str, Any] = {}
    submitted: datetime | None = None
    due: datetime | None = None
    expires: datetime | None = None
    attempts: int = 0
    """Executions that failed, or whose process died."""
    errors: list[Failure] = []
    """The latest error is the last."""
    running: list[Running] = []
    locks: list[BusyLock] = []
    parent: str | None = None
    group: str | None = None
    """The id of the group of which it is a child."""
    index: int | None = None
    """Its place in that group."""
    callback_of: str | None = None
    """The id of the group after which it runs."""
    cancelled: CancellationNote | None = None
    dead_letter: DeadTask | None = None
    result: KeptResult | None = None
    groups: list[GroupState] = []
    """The group that the id names, or those that the task has spawned."""
    trace_id: str | None = None
    """The trace to which it belongs (W3C Trace Context)."""
    replayed: datetime | None = None
    """When it was put back into its queue after it was a dead letter; None: it was not, or that is not known."""
    deliveries: int = 0
    """How often the server had delivered it when its attempts were written down last; 0: nothing was."""
    past: list[PastDelivery] = []
    """Its latest deliveries that ended and were no successes, the earliest first, as the workers that run now remember
    them."""
