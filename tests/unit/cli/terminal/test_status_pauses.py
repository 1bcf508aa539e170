"""How a status shows queues that are paused."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from diracx.tasks.cli.terminal.status_screen import Screen, plain
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED
from diracx.tasks.plumbing.operations.status import QueueStatus, SchedulerStatus, Status, StatusSnapshot

NOW = datetime(2026, 12, 1, 6, tzinfo=UTC)
QUEUES = [(priority, size) for priority in Priority for size in Size]


def a_glance(*untils: datetime | None) -> StatusSnapshot:
    """The queues in their order, each paused until then; the widest figures otherwise."""
    queues = [
        QueueStatus(
            subject=f"diracx.tasks.{priority}.{size}",
            priority=priority,
            size=size,
            waiting=1_234_567,
            in_hand=1_000_000,
            redelivered=7,
            oldest_seconds=3_599,
            paused_until=untils[number] if number < len(untils) else None,
        )
        for number, (priority, size) in enumerate(QUEUES)
    ]
    status = Status(
        namespace="diracx",
        server="nats://127.0.0.1:4222",
        queues=queues,
        delayed=0,
        dead_letters=0,
        locks=0,
        scheduler=SchedulerStatus(leader=None, standbys=[]),
        workers=[],
    )
    return StatusSnapshot(status=status, at=NOW, parked={queue.subject: 100_000 for queue in queues})


def drawn(glance: StatusSnapshot, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=40, force_terminal=True, color_system=None).print(Screen(glance))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def last_words(lines: list[str], after: str) -> list[str]:
    """What stands beside the age of the oldest, for each queue that has more."""
    return [line.partition(after)[2].strip() for line in lines if after in line]


UNTILS = (
    NOW + timedelta(seconds=90),
    NOW + timedelta(days=7),
    NOW + timedelta(days=400),
    UNTIL_RESUMED,
)


def test_a_wide_terminal_and_a_pipe_show_until_when_in_full() -> None:
    shown = ["2026-12-01 06:01:30 UTC", "2026-12-08 06:00:00 UTC", "2028-01-05 06:00:00 UTC", "resumed"]
    for lines in (drawn(a_glance(*UNTILS), 94), plain(a_glance(*UNTILS)).splitlines()):
        assert last_words(lines, "59 min 59 s") == [*shown, "", "", "", "", ""]
        (head,) = (line for line in lines if line.startswith("queue "))
        assert head.endswith("paused until")
        assert not any("…" in line for line in lines)


@pytest.mark.parametrize("width", [80, 93])
def test_a_narrow_terminal_shows_what_fits(width: int) -> None:
    lines = drawn(a_glance(*UNTILS), width)
    assert last_words(lines, "59 min 59 s") == ["06:01:30", "8 Dec", "Jan 2028", "resumed", "", "", "", "", ""]
    assert any(line.endswith("paused to") for line in lines)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize("width", [80, 140])
def test_where_nothing_is_paused_nothing_is_said_of_it(width: int) -> None:
    assert "paused" not in "\n".join(drawn(a_glance(), width)) + plain(a_glance())
