"""What `cancel` says of each target."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from diracx.tasks.cli.commands.cancel import lines
from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.operations.cancellation import Answer, RunningTask

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)
WAITS = "cancelled a: it waits in its queue, and is dropped when its turn comes"
RUNS = "lollygag:SyncOwnersTask a runs on node1-7-small since 2026-12-01T06:00:00Z: asked"


def running(blocked_at: str | None = None) -> list[RunningTask]:
    return [RunningTask("a", "lollygag:SyncOwnersTask", "node1-7-small", AT, blocked_at)]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"withdrawn": 1}, "cancelled a: it was to run later, and is withdrawn"),
        ({"waiting": 1}, WAITS),
        (
            {"waiting": 1, "silent": ["node1-7-small", "node1-8-small"]},
            f"{WAITS}, unless it runs on node1-7-small or node1-8-small, which does not answer",
        ),
        (
            {"waiting": 1, "until": AT},
            "cancelled a: it waits for its retry, and is dropped at 2026-12-01T06:00:00Z",
        ),
        ({"cancelled": 1}, "cancelled a: it has ended"),
        ({"finished": 1}, "a was not cancelled: it was running, and has finished all the same"),
        ({"running": running()}, f"{RUNS}; it has not ended yet"),
        ({"running": running("at t.py:7 in execute")}, f"{RUNS}; it does not yield, at t.py:7 in execute"),
        (
            {"dead_letters": [12]},
            "a was not cancelled: it is dead letter 12, which stays; see `diracx-task-run dlq show 12`",
        ),
        (
            {},
            (
                "no message of a is in a queue or runs: it has ended, was never submitted, or waits for its group to "
                "store it. If it comes yet, it is dropped. A group and its children are cancelled by --group"
            ),
        ),
    ],
)
def test_one_task_has_one_line(found: dict[str, Any], said: str) -> None:
    assert lines(Answer(kind=Kind.ID, key="a", at=AT, **found)) == [said]


def test_many_tasks_are_counted_and_those_that_run_on_are_named() -> None:
    answer = Answer(
        kind=Kind.TASK, key="a:B", at=AT, withdrawn=1, waiting=3, cancelled=2, finished=1, running=running()
    )
    counted, still_running = lines(answer)
    assert counted == (
        "task a:B: 1 withdrawn, which were to run later; 3 waiting, and dropped when their turn comes; "
        "2 cancelled by their workers; 1 finished all the same; 1 asked, and still running"
    )
    assert still_running == f"{RUNS}; it has not ended yet"


def test_a_group_without_any_task_left_is_told() -> None:
    (line,) = lines(Answer(kind=Kind.GROUP, key="g", at=AT))
    assert line == "group g: nothing waits or runs that was submitted until 2026-12-01T06:00:00Z"


def test_an_id_with_a_line_break_has_one_line_too() -> None:
    (line,) = lines(Answer(kind=Kind.ID, key="a\nb", at=AT, withdrawn=1))
    assert line == "cancelled a\\nb: it was to run later, and is withdrawn"
