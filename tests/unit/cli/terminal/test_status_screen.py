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
    QueueStatus,
    SchedulerStatus,
    Status,
    StatusSnapshot,
    WorkerStatus,
)
from diracx.tasks.plumbing.worker.snapshot import HeldTask

NOW = datetime(2026, 12, 1, 6, tzinfo=UTC)


def a_snapshot(workers: int = 2, **changes: Any) -> StatusSnapshot:
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
        held=[],
    )
    defaults: dict[str, Any] = {
        "status": status,
        "at": NOW,
        "parked": {queue.subject: 42 for queue in queues},
        "per_second": {"node-0": 1234.5},
        "last_pull": {"node-0": 0.1},
        "next_occurrence": NOW + timedelta(minutes=5),
    }
    return StatusSnapshot(**(defaults | changes))


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
        "2026-12-01 06:05:00 UTC, in 5 min 0 s",
        "node-0.example.org 0  small  7/100   1234.5",
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
    lines = plain(a_snapshot(workers=0, parked=None, next_occurrence=None)).splitlines()
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
            paused_until=untils[number] if number < len(untils) else None,
        )
        for number, queue in enumerate(a_snapshot().status.queues)
    ]
    status = msgspec.structs.replace(a_snapshot().status, queues=queues)
    return a_snapshot(status=status, parked={queue.subject: 100_000 for queue in queues})


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
    first, second, third = a_snapshot(workers=3).status.workers
    workers = [first, msgspec.structs.replace(second, isolated=task), third]
    status = msgspec.structs.replace(a_snapshot().status, workers=workers)
    return a_snapshot(status=status, last_pull={f"node-{n}": 71.5 for n in range(3)})


def test_a_narrow_terminal_marks_a_worker_with_an_isolated_task_in_place_of_its_last_pull() -> None:
    lines = drawn(Screen(isolating(SUSPECT)), 80, 40)
    pulls = [re.split(" {2,}", line)[4] for line in lines if "7/100" in line]
    assert pulls == ["1 min 11 s ago", "isolated", "1 min 11 s ago"]
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_a_wide_terminal_and_a_pipe_name_the_isolated_task() -> None:
    for lines in (drawn(Screen(isolating(SUSPECT)), 140, 40), plain(isolating(SUSPECT)).splitlines()):
        (head,) = (line for line in lines if line.lstrip().startswith("worker "))
        assert head.endswith("isolated")
        (row,) = (line for line in lines if "node-1.example.org 1" in line)
        assert row.endswith(f"  {SUSPECT}")
        assert row.index(SUSPECT) == head.index("isolated")
        assert "1 min 11 s ago" in row
        assert max(map(len, lines)) <= 140


def test_a_long_name_of_an_isolated_task_is_cut_and_the_numbers_are_not() -> None:
    lines = drawn(Screen(isolating(f"a_long_category:{'Reprocess' * 9}Task {'7' * 32}")), 120, 40)
    (row,) = (line for line in lines if "node-1.example.org 1" in line)
    assert row.endswith("…")
    assert "node-1.example.org 1  small  7/100" in row
    assert "1 min 11 s ago" in row
    assert "  a_long_category:Reprocess" in row
    assert len(row) <= 120


@pytest.mark.parametrize("width", [80, 140])
def test_without_an_isolated_task_there_is_no_column_of_them(width: int) -> None:
    assert "isolated" not in "\n".join(drawn(Screen(isolating(None)), width, 40)) + plain(isolating(None))


def test_the_name_of_an_isolated_task_does_not_control_the_terminal() -> None:
    text = "\n".join(drawn(Screen(isolating("a:B \x1b[2J")), 140, 40)) + plain(isolating("a:B \x1b[2J"))
    assert "\x1b[2J" not in text
    assert text.count(r"a:B \x1b[2J") == 2


@pytest.mark.parametrize("height", [24, 40])
def test_held_tasks_are_named_in_one_line_with_their_vo(height: int) -> None:
    held = [HeldTask("lollygag:SyncOwnersTask", None), HeldTask("lollygag:FetchTask", "my vo.org")]
    status = msgspec.structs.replace(a_snapshot(workers=50).status, held=held)
    lines = drawn(Screen(a_snapshot(status=status), watching=True), 100, height)
    assert "held          lollygag:SyncOwnersTask, lollygag:FetchTask of my vo.org" in lines
    assert len(lines) <= height
    assert "\nheld          lollygag:SyncOwnersTask, lollygag:FetchTask of my vo.org\n" in plain(
        a_snapshot(status=status)
    )
    assert "held" not in plain(a_snapshot())


@pytest.mark.parametrize("height", [24, 40])
def test_tasks_that_are_not_served_are_named_in_one_line_with_the_number_of_workers(height: int) -> None:
    status = a_snapshot(workers=50).status
    down = {"garage:Open": "DoorSettings: no answer", "garage:Shut": "DoorSettings: no answer"}
    first, second, *others = status.workers
    first = msgspec.structs.replace(first, not_served=down)
    second = msgspec.structs.replace(second, not_served={"garage:Open": "DoorSettings: no answer"})
    status = msgspec.structs.replace(status, workers=[first, second, *others])
    lines = drawn(Screen(a_snapshot(status=status), watching=True), 100, height)
    assert "not served    garage:Open by 2 workers, garage:Shut by 1 worker" in lines
    assert len(lines) <= height
    assert "\nnot served    garage:Open by 2 workers, garage:Shut by 1 worker\n" in plain(a_snapshot(status=status))
    assert "not served" not in plain(a_snapshot())


@pytest.mark.parametrize("width", [80, 140])
def test_missing_queues_and_wrong_clocks_stand_out_and_are_there_only_if_there_are_any(width: int) -> None:
    snapshot = a_snapshot()
    for text in (plain(snapshot), "\n".join(drawn(Screen(snapshot), width, 40))):
        assert "missing" not in text
        assert "clock" not in text
    status = snapshot.status
    first, *queues = status.queues
    workers = [
        msgspec.structs.replace(worker, clock_ahead_seconds=seconds)
        for worker, seconds in zip(status.workers, (7200.0, -4.9), strict=True)
    ]
    status = msgspec.structs.replace(
        status,
        queues=[msgspec.structs.replace(first, missing=True, redelivered=0), *queues],
        workers=workers,
        scheduler=msgspec.structs.replace(
            status.scheduler, clock_ahead_seconds={"node-7-1-scheduler": -90.0, "node-8-1-scheduler": None}
        ),
    )
    snapshot = a_snapshot(status=status)
    for text in (plain(snapshot), "\n".join(drawn(Screen(snapshot, watching=True), width, 40))):
        assert re.search(r"realtime +small +1234567 +100 +42 +missing", text)
        assert re.search(r"missing +realtime-small: run `diracx-task-run setup`", text)
        assert re.search(r"wrong clock +node-0.example.org 0 is 2 h 0 min ahead, node-7-1-scheduler is", text)
    assert "node-7-1-scheduler is 1 min 30 s behind" in plain(snapshot)


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


def test_replicas_that_are_catching_up_have_a_line_only_where_there_are_any() -> None:
    snapshot = a_snapshot()
    assert "catching up" not in plain(snapshot)
    behind = ["stream DIRACX_LATER: server-2 is offline", "bucket diracx_locks: has no leader"]
    text = plain(a_snapshot(status=msgspec.structs.replace(snapshot.status, catching_up=behind)))
    assert re.search(f"^catching up +{behind[0]}; {behind[1]}$", text, re.MULTILINE)
