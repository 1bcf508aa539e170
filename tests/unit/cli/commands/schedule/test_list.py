"""The VOs that somebody names to `schedule list`."""

from __future__ import annotations

import click
import pytest

from diracx.tasks.cli.commands.schedule.list import check_vos


def test_a_vo_is_one_of_those_that_are_known_and_any_where_none_is() -> None:
    check_vos(["lhcb", "atlas"], {"lhcb", "atlas"})
    check_vos(["cms"], set())


@pytest.mark.parametrize(("vo", "hint"), [("lhbc", "did you mean lhcb?"), ("x", "there is atlas, lhcb")])
def test_another_one_is_refused_with_a_near_name_or_all(vo: str, hint: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        check_vos(["lhcb", vo], {"lhcb", "atlas"})
    assert str(refused.value) == f"no VO {vo!r} is known here; {hint}"
