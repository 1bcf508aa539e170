"""The overview: alerts, totals, the nine queues, workers and scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.datastructures import QueryParams

from diracx.tasks.dashboard import words
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages import Page, View
from diracx.tasks.dashboard.pages.trends import SPANS, plots
from diracx.tasks.plumbing.clock import TOLERANCE
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.consumer_pause import pause_end_text
from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample, rate_in, rate_out, seconds_to_empty
from diracx.tasks.plumbing.operations.status_document import QueueStatus, StatusSnapshot, WorkerStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCell:
    """One queue in the matrix."""

    name: str
    waiting: int
    in_flight: int
    parked: int | None
    oldest_seconds: float | None
    rate_in: float | None = None
    rate_out: float | None = None
    empty_in: str = words.NOTHING
    note: str = ""
    paused: bool = False
    missing: bool = False

    @property
    def state(self) -> str:
        """The class of its cell."""
        if self.missing or self.paused:
            return "halted"
        return "busy" if self.waiting or self.in_flight or self.parked else "idle"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One worker in its table."""

    id: str
    slots: int
    busy: int
    per_second: float | None
    last_pull: float | None
    memory: float | None
    since: datetime
    notes: list[str]

    @property
    def share(self) -> float:
        """Which part of its slots is in use."""
        return self.busy / self.slots if self.slots else 0.0


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """The workers of one size."""

    size: Size
    workers: list[WorkerRow]

    @property
    def slots(self) -> int:
        """All their slots."""
        return sum(worker.slots for worker in self.workers)

    @property
    def busy(self) -> int:
        """Their slots in use."""
        return sum(worker.busy for worker in self.workers)

    @property
    def share(self) -> float:
        """Which part of the slots is in use."""
        return self.busy / self.slots if self.slots else 0.0


def queue_matrix(snapshot: StatusSnapshot, load: Sample | None) -> list[tuple[Priority, list[QueueCell]]]:
    """The nine queues, a row for each priority.

    Args:
        load: The last half minute; None: its rates are not known.
    """
    by_place = {(queue.priority, queue.size): queue for queue in snapshot.status.queues}
    return [(priority, [_cell(by_place[priority, size], load) for size in Size]) for priority in Priority]


def _cell(queue: QueueStatus, load: Sample | None) -> QueueCell:
    note = ""
    if queue.missing:
        note = "missing"
    elif queue.paused_until is not None:
        note = f"paused until {pause_end_text(queue.paused_until)}"
    return QueueCell(
        name=queue.name,
        waiting=queue.waiting,
        in_flight=queue.in_hand,
        parked=queue.parked,
        oldest_seconds=queue.oldest_seconds,
        **_rates(None if load is None else load.queues.get(queue.name), 0.0 if load is None else load.seconds),
        note=note,
        paused=queue.paused_until is not None,
        missing=queue.missing,
    )


def _rates(queue: QueueSample | None, seconds: float) -> dict[str, Any]:
    if queue is None or seconds <= 0:
        return {}
    left = seconds_to_empty(queue, seconds)
    ends = "grows" if left is None and rate_in(queue, seconds) > rate_out(queue, seconds) else words.coarse(left)
    return {
        "rate_in": rate_in(queue, seconds),
        "rate_out": rate_out(queue, seconds),
        "empty_in": words.NOTHING if left == 0 else ends,
    }


def worker_groups(snapshot: StatusSnapshot) -> list[WorkerGroup]:
    """The workers by their size."""
    workers = snapshot.status.workers
    groups = [(size, [_row(worker) for worker in workers if worker.size == size]) for size in Size]
    return [WorkerGroup(size, rows) for size, rows in groups if rows]


def _row(worker: WorkerStatus) -> WorkerRow:
    return WorkerRow(
        id=worker.id,
        slots=worker.slots,
        busy=worker.busy,
        per_second=worker.per_second,
        last_pull=worker.last_pull_seconds,
        memory=worker.memory_bytes,
        since=worker.since,
        notes=list(_remarks(worker)),
    )


def _remarks(worker: WorkerStatus) -> Iterable[str]:
    if worker.isolated is not None:
        yield f"isolates {worker.isolated}"
    ahead = worker.clock_ahead_seconds
    if ahead is not None and abs(ahead) > TOLERANCE.total_seconds():
        yield f"clock {words.duration(abs(ahead))} {'ahead' if ahead > 0 else 'behind'}"
    yield from (f"gives back {task}: {why}" for task, why in worker.not_served.items())


def totals(snapshot: StatusSnapshot, load: Sample | None) -> list[tuple[str, str, str]]:
    """The figures of the whole mesh: name, value and an explanation.

    Args:
        load: The last half minute; None: it is not known what was done in it.
    """
    status = snapshot.status
    slots = words.count(sum(worker.slots for worker in status.workers))
    slots = f"of {slots} slots" if snapshot.workers_asked else ""
    parked = [queue.parked for queue in status.queues if queue.parked is not None]
    return [
        ("waiting", words.count(sum(queue.waiting for queue in status.queues)), ""),
        ("in flight", words.count(sum(queue.in_hand for queue in status.queues)), slots),
        ("parked", words.count(sum(parked) if parked else None), "for a retry or a lock"),
        ("delayed", words.count(status.delayed), "for later"),
        ("dead letters", words.count(status.dead_letters), ""),
        _done(load),
    ]


def _done(load: Sample | None) -> tuple[str, str, str]:
    # Not the deliveries of the workers: most of those may have been given back, for a busy lock for example.
    if load is None or load.seconds <= 0:
        return ("done", words.NOTHING, "")
    succeeded = sum(queue.succeeded for queue in load.queues.values())
    return ("done", words.rate(succeeded / load.seconds), f"over {words.duration(load.seconds)}")


async def view(mesh: Mesh, query: QueryParams) -> View:
    """The variables of the overview."""
    reading, history = await asyncio.gather(mesh.reading.get(), mesh.history.get())
    snapshot, load = reading.snapshot, reading.load
    upcoming = snapshot.status.next
    span = SPANS.get(query.get("span", ""), SPANS["hour"])
    return {
        "at": snapshot.at,
        "alerts": snapshot.status.alerts,
        "totals": totals(snapshot, load),
        "sizes": list(Size),
        "queues": queue_matrix(snapshot, load),
        "spans": SPANS,
        "span": span,
        "plots": plots(mesh.recent.joined(history.samples), snapshot.at, span),
        "kept": history.kept,
        "asked": snapshot.workers_asked,
        "worker_groups": worker_groups(snapshot),
        "scheduler": snapshot.status.scheduler,
        "next_occurrence": upcoming,
        "next_in": None if upcoming is None else max(0.0, (upcoming - snapshot.at).total_seconds()),
    }


PAGE = Page(
    name="overview",
    path="/",
    title="Overview",
    parts=("alerts", "totals", "queues", "plots", "workers", "scheduler"),
    view=view,
    query=("span",),
)
