"""Accounts for the schedule of a run that fires each second: which occurrences ran, and why the others did not."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from chaos_tasks import Ticks
from diracx.tasks.plumbing.clock import boottime
from disturbances import Disturbances
from journal import Journal

LIFETIME = 5.0
"""How long an occurrence waits for a worker, in seconds, before it gives way to a later one."""
NOTICED_SECONDS = 3.0
"""How long after an outage a delivery may still suffer from it: clients connect again, sources are set up."""


@dataclass
class Occurrences:
    """The occurrences of `Ticks`; times in seconds of CLOCK_BOOTTIME."""

    due: dict[str, float] = field(default_factory=dict)
    """Those that ran, by task id."""
    missed: list[float] = field(default_factory=list)
    """Those that expired beside a disturbance: a later one ran in their place."""
    unexplained: list[str] = field(default_factory=list)


def account(journal: Journal, disturbances: Disturbances, until: float | None) -> Occurrences:
    """Account for all occurrences between the first and the last that ran.

    Args:
        until: When the schedulers were stopped; None if there were none.
    """
    found = Occurrences(
        {task: due_of(task) for task, runs in journal.executions.items() if runs[0].kind == Ticks.__name__}
    )
    if until is None:
        return found
    if not found.due:
        found.unexplained.append("no occurrence of the schedule ran")
        return found
    ran = {round(due) for due in found.due.values()}
    offset = min(found.due.values()) - min(ran)
    for second in range(min(ran), round(until - LIFETIME)):
        if second in ran:
            continue
        if _is_excused(second + offset, disturbances):
            found.missed.append(second + offset)
        else:
            found.unexplained.append(f"the occurrence due at {second + offset:.3f} did not run")
    return found


def due_of(task_id: str) -> float:
    """When an occurrence was due."""
    due = datetime.strptime(task_id.rpartition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return due.timestamp() - time.time() + boottime()


def _is_excused(due: float, disturbances: Disturbances) -> bool:
    """Whether an occurrence may have expired: a server was away, or the worker that had it was killed or stopped."""
    spans = [*disturbances.server_outages, *disturbances.worker_kills.values()]
    for more in (*disturbances.stops.values(), *disturbances.cuts.values()):
        spans += more
    return any(span.begun <= due + LIFETIME and due <= span.ended + NOTICED_SECONDS for span in spans)
