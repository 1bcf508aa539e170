"""The ways in which a command names dead letters."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import pytest

from diracx.tasks.cli.commands.dlq.dead_letters import chosen
from diracx.tasks.plumbing.dead_letters.selection import Filter

AT = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seqs", "everything", "filter_"),
    [
        ((), False, Filter()),
        ((1,), False, Filter(task="a:B")),
        ((1,), True, Filter()),
        ((), True, Filter(reason="over")),
        ((1,), False, Filter(since=AT)),
    ],
)
def test_exactly_one_way_of_naming_them_is_allowed(seqs: tuple[int, ...], everything: bool, filter_: Filter) -> None:
    with pytest.raises(click.UsageError, match="either SEQ"):
        chosen(seqs, everything, filter_)
