"""The status on terminals of several sizes, and as plain text."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from rich.console import Console

from diracx.tasks.cli.terminal.status_screen import Screen, plain
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED
from diracx.tasks.plumbing.operations.status_document import (
    Alert,
    QueueStatus,
    SchedulerStatus,
    Status,
    StatusSnapshot,
    WorkerStatus,
)

NOW = datetime(2026, 12, 1, 6, tzinfo=UTC)


def a_snapshot(workers: int = 2, status: Status | None = None, **changes: Any) -> StatusSnapshot:
    """The fields of the document that differ are given by name; a `status` takes the place of the whole document."""
    if status is not None:
        return StatusSnapshot(status=status)
    queues = [
        QueueStatus(
            subject=f"diracx.tasks.{priority}.{size}",
            priority=priority,
            size=size,
            waiting=1_234_567,
            in_hand=100,
            redelivered=7,
            oldest_seconds=90_061.5,
            parked=42,
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
        workers=[a_worker(n) for n in range(workers)],
        held=[],
        at=NOW,
        next=NOW + timedelta(minutes=5),
    )
    return StatusSnapshot(status=msgspec.structs.replace(status, **changes))


def a_worker(number: int) -> WorkerStatus:
    return WorkerStatus(
        id=f"node-{number}-small-ab{number}",
        size=Size.SMALL,
        slots=100,
        busy=7,
        host=f"node-{number}.example.org",
        pid=number,
        since=NOW,
        per_second=1234.5,
        last_pull_seconds=0.1,
    )


def drawn(screen: Screen, width: int, height: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=height, force_terminal=True, color_system=None).print(screen)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 140])
def test_every_number_is_readable_at_both_widths(width: int) -> None:
    lines = drawn(Screen(a_snapshot()), width, 24)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for words in (
        "diracx on nats://nats.example.org:4222",
        "2026-12-01 06:00:00 UTC",
        "background medium  1234567      100      42            7  1 d 1 h",
        "node-7.example.org-123-scheduler leads; 1 standing by",
        "2026-12-01 06:05:00 UTC, in 5 min",
        "node-0.example.org 0  small  7/100     1234.5",
    ):
        assert words in text
    assert "…" not in text


@pytest.mark.parametrize("height", [24, 40])
def test_a_watched_screen_fits_the_terminal_and_counts_the_workers_that_it_leaves_out(height: int) -> None:
    lines = drawn(Screen(a_snapshot(workers=50), "the server is away", watching=True), 80, height)
    assert len(lines) <= height
    shown = sum(" 7/100 " in line for line in lines)
    assert shown >= 2
    assert lines[-1].split() == ["and", str(50 - shown), "more", f"{7 * (50 - shown)}/{100 * (50 - shown)}"]
    assert "no news since then: the server is away" in lines[:2]


@pytest.mark.parametrize("height", [24, 40])
def test_long_names_are_not_cut_but_the_head_takes_two_lines(height: int) -> None:
    status = msgspec.structs.replace(a_snapshot().status, namespace="lhcb_production_reprocessing_2026")
    lines = drawn(Screen(a_snapshot(status=status), watching=True), 80, height)
    assert lines[:2] == [
        "lhcb_production_reprocessing_2026 on nats://nats.example.org:4222",
        "2026-12-01 06:00:00 UTC",
    ]
    assert len(lines) <= height
    assert "…" not in "\n".join(lines)


def test_on_a_low_terminal_idle_queues_give_way_to_workers() -> None:
    queues = a_snapshot().status.queues
    idle = [msgspec.structs.replace(queue, waiting=0, in_hand=0, redelivered=0) for queue in queues[:8]]
    status = msgspec.structs.replace(a_snapshot().status, queues=[*idle, queues[8]])
    text = "\n".join(drawn(Screen(a_snapshot(status=status), watching=True), 80, 16))
    assert "background large" in text
    assert "realtime" not in text
    assert text.count(" 7/100 ") == 2
    assert "realtime" in "\n".join(drawn(Screen(a_snapshot(status=status), watching=True), 80, 24))


def test_a_problem_takes_one_line_however_long_it_is() -> None:
    (line,) = drawn(Screen(None, "no answer " * 30, watching=True), 80, 24)
    assert line.startswith("no answer")
    assert len(line) <= 80


def test_plain_text_has_every_worker_and_neither_colours_nor_frames() -> None:
    text = plain(a_snapshot(workers=50))
    assert text.count("7/100") == 50
    assert text.isascii()
    assert text.isprintable() or "\x1b" not in text


def test_unknown_values_are_shown_as_unknown() -> None:
    queues = [msgspec.structs.replace(queue, parked=None) for queue in a_snapshot().status.queues]
    lines = plain(a_snapshot(workers=0, queues=queues, next=None)).splitlines()
    assert "no workers" in lines
    assert "next          none known" in lines
    assert "realtime   small   1234567  100      ?       7            1 d 1 h" in lines


def paused(*untils: datetime | None) -> StatusSnapshot:
    """The queues in their order, each paused until one of these times; their numbers are as wide as they get."""
    queues = [
        msgspec.structs.replace(
            queue,
            in_hand=1_000_000,
            oldest_seconds=3_599,
            parked=100_000,
            paused_until=untils[number] if number < len(untils) else None,
        )
        for number, queue in enumerate(a_snapshot().status.queues)
    ]
    status = msgspec.structs.replace(a_snapshot().status, queues=queues)
    return a_snapshot(status=status)


def last_words(lines: list[str], after: str) -> list[str]:
    """The text beside the age of the oldest task, for each queue."""
    return [line.partition(after)[2].strip() for line in lines if after in line]


UNTILS = (
    NOW + timedelta(seconds=90),
    NOW + timedelta(days=7),
    NOW + timedelta(days=400),
    UNTIL_RESUMED,
)


def test_a_wide_terminal_and_a_pipe_show_the_times_of_pauses_in_full() -> None:
    shown = ["2026-12-01 06:01:30 UTC", "2026-12-08 06:00:00 UTC", "2028-01-05 06:00:00 UTC", "resumed"]
    for lines in (drawn(Screen(paused(*UNTILS)), 94, 40), plain(paused(*UNTILS)).splitlines()):
        assert last_words(lines, "59 min 59 s") == [*shown, "", "", "", "", ""]
        (head,) = (line for line in lines if line.startswith("queue "))
        assert head.endswith("paused until")
        assert not any("…" in line for line in lines)


@pytest.mark.parametrize("width", [80, 93])
def test_a_narrow_terminal_shortens_the_times_of_pauses(width: int) -> None:
    lines = drawn(Screen(paused(*UNTILS)), width, 40)
    assert last_words(lines, "59 min 59 s") == ["06:01:30", "8 Dec", "Jan 2028", "resumed", "", "", "", "", ""]
    assert any(line.endswith("paused to") for line in lines)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize("width", [80, 140])
def test_without_a_paused_queue_there_is_no_column_of_pauses(width: int) -> None:
    assert "paused" not in "\n".join(drawn(Screen(paused()), width, 40)) + plain(paused())


SUSPECT = "lollygag:SyncOwnersTask 18d9b0d4e5f8474e8f4ff9a3d80d43d4"


def isolating(task: str | None) -> StatusSnapshot:
    """Three workers, of which the second one has an isolated task."""
    first, second, third = (
        msgspec.structs.replace(worker, last_pull_seconds=71.5) for worker in a_snapshot(workers=3).status.workers
    )
    workers = [first, msgspec.structs.replace(second, isolated=task), third]
    status = msgspec.structs.replace(a_snapshot().status, workers=workers)
    return a_snapshot(status=status)


def test_a_narrow_terminal_marks_a_worker_with_an_isolated_task_in_place_of_its_last_pull() -> None:
    lines = drawn(Screen(isolating(SUSPECT)), 80, 40)
    pulls = [re.split(" {2,}", line)[4] for line in lines if "7/100" in line]
    assert pulls == ["1 min 12 s ago", "isolated", "1 min 12 s ago"]
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_a_wide_terminal_and_a_pipe_name_the_isolated_task() -> None:
    for lines in (drawn(Screen(isolating(SUSPECT)), 140, 40), plain(isolating(SUSPECT)).splitlines()):
        (head,) = (line for line in lines if line.lstrip().startswith("worker "))
        assert head.endswith("isolated")
        (row,) = (line for line in lines if "node-1.example.org 1" in line)
        assert row.endswith(f"  {SUSPECT}")
        assert row.index(SUSPECT) == head.index("isolated")
        assert "1 min 12 s ago" in row
        assert max(map(len, lines)) <= 140


def test_a_long_name_of_an_isolated_task_is_cut_and_the_numbers_are_not() -> None:
    lines = drawn(Screen(isolating(f"a_long_category:{'Reprocess' * 9}Task {'7' * 32}")), 120, 40)
    (row,) = (line for line in lines if "node-1.example.org 1" in line)
    assert row.endswith("…")
    assert "node-1.example.org 1  small  7/100" in row
    assert "1 min 12 s ago" in row
    assert "  a_long_category:Reprocess" in row
    assert len(row) <= 120


@pytest.mark.parametrize("width", [80, 140])
def test_without_an_isolated_task_there_is_no_column_of_them(width: int) -> None:
    assert "isolated" not in "\n".join(drawn(Screen(isolating(None)), width, 40)) + plain(isolating(None))


def test_the_name_of_an_isolated_task_does_not_control_the_terminal() -> None:
    text = "\n".join(drawn(Screen(isolating("a:B \x1b[2J")), 140, 40)) + plain(isolating("a:B \x1b[2J"))
    assert "\x1b[2J" not in text
    assert text.count(r"a:B \x1b[2J") == 2


ALERTS = [
    Alert(
        level="critical", name="bucket-missing", text="bucket diracx_locks is missing", command="diracx-task-run setup"
    ),
    Alert(level="warning", name="wrong-clock", text="the clock of a\x1b[2J is 2 h 0 min ahead of the server's"),
]


def test_alerts_are_lines_with_their_level_and_command_and_cannot_control_the_terminal() -> None:
    snapshot = a_snapshot(alerts=ALERTS)
    text = plain(snapshot)
    assert "\n\ncritical  bucket diracx_locks is missing: run `diracx-task-run setup`\nwarning   the clock of " in text
    for shown in (text, "\n".join(drawn(Screen(snapshot, watching=True), 140, 40))):
        assert r"the clock of a\x1b[2J is 2 h 0 min ahead of the server's" in shown
        assert "\x1b[2J" not in shown
    for shown in (plain(a_snapshot()), "\n".join(drawn(Screen(a_snapshot()), 80, 40))):
        assert "critical" not in shown
        assert "warning" not in shown


def test_long_alerts_are_wrapped_in_full() -> None:
    alert = Alert(level="critical", name="x", text=" ".join(f"word{n}" for n in range(60)), command="mend it")
    words = " ".join(drawn(Screen(a_snapshot(alerts=[alert])), 80, 40)).split()
    assert [f"word{n}" for n in range(59)] == [word for word in words if word.startswith("word")][:59]
    assert " ".join(words).count("run `mend it`") == 1


@pytest.mark.parametrize("height", [24, 40])
def test_a_watched_screen_counts_the_alerts_for_which_it_has_no_room(height: int) -> None:
    alerts = [Alert(level="warning", name="dead-letters", text=f"number {n}") for n in range(30)]
    lines = drawn(Screen(a_snapshot(workers=50, alerts=alerts), watching=True), 80, height)
    assert len(lines) <= height
    shown = sum("number" in line for line in lines)
    assert shown == (1 if height == 24 else 9)
    assert f"and {30 - shown} more alerts: see `diracx-task-run status`" in lines
    assert sum(" 7/100 " in line for line in lines) >= 1
    few = drawn(Screen(a_snapshot(alerts=alerts[:2]), watching=True), 80, height)
    assert sum("number" in line for line in few) == 2


def test_a_long_alert_is_cut_on_a_low_watched_screen() -> None:
    alerts = [Alert(level="critical", name="x", text="many words " * 60), ALERTS[1]]
    lines = drawn(Screen(a_snapshot(workers=50, alerts=alerts), watching=True), 80, 24)
    assert len(lines) <= 24
    assert "2 alerts, the first one cut: see `diracx-task-run status`" in lines


def test_workers_of_one_host_and_pid_are_told_apart_by_the_ends_of_their_ids() -> None:
    worker = a_snapshot().status.workers[0]
    twins = [msgspec.structs.replace(worker, id=f"box-1-small-{end}", host="box", pid=1) for end in ("ab3d", "x7k2")]
    other = msgspec.structs.replace(worker, id="box-2-small-qqqq", host="box", pid=2)
    text = plain(a_snapshot(workers=0, status=msgspec.structs.replace(a_snapshot().status, workers=[*twins, other])))
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith("box")] == [
        "box 1 ab3d",
        "box 1 x7k2",
        "box 2",
    ]


def test_a_missing_queue_stays_on_a_low_screen() -> None:
    snapshot = a_snapshot()
    idle = [
        msgspec.structs.replace(queue, waiting=0, in_hand=0, redelivered=0, oldest_seconds=None, missing=number == 0)
        for number, queue in enumerate(snapshot.status.queues)
    ]
    status = msgspec.structs.replace(snapshot.status, queues=idle)
    text = "\n".join(drawn(Screen(a_snapshot(status=status, workers=50), watching=True), 80, 16))
    assert re.search(r"realtime +small .*missing", text)
    assert "normal     small" not in text


def test_open_groups_and_notes_of_cancellation_have_a_line_only_where_there_are_any() -> None:
    snapshot = a_snapshot()
    assert not [line for line in plain(snapshot).splitlines() if line.startswith(("groups", "cancelled"))]
    lines = []
    for groups, cancelled in ((3, 1), (None, 2)):
        status = msgspec.structs.replace(snapshot.status, groups=groups, cancelled=cancelled)
        text = plain(a_snapshot(status=status))
        lines += [line.split() for line in text.splitlines() if line.startswith(("groups", "cancelled"))]
    assert lines == [["groups", "3"], ["cancelled", "1", "note"], ["groups", "many"], ["cancelled", "2", "notes"]]
