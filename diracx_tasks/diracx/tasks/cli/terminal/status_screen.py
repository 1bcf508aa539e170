"""The output of `status`: one screen on a terminal, aligned text without colours elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from diracx.tasks.cli.terminal.printable import one_line
from diracx.tasks.cli.terminal.tables import aligned
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED
from diracx.tasks.plumbing.operations.figures import duration
from diracx.tasks.plumbing.operations.status_document import Alert, QueueStatus, StatusSnapshot, WorkerStatus
from diracx.tasks.plumbing.wire.times import readable_time

_QUEUES: Final = ("queue", "waiting", "running", "parked", "redelivered", "oldest")
_WORKERS: Final = ("worker", "size", "busy", "settled/s", "last pull", "up")
ISOLATED: Final = "isolated"
"""The column of isolated tasks, and the mark of a worker that has one."""
MISSING: Final = "missing"
"""The mark of a queue that the server does not have."""
_TEXTS: Final = ("size", ISOLATED)
GROUPS: Final = "groups"
"""The line of groups that wait for their children; it is there only if there are any."""
CANCELLED: Final = "cancelled"
"""The line of notes of cancellation; it is there only if there are any."""
FIXED_LINES: Final = 10
"""The lines of a screen without those of its head, queues, workers, and of tasks that do not run: blank lines,
headings, summary."""
SUMMARY_LINES: Final = 5
"""The lines of the summary that are always there."""
ALERTS_SHARE: Final = 4
"""A watched screen gives this part of its height to alerts: a quarter."""
MIN_ALERTS: Final = 2
"""The lines for alerts that are always there, if there are any."""
MIN_WORKERS: Final = 3
"""Idle queues are left out before fewer workers are shown."""
MIN_WIDTH_FOR_TIMES: Final = 94
"""The columns of a terminal that has room for whole times of pauses."""
MIN_WIDTH_FOR_TASKS: Final = 120
"""The columns of a terminal that has room for the names of isolated tasks beside their workers."""
TIME_IS_ENOUGH: Final = timedelta(days=1)
DAY_IS_ENOUGH: Final = timedelta(days=330)


def _clock(moment: datetime) -> str:
    return readable_time(moment).replace("T", " ").replace("Z", " UTC")


def _queue_cells(queue: QueueStatus) -> list[str]:
    parked = "?" if queue.parked is None else str(queue.parked)
    oldest = "" if queue.oldest_seconds is None else duration(queue.oldest_seconds)
    name = f"{queue.priority:<10} {queue.size}"
    redelivered = MISSING if queue.missing else str(queue.redelivered)
    return [name, str(queue.waiting), str(queue.in_hand), parked, redelivered, oldest]


def _worker_rows(snapshot: StatusSnapshot, workers: Sequence[WorkerStatus], *, roomy: bool) -> list[list[str]]:
    """Return the names of the columns, then the workers.

    Args:
        roomy: True adds a column of isolated tasks, if there are any; False marks their workers in place of the time of
            the last pull: it is long ago, because a worker that isolates a task pulls nothing.
    """
    places = Counter((worker.host, worker.pid) for worker in snapshot.status.workers)
    rows = [list(_WORKERS), *(_worker_cells(snapshot, worker) for worker in workers)]
    for row, worker in zip(rows[1:], workers, strict=True):
        if places[worker.host, worker.pid] > 1:  # in containers
            row[0] += f" {one_line(worker.id.rpartition('-')[2])}"
    if not any(worker.isolated for worker in workers):
        return rows
    if roomy:
        tasks = [ISOLATED, *(one_line(worker.isolated or "") for worker in workers)]
        return [[*row, task] for row, task in zip(rows, tasks, strict=True)]
    for row, worker in zip(rows[1:], workers, strict=True):
        if worker.isolated:
            row[_WORKERS.index("last pull")] = ISOLATED
    return rows


def _worker_cells(snapshot: StatusSnapshot, worker: WorkerStatus) -> list[str]:
    pull = worker.last_pull_seconds
    return [
        one_line(f"{worker.host} {worker.pid}"),
        str(worker.size),
        f"{worker.busy}/{worker.slots}",
        f"{worker.per_second:.1f}",
        "never" if pull is None else f"{duration(pull)} ago",
        duration(max(0.0, (snapshot.at - worker.since).total_seconds())),
    ]


def _summary(snapshot: StatusSnapshot) -> list[tuple[str, str]]:
    """Return names and values other than those of queues and workers."""
    status = snapshot.status
    scheduler = status.scheduler
    standbys = len(scheduler.standbys)
    lead = f"{one_line(scheduler.leader)} leads" if scheduler.leader else "nobody leads"
    coming = "none known"
    if status.next is not None:
        ahead = max(0.0, (status.next - snapshot.at).total_seconds())
        coming = f"{_clock(status.next)}, in {duration(ahead)}"
    rows = [
        ("delayed", str(status.delayed)),
        ("dead letters", str(status.dead_letters)),
        ("locks", str(status.locks)),
        ("scheduler", f"{lead}; {standbys} standing by"),
        ("next", coming),
    ]
    if status.groups != 0:
        rows.append((GROUPS, "many" if status.groups is None else str(status.groups)))
    if status.cancelled:
        rows.append((CANCELLED, f"{status.cancelled} note{'s' if status.cancelled > 1 else ''}"))
    return rows


def _alert_rows(alerts: Sequence[Alert]) -> list[list[str]]:
    """The level of each alert, and its sentence with the command that mends it."""
    return [
        [alert.level, one_line(alert.text if alert.command is None else f"{alert.text}: run `{alert.command}`")]
        for alert in alerts
    ]


def plain(snapshot: StatusSnapshot) -> str:
    """Return the status as text for pipes and files, with every worker."""
    status = snapshot.status
    parts = [
        [f"namespace {status.namespace} on {one_line(status.server)} at {_clock(snapshot.at)}"],
        *([aligned(_alert_rows(status.alerts))] if status.alerts else []),
        aligned(_queue_rows(snapshot, status.queues, roomy=True)),
        aligned(_summary(snapshot)),
        aligned(_worker_rows(snapshot, status.workers, roomy=True)) if status.workers else ["no workers"],
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def _queue_rows(snapshot: StatusSnapshot, queues: Sequence[QueueStatus], *, roomy: bool) -> list[list[str]]:
    """Return the names of the columns, then the queues. The column of pauses is there only if a queue is paused.

    Args:
        roomy: True shows whole times of pauses; False shortens them to nine characters.
    """
    rows = [list(_QUEUES), *(_queue_cells(queue) for queue in queues)]
    if any(queue.paused_until for queue in queues):
        pauses = ["paused until" if roomy else "paused to"]
        pauses += [_pause_cell(queue.paused_until, snapshot.at, roomy) for queue in queues]
        rows = [[*row, pause] for row, pause in zip(rows, pauses, strict=True)]
    return rows


def _pause_cell(until: datetime | None, now: datetime, roomy: bool) -> str:
    if until is None:
        return ""
    if until >= UNTIL_RESUMED:
        return "resumed"
    if roomy:
        return _clock(until)
    if until - now < TIME_IS_ENOUGH:
        return f"{until:%T}"
    return f"{until.day} {until:%b}" if until - now < DAY_IS_ENOUGH else f"{until:%b %Y}"


@dataclass(frozen=True)
class Screen:
    """The status on a terminal.

    A watched screen is never higher than the terminal: first idle queues are left out, then surplus workers are only
    counted.

    Args:
        snapshot: The snapshot to show; None before the first one is read.
        problem: The reason why no newer snapshot could be read.
        watching: True fits the screen to the height of the terminal.
    """

    snapshot: StatusSnapshot | None
    problem: str | None = None
    watching: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw the screen."""
        text = self.problem and (f"no news since then: {self.problem}" if self.snapshot else self.problem)
        problem = [Text(one_line(text), style="bold red", no_wrap=True, overflow="ellipsis")] if text else []
        if self.snapshot is None:
            yield from problem
            return
        head: list[RenderableType] = [*_head(self.snapshot, options.max_width), *problem]
        queues = self.snapshot.status.queues
        room = alerts_room = None
        if self.watching:
            spare = console.size.height - FIXED_LINES - len(head) - (len(_summary(self.snapshot)) - SUMMARY_LINES)
            busy = [queue for queue in queues if _is_busy(queue)]
            alerts_room = max(MIN_ALERTS, min(console.size.height // ALERTS_SHARE, spare - len(busy) - MIN_WORKERS))
        alerts = _alert_lines(self.snapshot.status.alerts, console, options, alerts_room)
        if self.watching:
            spare -= len(alerts)
            if spare - len(queues) < min(MIN_WORKERS, len(self.snapshot.status.workers)):
                queues = busy
            room = max(1, spare - len(queues))
        head += alerts
        yield from head
        yield ""
        yield _queue_table(self.snapshot, queues, roomy=options.max_width >= MIN_WIDTH_FOR_TIMES)
        yield ""
        yield _summary_table(self.snapshot)
        yield ""
        yield _worker_table(self.snapshot, room, roomy=options.max_width >= MIN_WIDTH_FOR_TASKS)


def _head(snapshot: StatusSnapshot, width: int) -> list[Text]:
    """Return the title and the time, on one line if they fit."""
    title = Text.assemble((snapshot.status.namespace, "bold"), f" on {one_line(snapshot.status.server)}")
    clock = Text(_clock(snapshot.at), style="dim")
    room = width - title.cell_len - clock.cell_len
    return [Text.assemble(title, " " * room, clock)] if room > 1 else [title, clock]


def _alert_lines(
    alerts: Sequence[Alert], console: Console, options: ConsoleOptions, room: int | None
) -> list[RenderableType]:
    """Return the alerts in lines.

    Args:
        room: The most lines; alerts that find none are counted in the last line. None: all are shown.
    """
    lines: list[RenderableType] = []
    for number, (level, text) in enumerate(_alert_rows(alerts)):
        style = "bold red" if level == "critical" else "yellow"
        lines += Text(f"{level}  {text}", style=style).wrap(console, options.max_width)
        left = len(alerts) - number
        if room is not None and len(lines) > room - (left > 1):
            more = f"{left} alerts, the first one cut" if number == 0 else f"and {left} more alerts"
            return [*lines[: room - 1], Text(f"{more}: see `diracx-task-run status`", style="dim")]
    return lines


def _cell(text: str, style: str) -> Text:
    """Return a cell in its style; zeros are dim."""
    return Text(text, style="bold red" if text == MISSING else "dim" if text in ("0", "0.0", "") else style)


def _is_busy(queue: QueueStatus) -> bool:
    return bool(queue.waiting or queue.in_hand or queue.redelivered or queue.paused_until or queue.missing)


def _queue_table(snapshot: StatusSnapshot, queues: Sequence[QueueStatus], *, roomy: bool) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    (first, *others), *rows = _queue_rows(snapshot, queues, roomy=roomy)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    styles = ("bold yellow", "bold green", "magenta", "", "yellow", "bold red")
    for name, *cells in rows:
        # The last style belongs to the column of pauses, which is not always there.
        table.add_row(name, *(_cell(cell, style) for cell, style in zip(cells, styles, strict=False)))
    return table


def _summary_table(snapshot: StatusSnapshot) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    # A long value must not narrow the names.
    table.add_column(style="bold", no_wrap=True, min_width=max(len(name) for name, _ in _summary(snapshot)))
    table.add_column(overflow="ellipsis", no_wrap=True)
    for name, value in _summary(snapshot):
        alarming = (name == "dead letters" and value != "0") or value.startswith("nobody")
        table.add_row(name, _cell(value, "bold red" if alarming else ""))
    return table


def _worker_cell(column: str, text: str) -> Text:
    if ISOLATED in (column, text):
        return Text(text, style="bold yellow", no_wrap=True, overflow="ellipsis")
    return _cell(text, "")


def _worker_table(snapshot: StatusSnapshot, room: int | None, *, roomy: bool) -> RenderableType:
    workers = snapshot.status.workers
    if not workers:
        return Text("no workers", style="bold red")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    shown = workers if room is None or len(workers) <= room else workers[: room - 1]
    (first, *others), *rows = _worker_rows(snapshot, shown, roomy=roomy)
    table.add_column(first, overflow="ellipsis", no_wrap=True)
    for name in others:
        # Without `no_wrap` the column of tasks is the only one that gives way; `_worker_cell` cuts its texts.
        table.add_column(name, justify="left" if name in _TEXTS else "right", no_wrap=name != ISOLATED)
    for name, *cells in rows:
        table.add_row(Text(name), *map(_worker_cell, others, cells))
    if len(shown) < len(workers):
        more = workers[len(shown) :]
        busy = f"{sum(worker.busy for worker in more)}/{sum(worker.slots for worker in more)}"
        table.add_row(Text(f"and {len(more)} more", style="dim"), "", Text(busy, style="dim"))
    return table
