"""What `task` prints of what the workers remember."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.cli.commands import task
from diracx.tasks.cli.terminal.details import print_details
from diracx.tasks.plumbing.operations.task_document import State, TaskDocument
from support.task_lookups import past_delivery

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def test_the_past_is_a_line_for_each_event_and_hostile_text_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    past = [
        past_delivery(NOON + timedelta(minutes=minute), "lock_busy", message)
        for minute, message in enumerate(["mutex.job.7 is held by c:D 9", "\x1b[2J"])
    ]
    document = TaskDocument(id="0192", state=State.PARKED, why=["it waits"], past=past)
    print_details({name: text for name, text in task._fields(document).items() if text}, document.errors)
    printed = capsys.readouterr().out
    assert "past       2026-12-01T12:00:00Z given back by w: mutex.job.7 is held by c:D 9\n" in printed
    assert "           2026-12-01T12:01:00Z given back by w: " in printed
    assert "\x1b" not in printed
