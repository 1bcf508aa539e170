"""The schedules of periodic tasks: what is due in the next 24 hours, how the last run ended, and why one is not due."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from markupsafe import Markup
from starlette.datastructures import QueryParams

from diracx.tasks.dashboard import timeline
from diracx.tasks.dashboard.mesh import Mesh, Shared
from diracx.tasks.dashboard.pages import Page, View
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.operations.in_flight import WorkerTasks
from diracx.tasks.plumbing.operations.schedules import ListedSchedule, ScheduleReader, Schedules, occurrences
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, occurrence_id

MAX_STRIPS: Final = 60
MAX_ROWS: Final = 500
FRESH_SECONDS: Final = 3.0
_TONES: Final = {"succeeded": "good", "failed": "bad", "dead": "bad"}
"""The class of an outcome; of any other it is `warning`."""


@dataclass(frozen=True, slots=True)
class Read:
    """What was read at one time."""

    schedules: Schedules
    days: list[list[datetime]]
    """The occurrences of each listed schedule in the next 24 hours; of one with more than `MOST_MARKS` the first."""


class ScheduleFacts:
    """Reads the schedules of a mesh for all viewers."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._reader = ScheduleReader(mesh.connection, mesh.namespace, mesh.registry)
        self._days: dict[tuple[str, datetime], list[datetime]] = {}
        """What the rules said last: they are the code of authors, and are not asked twice."""
        self._shared = Shared[Read](self._read, FRESH_SECONDS)

    async def get(self) -> Read:
        """The schedules, some seconds old at the most."""
        return await self._shared.get()

    async def _read(self) -> Read:
        schedules = await self._reader.read()
        now = self._mesh.connection.clock.now()
        until = timeline.start_of(now) + timedelta(hours=timeline.HOURS)
        pairs = list(zip(schedules.listed, schedules.rules, strict=True))[:MAX_STRIPS]
        # Not on the loop of the pages: a rule may take its time.
        days = await asyncio.to_thread(self._ask_rules, pairs, until)
        return Read(schedules, days)

    def _ask_rules(self, pairs: Sequence[tuple[ListedSchedule, Rule]], until: datetime) -> list[list[datetime]]:
        asked: dict[tuple[str, datetime], list[datetime]] = {}
        days: list[list[datetime]] = []
        for listed, rule in pairs:
            if listed.next is None:
                days.append([])
                continue
            key = rule.words, listed.next.replace(microsecond=0)
            known = asked.get(key) or self._days.get(key)
            if known is None or (len(known) <= timeline.MOST_MARKS and (not known or known[-1] < until)):
                known = occurrences(rule, listed.next, until, timeline.MOST_MARKS + 1)
            asked[key] = known
            days.append(known)
        self._days = asked
        return days

    def forget(self) -> None:
        """See `Facts`."""
        self._shared.forget()

    async def end(self) -> None:
        """See `Facts`."""
        await self._shared.end()


@dataclass(frozen=True, slots=True)
class Row:
    """One schedule."""

    schedule: ListedSchedule
    args: str
    last_id: str | None
    """The id of the latest occurrence that has fallen due."""
    runs_on: str | None
    """The worker that has it in flight; None: none says so."""
    tone: str
    """The class of the outcome of the latest run: `good`, `bad` or `warning`."""


@dataclass(frozen=True, slots=True)
class Strip:
    """The day of one schedule."""

    label: str
    words: str
    """The schedule in words."""
    svg: Markup


def last_run(schedule: ListedSchedule) -> str | None:
    """The id of the last run of a schedule; None: there was none."""
    key = ScheduleKey(schedule.task, schedule.vo or "", schedule.entry or "")
    return None if schedule.last is None else occurrence_id(key, schedule.last)


def label_of(schedule: ListedSchedule) -> str:
    """The name of one schedule: its task, its VO and its entry."""
    return " ".join(filter(None, (schedule.task, schedule.vo and f"for {schedule.vo}", schedule.entry)))


def row_of(schedule: ListedSchedule, workers: Sequence[WorkerTasks]) -> Row:
    """One row of the list."""
    wanted = last_run(schedule)
    runs_on = next((worker.worker for worker in workers for task in worker.tasks if task.id == wanted), None)
    args = msgspec.json.encode(schedule.args).decode() if schedule.args else ""
    tone = "" if schedule.ran is None else _TONES.get(schedule.ran.outcome, "warning")
    return Row(schedule, args, wanted, runs_on, tone)


def strips_of(read: Read, now: datetime) -> list[Strip]:
    """The days of the enabled schedules."""
    start = timeline.start_of(now)
    return [
        Strip(label_of(listed), listed.schedule, timeline.strip(day, start, now))
        for listed, day in zip(read.schedules.listed, read.days, strict=False)
        if listed.next is not None
    ]


async def _workers(mesh: Mesh) -> list[WorkerTasks]:
    """What runs; nothing for a user who may not ask the workers: the rest of the page does not depend on it."""
    try:
        return await mesh.in_flight.get()
    except PermissionDeniedError:
        return []


async def view(mesh: Mesh, query: QueryParams) -> View:
    """What the page shows."""
    read, workers = await asyncio.gather(mesh.facts(ScheduleFacts).get(), _workers(mesh))
    now = mesh.connection.clock.now()
    listed = sorted([*read.schedules.listed, *read.schedules.without_vo], key=lambda each: each.task)
    shown: dict[str, Any] = {
        "rows": [row_of(each, workers) for each in listed[:MAX_ROWS]],
        "total": len(listed),
        "runs_problem": read.schedules.runs_problem,
        "problems": bool(mesh.registry.problems),
        "strips": strips_of(read, now),
        "drawn": MAX_STRIPS,
        "hours": timeline.hours_of(timeline.start_of(now)),
    }
    return shown


PAGE = Page(
    name="schedules", path="/schedules", title="Schedules", parts=("day", "list"), view=view, every=FRESH_SECONDS
)
