"""How a status looks: on terminals of several sizes, and as plain text."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from diracx.tasks.cli.status_screen import Screen, duration, plain
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.status import Glance, QueueStatus, SchedulerStatus, Status, WorkerStatus

NOW = datetime(2026, 12, 1, 6, tzinfo=UTC)


def a_glance(workers: int = 2, **changes: Any) -> Glance:
    queues = [
        QueueStatus(
            subject=f"diracx.tasks.{priority}.{size}",
            priority=priority,
            size=size,
            waiting=1_234_567,
            in_hand=100,
            redelivered=7,
            oldest_seconds=90_061.5,
        )
        for priority in Priority
        for size in Size
    ]
    status = Status(
        namespace="diracx",
        server="nats://nats.example.org:4222",
        queues=queues,
        delayed=12,
        dead_letters=3,
        locks=5,
        scheduler=SchedulerStatus(leader="node-7.example.org-123-scheduler", standbys=["node-8-1-scheduler"]),
        workers=[
            WorkerStatus(
                id=f"node-{n}", size=Size.SMALL, slots=100, busy=7, host=f"node-{n}.example.org", pid=n, since=NOW
            )
            for n in range(workers)
        ],
    )
    defaults: dict[str, Any] = {
        "status": status,
        "at": NOW,
        "parked": {queue.subject: 42 for queue in queues},
        "per_second": {"node-0": 1234.5},
        "last_pull": {"node-0": 0.1},
        "next_occurrence": NOW + timedelta(minutes=5),
    }
    return Glance(**(defaults | changes))


def drawn(screen: Screen, width: int, height: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=height, force_terminal=True, color_system=None).print(screen)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 140])
def test_every_figure_is_readable_at_both_widths(width: int) -> None:
    lines = drawn(Screen(a_glance()), width, 24)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for words in (
        "diracx on nats://nats.example.org:4222",
        "2026-12-01 06:00:00 UTC",
        "background medium  1234567      100      42            7  1 d 1 h",
        "node-7.example.org-123-scheduler leads; 1 standing by",
        "2026-12-01 06:05:00 UTC, in 5 min 0 s",
        "node-0.example.org 0  small  7/100   1234.5",
    ):
        assert words in text
    assert "…" not in text


@pytest.mark.parametrize("height", [24, 40])
def test_a_watched_screen_is_no_higher_than_the_terminal_and_says_what_it_leaves_out(height: int) -> None:
    lines = drawn(Screen(a_glance(workers=50), "the server is away", watching=True), 80, height)
    assert len(lines) <= height
    shown = sum("small  7/100" in line for line in lines)
    assert f"and {50 - shown} more" in lines


def test_plain_text_has_every_worker_and_neither_colours_nor_frames() -> None:
    text = plain(a_glance(workers=50))
    assert text.count("7/100") == 50
    assert text.isascii()
    assert text.isprintable() or "\x1b" not in text


def test_what_is_not_known_is_not_claimed() -> None:
    lines = plain(a_glance(workers=0, parked=None, next_occurrence=None)).splitlines()
    assert "no workers" in lines
    assert "next          none known" in lines
    assert "realtime   small   1234567  100      ?       7            1 d 1 h" in lines


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (9.96, "10.0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3_725, "1 h 2 min"), (90_061, "1 d 1 h")],
)
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
