"""`diracx-task-run history`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import rich_click as click

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.queues import Queues
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.tables import print_table
from diracx.tasks.plumbing.operations.figures import duration
from diracx.tasks.plumbing.operations.history import History, HistoryReader
from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample, added, in_steps, percentile

MAX_ROWS: Final = 30
"""A table without --step has no more."""
MAX_STEPS: Final = 50_000
"""More rows are refused: they would be no list to read."""
_STEPS: Final = tuple(timedelta(minutes=each) for each in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1_440))
_COLUMNS: Final = (
    *("from", "in/min", "done/min", "retried", "dead", "dropped", "cancelled", "wait p50", "p95"),
    *("waiting", "parked", "busy", "workers"),
)


class HistoryRow(msgspec.Struct, kw_only=True):
    """What happened in one step. These fields, in this order, are those of `history --json`."""

    start: datetime
    seconds: float
    """The time that was sampled in the step: less than its length where the history has gaps."""
    submitted: int
    succeeded: int
    retried: int
    dead: int
    dropped: int
    cancelled: int
    wait_p50: float | None
    """The median of the queue wait in seconds; None: no task was delivered first."""
    wait_p95: float | None
    waiting: int
    """At the end of the step, as all that follows."""
    in_flight: int
    parked: int
    delayed: int
    dead_letters: int
    workers: int
    slots: int
    busy: int
    leader: bool
    """Whether a scheduler leads."""


def command(*, since: timedelta, step: timedelta | None, queues: Sequence[str], as_json: bool, access: Access) -> None:
    names = Queues(tuple(queues), everything=False).names(namespace_of(access)) if queues else ()
    length = step or (_STEPS[0] if as_json else next((each for each in _STEPS if since / each <= MAX_ROWS), _STEPS[-1]))
    if since / length > MAX_STEPS:
        raise click.BadParameter(f"{since / length:,.0f} rows; at most {MAX_STEPS:,}", param_hint=["--step"])
    history, end = asyncio.run(_read(access, since))
    rows = rows_of(history.samples, end - since, end, length, names)
    if as_json:
        print_document(rows)
    elif rows:
        print_table(_COLUMNS, [_cells(each) for each in rows])
    if not history.kept:
        note("no history is kept: create its stream with `diracx-task-run setup`")
    elif not rows:
        note(f"no history of the last {duration(since.total_seconds())}: did a scheduler run?")


async def _read(access: Access, since: timedelta) -> tuple[History, datetime]:
    async with operator_connection(access, "history") as connection:
        now = connection.clock.now()
        return await HistoryReader(connection, namespace_of(access)).since(now - since), now


def rows_of(
    samples: Sequence[Sample], start: datetime, end: datetime, step: timedelta, queues: Collection[str] = ()
) -> list[HistoryRow]:
    """The rows of a time, the oldest first; steps without a sample are left out.

    Args:
        step: The length of a row. Rows begin at its multiples since the epoch.
        queues: The queues that count; empty: all.
    """
    length = step.total_seconds()
    first = datetime.fromtimestamp(start.timestamp() // length * length, UTC)
    steps = int((end - first) / step) + 1
    found = in_steps(samples, first, first + steps * step, steps)
    return [_row(first + number * step, sample, queues) for number, sample in enumerate(found) if sample is not None]


def _row(start: datetime, sample: Sample, names: Collection[str]) -> HistoryRow:
    queues = [queue for name, queue in sample.queues.items() if not names or name in names]
    wait = added(queue.wait for queue in queues)
    workers = sample.workers.values()
    summed = ("submitted", "succeeded", "retried", "dead", "dropped", "cancelled", "waiting", "in_flight", "parked")
    return HistoryRow(
        start=start,
        seconds=sample.seconds,
        wait_p50=percentile(wait, 0.5),
        wait_p95=percentile(wait, 0.95),
        delayed=sample.delayed,
        dead_letters=sample.dead_letters,
        workers=sum(each.workers for each in workers),
        slots=sum(each.slots for each in workers),
        busy=sum(each.busy for each in workers),
        leader=sample.leader,
        **{name: _sum(queues, name) for name in summed},
    )


def _sum(queues: Iterable[QueueSample], field: str) -> Any:
    return sum(getattr(queue, field) for queue in queues)


def _cells(row: HistoryRow) -> list[object]:
    minutes = row.seconds / 60 or 1.0
    return [
        row.start,
        f"{row.submitted / minutes:,.1f}",
        f"{row.succeeded / minutes:,.1f}",
        *(row.retried or None, row.dead or None, row.dropped or None, row.cancelled or None),
        *(None if each is None else duration(each) for each in (row.wait_p50, row.wait_p95)),
        *(row.waiting, row.parked, f"{row.busy}/{row.slots}", row.workers),
    ]
