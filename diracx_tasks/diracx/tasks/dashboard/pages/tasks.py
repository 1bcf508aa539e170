"""The tasks that run, those that are parked, those that failed of late, and a search."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.datastructures import QueryParams

from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages import Page, View
from diracx.tasks.plumbing.exceptions import near_names
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.operations.in_flight import WorkerTasks
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_search import STATES, SearchResult, Wanted
from diracx.tasks.plumbing.worker.snapshot import InFlightTask

MAX_SHOWN: Final = 200
"""More tasks of one kind are counted, not listed."""
MAX_ARGS_CHARS: Final = 200
ALL_STATES: Final = "all"


@dataclass(frozen=True, slots=True)
class RunningRow:
    """One task that runs."""

    worker: str
    task: InFlightTask
    queue: str
    remarks: list[str]


def running_rows(mesh: Mesh, workers: Sequence[WorkerTasks], text: str) -> list[RunningRow]:
    """The tasks in flight whose name, id or arguments contain a text; those that run longest first."""
    rows = []
    for worker in workers:
        for task in worker.tasks:
            if text in task.task or text in task.id or text in (task.args or ""):
                place = mesh.namespace.queue_of(task.subject)
                queue = "" if place is None else "-".join(place)
                rows.append(RunningRow(worker.worker, task, queue, _remarks(task)))
    return sorted(rows, key=lambda row: row.task.since)


def _remarks(task: InFlightTask) -> list[str]:
    said = [] if task.state == "executing" else [task.state]
    if task.cancelled_since is not None:
        said.append(f"was told to end: {task.cancelled_for}")
    if task.blocked_at is not None:
        said.append(f"does not yield: {task.blocked_at}")
    return said


@dataclass(frozen=True, slots=True)
class SearchForm:
    """What was asked for, as the form shows it."""

    state: str
    name: str
    label: str
    problem: str | None
    wanted: Wanted | None
    """None: nothing was asked for, or it cannot be read."""


def search_form(query: QueryParams) -> SearchForm:
    """Read the search form."""
    state, name, label = query.get("state", ""), query.get("name", "").strip(), query.get("label", "").strip()
    key, equals, value = label.partition("=")
    problem = None
    if label and not (equals and key):
        problem = "A label is written as name=value"
    elif state and state != ALL_STATES and state not in STATES:
        problem = "There is no such state"
    if problem is not None or not (state or name or label):
        return SearchForm(state, name, label, problem, None)
    states = STATES if state in ("", ALL_STATES) else (State(state),)
    labels = {key: value} if label else {}
    return SearchForm(state, name, label, None, Wanted(states, name or None, labels, MAX_SHOWN))


async def view(mesh: Mesh, query: QueryParams) -> View:
    """The variables of the page."""
    form = search_form(query)
    # At once: each of them asks the workers, and waits for the last that answers.
    found, running, parked, failures = await asyncio.gather(
        _found(mesh, form), _running(mesh), mesh.parked.get(), _failures(mesh)
    )
    shown = {"form": form, "found": found, "states": STATES, "parked": parked, "brief": brief}
    shown["meant"] = _meant(mesh, form.name) if found is not None and not found.tasks else []
    return {**shown, **running, **failures}


def _meant(mesh: Mesh, name: str) -> list[str]:
    """The names that somebody may have meant with one of which no task was found; a name is searched as a whole."""
    known = {task.name for task in mesh.registry}
    return [] if not name or name in known else near_names(name, sorted(known))


async def _found(mesh: Mesh, form: SearchForm) -> SearchResult | None:
    return None if form.wanted is None else await mesh.search(form.wanted)


async def _running(mesh: Mesh) -> dict[str, Any]:
    try:
        workers = await mesh.in_flight.get()
    except PermissionDeniedError as error:
        return {"running": [], "silent": [], "left_off": 0, "why_not": str(error)}
    rows = running_rows(mesh, workers, "")
    left_off = sum(worker.left_off for worker in workers) + max(0, len(rows) - MAX_SHOWN)
    silent = [worker.worker for worker in workers if not worker.answered]
    return {"running": rows[:MAX_SHOWN], "silent": silent, "left_off": left_off, "why_not": None}


async def _failures(mesh: Mesh) -> dict[str, Any]:
    try:
        return {"failures": await mesh.failures.get(), "no_failures": "No failure that a running worker remembers."}
    except PermissionDeniedError as error:
        return {"failures": [], "no_failures": f"What failed cannot be told: {error}."}


def brief(args: object) -> str:
    """Arguments in one line, cut."""
    if args is None:
        return ""
    text = args if isinstance(args, str) else msgspec.json.encode(args).decode()
    return text if len(text) <= MAX_ARGS_CHARS else f"{text[:MAX_ARGS_CHARS]}..."


PAGE = Page(
    name="tasks",
    path="/tasks",
    title="Tasks",
    parts=("results", "running", "parked", "failures"),
    view=view,
    query=("state", "name", "label"),
    every=3.0,
)
