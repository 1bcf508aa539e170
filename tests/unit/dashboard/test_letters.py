"""The filter of a form, and the counts of tasks in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.dashboard.actions import RefusedError
from diracx.tasks.dashboard.letters import filter_of, summed_by_task, values_of
from diracx.tasks.plumbing.dead_letters.selection import Filter

NOW = datetime(2026, 12, 1, 12, 30, 15, 7, tzinfo=UTC)


def test_a_filter_survives_its_way_through_a_form() -> None:
    filter_ = filter_of({"task": "a:B", "error": "E", "reason": "mice", "since": "24h"}, NOW)
    assert filter_ == Filter("a:B", "mice", datetime(2026, 11, 30, 12, 30, tzinfo=UTC), "E")
    assert filter_of(dict(values_of(filter_)), NOW + timedelta(days=1)) == filter_
    assert filter_of({"task": "", "since": ""}, NOW) == Filter()
    assert values_of(Filter()) == []


@pytest.mark.parametrize("since", ["noon", "1y", "2026-12-01T06:00:00", "9" * 999])
def test_a_time_that_is_none_is_refused(since: str) -> None:
    with pytest.raises(RefusedError, match="is no time"):
        filter_of({"since": since}, NOW)


def test_the_largest_tasks_are_named_and_the_rest_is_counted() -> None:
    assert summed_by_task([("a:B", 2), ("a:C", 1_000)]) == "1,000 of a:C and 2 of a:B"
    assert summed_by_task([(None, 1)]) == "1 of a task that is not known"
    many = [(f"a:T{number}", number) for number in range(1, 6)]
    assert summed_by_task(many, 3) == "5 of a:T5, 4 of a:T4, 3 of a:T3 and 3 of 2 further tasks"
