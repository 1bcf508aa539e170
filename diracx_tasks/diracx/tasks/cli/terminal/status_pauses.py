"""Which queues of a status are paused, and until when: one more column, which is there only when one is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED
from diracx.tasks.plumbing.operations.status import QueueStatus

ROOMY: Final = 94
"""Columns of a terminal from which on whole times fit in."""

_TIME_WILL_DO: Final = timedelta(days=1)
_DAY_WILL_DO: Final = timedelta(days=330)


def with_pauses(
    rows: Sequence[list[str]], queues: Sequence[QueueStatus], now: datetime, *, roomy: bool
) -> list[list[str]]:
    """The rows with the column.

    Args:
        rows: The names of the columns, then one row for each of `queues`.
        now: By the server's clock.
        roomy: Whether whole times may be shown; else nine characters have to do.
    """
    untils = [queue.paused_until for queue in queues]
    if not any(untils):
        return list(rows)
    head = "paused until" if roomy else "paused to"
    cells = [head, *(_cell(until, now, roomy) for until in untils)]
    return [[*row, cell] for row, cell in zip(rows, cells, strict=True)]


def _cell(until: datetime | None, now: datetime, roomy: bool) -> str:
    if until is None:
        return ""
    if until >= UNTIL_RESUMED:
        return "resumed"
    if roomy:
        return f"{until:%F %T} UTC"
    if until - now < _TIME_WILL_DO:
        return f"{until:%T}"
    return f"{until.day} {until:%b}" if until - now < _DAY_WILL_DO else f"{until:%b %Y}"
