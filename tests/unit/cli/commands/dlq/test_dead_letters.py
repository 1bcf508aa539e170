"""The selection of dead letters."""

from __future__ import annotations

import click
import pytest

from diracx.tasks.cli.commands.dlq.dead_letters import Selection
from diracx.tasks.plumbing.dead_letters.reader import DeadTask

REMAINS = [
    DeadTask(seq=seq, stored_us=0, task=task, has_dead_letter=True, sequence=seq, advisories=(), original_us=None)
    for seq, task in ((1, "a:B"), (2, None), (3, "a:C"))
]


@pytest.mark.parametrize(
    ("selection", "selected", "missing"),
    [
        (Selection((3, 1, 7), None, False), [1, 3], [7]),
        (Selection((), "a:C", False), [3], []),
        (Selection((), "a:Nowhere", False), [], []),
        (Selection((), None, True), [1, 2, 3], []),
    ],
)
def test_it_selects_the_named_ones_and_knows_which_are_missing(
    selection: Selection, selected: list[int], missing: list[int]
) -> None:
    assert [each.seq for each in selection.of(REMAINS)] == selected
    assert selection.missing(REMAINS) == missing


@pytest.mark.parametrize(
    ("seqs", "task", "everything"), [((), None, False), ((1,), "a:B", False), ((1,), None, True), ((), "a:B", True)]
)
def test_exactly_one_way_of_naming_them_is_allowed(seqs: tuple[int, ...], task: str | None, everything: bool) -> None:
    with pytest.raises(click.UsageError, match="either SEQ"):
        Selection(seqs, task, everything)
