"""The selection of dead letters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.selection import Filter, Selection

AT = datetime(2026, 12, 1, tzinfo=UTC)


def letter(seq: int, task: str | None, reason: str = "over", died: datetime = AT) -> DeadLetter:
    return DeadLetter(
        seq=seq,
        task=task,
        id=None,
        args=None,
        labels={},
        reason=reason,
        attempts=None,
        errors=[],
        submitted=None,
        died=died,
    )


LETTERS = [
    letter(1, "a:B"),
    letter(2, None, "malformed: no name"),
    letter(3, "a:C", "no retry is left after 2 executions: ValueError: mice", AT + timedelta(hours=1)),
]


@pytest.mark.parametrize(
    ("selection", "selected", "missing"),
    [
        (Selection((3, 1, 7), Filter()), [1, 3], [7]),
        (Selection((), Filter(task="a:C")), [3], []),
        (Selection((), Filter(task="a:Nowhere")), [], []),
        (Selection((), Filter(reason="valueerror")), [3], []),
        (Selection((), Filter(since=AT + timedelta(minutes=1))), [3], []),
        (Selection((), Filter(task="a:C", reason="malformed")), [], []),
        (Selection((), Filter(error="malformed")), [2], []),
        (Selection((), Filter()), [1, 2, 3], []),
    ],
)
def test_it_selects_the_named_ones_and_knows_which_are_missing(
    selection: Selection, selected: list[int], missing: list[int]
) -> None:
    assert [each.seq for each in LETTERS if selection.selects(each)] == selected
    assert selection.missing == missing


def test_a_filter_is_told_in_words() -> None:
    filter_ = Filter("a:B", "mice", AT, "ValueError")
    assert str(filter_) == " of a:B that ended with ValueError with the reason 'mice' since 2026-12-01T00:00:00Z"
