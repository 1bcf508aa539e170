"""The occurrences of schedules: the ids of their tasks, and the record of how the latest run has ended.

The worker that ends an occurrence writes the record to the bucket `results`, under a key that no result has:

    run.<escaped schedule>    {"due": "2026-12-01T06:00:00Z", "outcome": "succeeded", "ended": "2026-12-01T06:00:02Z",
                               "duration": 1.72, "error": null, "worker": "host-7-small"}

Results have keys without a dot. A worker may write there anyway, and the key ends by itself when the schedule is no
more. A mesh with workers that know no such record lacks it; nothing but a list for people rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from diracx.tasks.plumbing.wire.envelope import TASK_DUE, TASK_ID, TASK_NAME
from diracx.tasks.plumbing.wire.names import escape
from diracx.tasks.plumbing.wire.times import from_rfc3339


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the latest run of a schedule has ended. These fields, in this order, are the JSON in the bucket."""

    due: datetime
    """When the occurrence was due."""
    outcome: str
    """`succeeded`, `retry`, `failed`, `dead`, `expired` or `cancelled`."""
    ended: datetime
    """By the server's clock."""
    duration: float
    """Seconds from its delivery to its end."""
    error: str | None = None
    """The class of the exception; None: it raised none."""
    worker: str = ""


def due_name(due: datetime) -> str:
    """A due time as a part of subjects and ids: `20261201T060000Z`; with microseconds only if there are any."""
    text = due.astimezone(UTC).strftime("%Y%m%dT%H%M%S")
    return f"{text}_{due.microsecond:06}Z" if due.microsecond else f"{text}Z"


def occurrence_of(headers: Mapping[str, str]) -> tuple[str, datetime] | None:
    """The schedule whose occurrence a message is, as its `ScheduleKey` is written, and when it was due; None: the
    message is no occurrence."""
    try:
        name, task_id, due = headers[TASK_NAME], headers[TASK_ID], from_rfc3339(headers[TASK_DUE])
        end = f"-{due_name(due)}"
    except (KeyError, ValueError, OverflowError):
        return None
    schedule = task_id.removesuffix(end)
    return (schedule, due) if schedule != task_id and name and schedule.startswith(name) else None


def run_key(schedule: str) -> str:
    """The key of the record of a schedule in the bucket `results`."""
    return f"run.{escape(schedule)}"
