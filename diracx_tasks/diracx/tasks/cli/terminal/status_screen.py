"""How a status looks: one screen on a terminal, aligned text without frames and colours elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from diracx.tasks.cli.terminal.output import aligned, printable
from diracx.tasks.cli.terminal.status_pauses import ROOMY, with_pauses
from diracx.tasks.plumbing.operations.status import QueueStatus, StatusSnapshot, WorkerStatus

_QUEUES: Final = ("queue", "waiting", "in hand", "parked", "redelivered", "oldest")
_WORKERS: Final = ("worker", "size", "busy", "tasks/s", "last pull", "up")
_LINES_BESIDE: Final = 10
"""Of the screen: blank ones, headings and the summary; not those of its head, queues and workers."""
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


def _queue_cells(glance: StatusSnapshot, queue: QueueStatus) -> list[str]:
    parked = "?" if glance.parked is None else str(glance.parked.get(queue.subject, 0))
    oldest = "" if queue.oldest_seconds is None else duration(queue.oldest_seconds)
    name = f"{queue.priority:<10} {queue.size}"
    return [name, str(queue.waiting), str(queue.in_hand), parked, str(queue.redelivered), oldest]


def _worker_cells(glance: StatusSnapshot, worker: WorkerStatus) -> list[str]:
    pull = glance.last_pull.get(worker.id)
    return [
        printable(f"{worker.host} {worker.pid}"),
        str(worker.size),
        f"{worker.busy}/{worker.slots}",
        f"{glance.per_second.get(worker.id, 0.0):.1f}",
        "never" if pull is None else f"{duration(pull)} ago",
        duration(max(0.0, (glance.at - worker.since).total_seconds())),
    ]


def _summary(glance: StatusSnapshot) -> list[tuple[str, str]]:
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


def plain(glance: StatusSnapshot) -> str:
    """As text, for pipes and files; every worker is in it."""
    status = glance.status
    workers = [list(_WORKERS), *(_worker_cells(glance, worker) for worker in status.workers)]
    parts = [
        [f"namespace {status.namespace} on {status.server} at {_clock(glance.at)}"],
        aligned(_queue_rows(glance, status.queues, roomy=True)),
        aligned(_summary(glance)),
        aligned(workers) if status.workers else ["no workers"],
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def _queue_rows(glance: StatusSnapshot, queues: Sequence[QueueStatus], *, roomy: bool) -> list[list[str]]:
    """The names of the columns, then the queues."""
    rows = [list(_QUEUES), *(_queue_cells(glance, queue) for queue in queues)]
    return with_pauses(rows, queues, glance.at, roomy=roomy)


@dataclass(frozen=True)
class Screen:
    """On a terminal; what is watched is no higher than it: workers beyond are counted only, then idle queues go.

    Args:
        glance: None: nothing was read yet.
        problem: Why this is not how it is now.
    """

    glance: StatusSnapshot | None
    problem: str | None = None
    watching: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw it."""
        told = self.problem and (f"no news since then: {self.problem}" if self.glance else self.problem)
        problem = [Text(told, style="bold red", no_wrap=True, overflow="ellipsis")] if told else []
        if self.glance is None:
            yield from problem
            return
        head = _head(self.glance, options.max_width) + problem
        queues = self.glance.status.queues
        room = None
        if self.watching:
            spare = console.size.height - _LINES_BESIDE - len(head)
            if spare - len(queues) < min(_FEWEST_WORKERS, len(self.glance.status.workers)):
                queues = [queue for queue in queues if _is_news(queue)]
            room = max(1, spare - len(queues))
        yield from head
        yield ""
        yield _queue_table(self.glance, queues, roomy=options.max_width >= ROOMY)
        yield ""
        yield _summary_table(self.glance)
        yield ""
        yield _worker_table(self.glance, room)


def _head(glance: StatusSnapshot, width: int) -> list[Text]:
    """What and when, on one line if they fit: it is what tells two screens apart."""
    title = Text.assemble((glance.status.namespace, "bold"), f" on {glance.status.server}")
    clock = Text(_clock(glance.at), style="dim")
    room = width - title.cell_len - clock.cell_len
    return [Text.assemble(title, " " * room, clock)] if room > 1 else [title, clock]


def _cell(text: str, style: str) -> Text:
    """Zeros stand back."""
    return Text(text, style="dim" if text in ("0", "0.0", "") else style)


def _is_news(queue: QueueStatus) -> bool:
    return bool(queue.waiting or queue.in_hand or queue.redelivered or queue.paused_until)


def _queue_table(glance: StatusSnapshot, queues: Sequence[QueueStatus], *, roomy: bool) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    (first, *others), *rows = _queue_rows(glance, queues, roomy=roomy)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    styles = ("bold yellow", "bold green", "magenta", "", "yellow", "bold red")
    for name, *cells in rows:
        # The last one is for a column that is there only when a queue is paused.
        table.add_row(name, *(_cell(cell, style) for cell, style in zip(cells, styles, strict=False)))
    return table


def _summary_table(glance: StatusSnapshot) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="ellipsis", no_wrap=True)
    for name, value in _summary(glance):
        alarming = (name == "dead letters" and value != "0") or value.startswith("nobody")
        table.add_row(name, _cell(value, "bold red" if alarming else ""))
    return table


def _worker_table(glance: StatusSnapshot, room: int | None) -> RenderableType:
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
        more = workers[len(shown) :]
        busy = f"{sum(worker.busy for worker in more)}/{sum(worker.slots for worker in more)}"
        table.add_row(Text(f"and {len(more)} more", style="dim"), "", Text(busy, style="dim"))
    return table
