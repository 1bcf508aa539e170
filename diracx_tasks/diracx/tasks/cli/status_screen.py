"""How a status looks: one screen on a terminal, aligned text without frames and colours elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from diracx.tasks.cli.output import aligned, printable
from diracx.tasks.plumbing.status import Glance, QueueStatus, WorkerStatus

_QUEUES: Final = ("queue", "waiting", "in hand", "parked", "redelivered", "oldest")
_WORKERS: Final = ("worker", "size", "busy", "tasks/s", "last pull", "up")
_LINES_BESIDE_WORKERS: Final = 21
_FEWEST_WORKERS: Final = 3


def duration(seconds: float) -> str:
    """A duration in its two largest units, e.g. `2 h 5 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    for unit, size, smaller, fraction in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // fraction} {smaller}"
    raise AssertionError(seconds)


def _clock(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")


def _queue_cells(glance: Glance, queue: QueueStatus) -> list[str]:
    parked = "?" if glance.parked is None else str(glance.parked.get(queue.subject, 0))
    oldest = "" if queue.oldest_seconds is None else duration(queue.oldest_seconds)
    name = f"{queue.priority:<10} {queue.size}"
    return [name, str(queue.waiting), str(queue.in_hand), parked, str(queue.redelivered), oldest]


def _worker_cells(glance: Glance, worker: WorkerStatus) -> list[str]:
    pull = glance.last_pull.get(worker.id)
    return [
        printable(f"{worker.host} {worker.pid}"),
        str(worker.size),
        f"{worker.busy}/{worker.slots}",
        f"{glance.per_second.get(worker.id, 0.0):.1f}",
        "never" if pull is None else f"{duration(pull)} ago",
        duration(max(0.0, (glance.at - worker.since).total_seconds())),
    ]


def _summary(glance: Glance) -> list[tuple[str, str]]:
    """What there is besides queues and workers, as names and values."""
    status = glance.status
    scheduler = status.scheduler
    standbys = len(scheduler.standbys)
    lead = f"{printable(scheduler.leader)} leads" if scheduler.leader else "nobody leads"
    coming = "none known"
    if glance.next_occurrence is not None:
        ahead = max(0.0, (glance.next_occurrence - glance.at).total_seconds())
        coming = f"{_clock(glance.next_occurrence)}, in {duration(ahead)}"
    return [
        ("delayed", str(status.delayed)),
        ("dead letters", str(status.dead_letters)),
        ("locks", str(status.locks)),
        ("scheduler", f"{lead}; {standbys} standing by"),
        ("next", coming),
    ]


def plain(glance: Glance) -> str:
    """As text, for pipes and files; every worker is in it."""
    status = glance.status
    queues = [list(_QUEUES), *(_queue_cells(glance, queue) for queue in status.queues)]
    workers = [list(_WORKERS), *(_worker_cells(glance, worker) for worker in status.workers)]
    parts = [
        [f"namespace {status.namespace} on {status.server} at {_clock(glance.at)}"],
        aligned(queues),
        aligned(_summary(glance)),
        aligned(workers) if status.workers else ["no workers"],
    ]
    return "\n\n".join("\n".join(part) for part in parts)


@dataclass(frozen=True)
class Screen:
    """On a terminal; workers beyond its height are counted only.

    Args:
        glance: None: nothing was read yet.
        problem: Why this is not how it is now.
    """

    glance: Glance | None
    problem: str | None = None
    watching: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw it."""
        if self.glance is not None:
            yield _head(self.glance)
            yield ""
            yield _queue_table(self.glance)
            yield ""
            yield _summary_table(self.glance)
            yield ""
            room = max(_FEWEST_WORKERS, console.size.height - _LINES_BESIDE_WORKERS) if self.watching else None
            yield _worker_table(self.glance, room)
        if self.problem is not None:
            yield Text(f"as of then, since now: {self.problem}" if self.glance else self.problem, style="bold red")


def _head(glance: Glance) -> RenderableType:
    head = Table.grid(expand=True)
    head.add_column(overflow="ellipsis", no_wrap=True)
    head.add_column(justify="right", no_wrap=True)
    title = Text.assemble((glance.status.namespace, "bold"), f" on {glance.status.server}")
    head.add_row(title, Text(_clock(glance.at), style="dim"))
    return head


def _cell(text: str, style: str) -> Text:
    """Zeros stand back."""
    return Text(text, style="dim" if text in ("0", "0.0", "") else style)


def _queue_table(glance: Glance) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(_QUEUES[0], no_wrap=True)
    for name in _QUEUES[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    styles = ("bold yellow", "bold green", "magenta", "", "yellow")
    for queue in glance.status.queues:
        name, *cells = _queue_cells(glance, queue)
        table.add_row(name, *(_cell(cell, style) for cell, style in zip(cells, styles, strict=True)))
    return table


def _summary_table(glance: Glance) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="ellipsis", no_wrap=True)
    for name, value in _summary(glance):
        alarming = (name == "dead letters" and value != "0") or value.startswith("nobody")
        table.add_row(name, _cell(value, "bold red" if alarming else ""))
    return table


def _worker_table(glance: Glance, room: int | None) -> RenderableType:
    workers = glance.status.workers
    if not workers:
        return Text("no workers", style="bold red")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(_WORKERS[0], overflow="ellipsis", no_wrap=True)
    table.add_column(_WORKERS[1], no_wrap=True)
    for name in _WORKERS[2:]:
        table.add_column(name, justify="right", no_wrap=True)
    shown = workers if room is None or len(workers) <= room else workers[: room - 1]
    for worker in shown:
        name, *cells = _worker_cells(glance, worker)
        table.add_row(Text(name), *(_cell(cell, "") for cell in cells))
    if len(shown) < len(workers):
        table.add_row(Text(f"and {len(workers) - len(shown)} more", style="dim"))
    return table
