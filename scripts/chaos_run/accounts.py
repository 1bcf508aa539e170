"""Accounts for every task: how it ended, and which disturbance explains each repeated execution."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass

import exclusion
import lateness
import occurrences
from chaos_tasks import KINDS, LOCK_SECONDS, RETRIES, Child, Follows, GivesUp, Locked, Recovers, Spawns, Ticks, Urgent
from diracx.tasks.plumbing.groups.records import callback_id
from disturbances import Disturbances
from groups import members, problems
from journal import Execution, Journal
from ledger import Ledger

_ALWAYS_FAIL = {kind.__name__ for kind in KINDS if kind.always_fails}
_MAY_FAIL = _ALWAYS_FAIL | {Recovers.__name__, Spawns.__name__}
URGENT = {Ticks.__name__, Urgent.__name__}
_RETRY = "a retry by its policy"


@dataclass(frozen=True)
class Submission:
    """A task whose submission the server has acknowledged."""

    kind: str
    due: float | None = None
    """When its schedule fires, in seconds of CLOCK_BOOTTIME; None for a task that was submitted to run at once."""


class Accountant:
    """Makes the ledger of a run.

    Args:
        dead: Ids of the tasks that have a dead letter.
        queued: How many tasks are not settled.
        cancelled: Ids of tasks that were cancelled while they might wait or run.
        scheduled_until: When the schedulers were stopped; None if there were none.
    """

    def __init__(
        self,
        journal: Journal,
        disturbances: Disturbances,
        dead: Collection[str],
        queued: int,
        cancelled: Collection[str] = (),
        scheduled_until: float | None = None,
    ) -> None:
        self._journal = journal
        self._disturbances = disturbances
        self._dead = dead
        self._cancelled = cancelled
        self._scheduled_until = scheduled_until
        self._ledger = Ledger(queued=queued)

    def account(self, submitted: dict[str, Submission]) -> Ledger:
        """Account for all tasks.

        Args:
            submitted: The submissions of the producer, by task id.
        """
        children = itertools.chain.from_iterable(self._journal.children.values())
        announced = submitted | dict.fromkeys(children, Submission(Child.__name__)) | self._grouped()
        announced |= self._occurrences()
        self._ledger.submitted = len(announced)
        self._ledger.unannounced = len(self._journal.executions.keys() - announced.keys())
        for task_id in announced.keys() | self._journal.executions.keys():
            executions = self._journal.executions.get(task_id, [])
            submission = announced.get(task_id) or Submission(executions[0].kind)
            self._account_for(task_id, submission, executions)
        self._ledger.groups = len(self._journal.groups)
        self._ledger.unexplained += problems(self._journal)
        self._ledger.holders = sum(map(len, exclusion.held(self._journal).values()))
        self._ledger.unexplained += exclusion.problems(self._journal, self._disturbances)
        self._ledger.late = self._lateness(announced, urgent=False)
        self._ledger.late_urgent = self._lateness(announced, urgent=True)
        return self._ledger

    def _lateness(self, announced: dict[str, Submission], *, urgent: bool) -> lateness.Lateness:
        """How late those tasks began that were due at a time."""
        dues = {
            task_id: each.due
            for task_id, each in announced.items()
            if each.due is not None and (each.kind in URGENT) is urgent
        }
        return lateness.measure(self._journal, dues, self._disturbances.server_outages)

    def _occurrences(self) -> dict[str, Submission]:
        """The occurrences of the schedule that ran."""
        found = occurrences.account(self._journal, self._disturbances, self._scheduled_until)
        self._ledger.occurrences, self._ledger.missed = len(found.due), len(found.missed)
        self._ledger.unexplained += found.unexplained
        return {task_id: Submission(Ticks.__name__, due) for task_id, due in found.due.items()}

    def _grouped(self) -> dict[str, Submission]:
        """The children and callbacks of all groups."""
        found = {}
        for group, spawned in self._journal.groups.items():
            for task_id in members(group, spawned.children):
                runs = self._journal.executions.get(task_id)
                kind = Follows.__name__ if task_id == callback_id(group) else "a child of a group"
                found[task_id] = Submission(runs[0].kind if runs else kind)
        return found

    def _account_for(self, task_id: str, submission: Submission, executions: list[Execution]) -> None:
        self._count_end(task_id, submission.kind, executions)
        causes = [self._cause(before, after, submission.due) for before, after in itertools.pairwise(executions)]
        self._ledger.retries += causes.count(_RETRY)
        repeats = [cause for cause in causes if cause != _RETRY]
        if not repeats:
            self._ledger.once += any(run.end in ("done", "failed") for run in executions)
            return
        self._ledger.repeats.update(repeats)
        self._ledger.repeated[repeats[0]] += 1
        self._ledger.overlaps += sum(
            after.begun < before.ended and before.end is not None for before, after in itertools.pairwise(executions)
        )

    def _count_end(self, task_id: str, kind: str, executions: list[Execution]) -> None:
        what = f"{kind} {task_id}"
        failed = sum(run.end == "failed" for run in executions)
        if failed and kind not in _MAY_FAIL:
            self._ledger.failures.append(f"{what}: {_describe(executions)}")
        gave_up = any(run.end == "failed" and run.retry_at is None for run in executions)
        if any(run.end == "done" and not self._came_late(run) for run in executions):
            if task_id in self._dead:
                self._ledger.unexplained.append(f"{what} was done and has a dead letter")
            elif kind in _ALWAYS_FAIL:
                self._ledger.unexplained.append(f"{what} was done, and should have failed")
        elif task_id in self._dead:
            self._ledger.dead += 1
            if kind not in _ALWAYS_FAIL or failed <= RETRIES:
                self._ledger.unexplained.append(f"{what} has a dead letter after {failed} failures")
        elif kind == GivesUp.__name__ and gave_up:
            self._ledger.dropped += 1
        elif task_id in self._cancelled:
            self._ledger.cancelled += 1
        elif not self._ledger.queued:
            self._ledger.lost.append(f"{what}: {_describe(executions)}")

    def _came_late(self, run: Execution) -> bool:
        """Whether a task that always fails had no time to: its worker was stopped, and another one has the message."""
        return run.kind in _ALWAYS_FAIL and self._disturbances.stop_within(run.pid, run.begun, run.ended)

    def _cause(self, before: Execution, after: Execution, due: float | None) -> str:
        counted_on = after.attempt == before.attempt + 1
        if before.retry_at is not None and after.begun >= before.retry_at and (counted_on or after.attempt < 0):
            return _RETRY
        cause = None
        # What cancels itself, or is cancelled by its timeout, has not ended before its failure is written.
        may_go_on = before.end == "cancelled" and before.kind in _ALWAYS_FAIL
        if before.end is None or may_go_on:
            cause = self._disturbances.cause_of_no_end(before.pid, before.begun)
        # If its failure was recorded and the time of the retry was not, no disturbance excuses that.
        recorded = before.end == "failed" and counted_on
        if before.end == "cancelled" and before.kind == Locked.__name__:
            cause = self._disturbances.cause_of_lost_lock(before.pid, before.ended, LOCK_SECONDS)
        if cause is None and before.end is not None and not recorded:
            cause = self._disturbances.cause_of_forgotten_end(
                before.pid, before.begun, before.ended, before.kind in URGENT
            )
        if cause is None and due is not None:
            cause = self._disturbances.cause_of_second_firing(due)
        if cause is None:
            self._ledger.unexplained.append(f"{before.kind} {before.task_id}: {_describe([before, after])}")
        return cause or "unexplained"


def _describe(executions: list[Execution]) -> str:
    return (
        "; ".join(
            f"worker {run.pid} from {run.begun:.3f} to {run.ended:.3f} {run.end or 'without an end'}"
            + (f", attempt {run.attempt}, retry at {run.retry_at}" if run.end == "failed" else "")
            for run in executions
        )
        or "never begun"
    )
