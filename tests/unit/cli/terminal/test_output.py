"""Lists on a terminal: what an operator types next is whole at every width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from diracx.tasks.cli.terminal.tables import Columns, Prose, laid_out

DEAD: Columns = ["seq", "died", "task", "id", "attempts", Prose("reason")]
ID = "fbad372ddf92429dbadd9c2a131f1146"
DIED = "2026-12-01T06:00:00Z"


def dead(task: str = "acme:SyncOwnersTask", reason: str = "no retry is left") -> list[str]:
    return ["7", DIED, task, ID, "2", reason]


def drawn(columns: Columns, rows: list[list[str]], width: int) -> list[str]:
    return [line.plain for line in laid_out(columns, rows, width)]


def test_rows_that_fit_are_lines_under_the_names() -> None:
    lines = drawn(DEAD, [dead(), dead("acme:Other", "malformed")], 140)
    assert lines == [
        "seq  died                  task                 id                                attempts  reason",
        f"7    {DIED}  acme:SyncOwnersTask  {ID}  2         no retry is left",
        f"7    {DIED}  acme:Other           {ID}  2         malformed",
    ]


def test_what_does_not_fit_beside_stands_below_behind_its_name() -> None:
    reason = "no retry is left after 2 executions: ValueError: there is no owner of that name in the catalogue"
    assert drawn(DEAD, [dead(reason=reason)], 79) == [
        "seq  died                  task",
        f"7    {DIED}  acme:SyncOwnersTask",
        f"    id: {ID}  attempts: 2",
        "    reason: no retry is left after 2 executions: ValueError: there is no owner",
        "            of that name in the catalogue",
    ]


def test_prose_is_broken_between_words_beside_other_columns() -> None:
    reason = "no retry is left after 2 executions: ValueError"
    lines = drawn(DEAD, [dead(reason=reason)], 125)
    assert [line[-30:].strip() for line in lines[1:]] == [
        "no retry is left after 2",
        "executions: ValueError",
    ]
    assert max(map(len, lines)) <= 125


def test_a_few_long_rows_do_not_change_the_others() -> None:
    long = "acme:ReconcileTheReplicaCatalogueAcrossEverySiteTask"
    rows = [dead(), dead(), dead(), dead(long)]
    lines = drawn(DEAD, rows, 125)
    assert lines[:4] == drawn(DEAD, rows[:3], 125)
    assert lines[4:] == [
        f"7    {DIED}",
        f"    task: {long}  id: {ID}  attempts: 2",
        "    reason: no retry is left",
    ]


def test_an_empty_cell_has_no_name_below() -> None:
    row = dead()
    row[3] = ""
    assert drawn(DEAD, [row], 50)[2:] == ["    attempts: 2  reason: no retry is left"]


def test_an_identifier_wider_than_the_terminal_is_one_line() -> None:
    key = f"mutex.job.{'x' * 90}"
    assert drawn(["key", "expires in"], [[key, "3 s"]], 80) == ["key", key, "    expires in: 3 s"]


words = st.text("ab-:/é語", max_size=30)


@given(
    rows=st.lists(st.tuples(words, words, st.lists(words, max_size=8).map(" ".join)), min_size=1, max_size=9),
    width=st.integers(20, 160),
)
def test_every_cell_is_whole_at_every_width(rows: list[tuple[str, str, str]], width: int) -> None:
    columns: Columns = ["key", "id", Prose("reason")]
    lines = drawn(columns, [list(row) for row in rows], width)
    shown = "\n".join(lines)
    longest = max(cell_len(cell) for row in rows for cell in (*row[:2], *row[2].split(), "reason"))
    for key, identifier, reason in rows:
        assert key in shown
        assert identifier in shown
        assert all(word in shown for word in reason.split())
    assert max(map(cell_len, lines)) <= max(width, longest + len("    reason: ") + 24)


@pytest.mark.parametrize("width", [1, 10, 79])
def test_a_single_column_is_a_list(width: int) -> None:
    assert drawn(["key"], [["mutex.job.8"], ["a"]], width) == ["key", "mutex.job.8", "a"]
