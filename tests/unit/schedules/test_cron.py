"""Cron expressions, also when the clocks change, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.schedules import CronSchedule
from support.occurrences import (
    BEFORE_AUTUMN,
    BEFORE_SPRING,
    crons,
    near_turns,
    occurrences,
    on_the_wall,
)


@pytest.mark.parametrize(
    ("expression", "walls"),
    [
        ("30 2 * * *", ["29 03:00 CEST", "30 02:30 CEST"]),
        ("0 2 * * *", ["29 03:00 CEST", "30 02:00 CEST"]),
        ("0,20,40 2 * * *", ["29 03:00 CEST", "30 02:00 CEST", "30 02:20 CEST"]),
        ("30 2,3 * * *", ["29 03:00 CEST", "29 03:30 CEST", "30 02:30 CEST"]),
        ("0 2,3 * * *", ["29 03:00 CEST", "30 02:00 CEST"]),
        ("0 */2 * * *", ["29 03:00 CEST", "29 04:00 CEST"]),
        ("0 * * * *", ["29 01:00 CET", "29 03:00 CEST", "29 04:00 CEST"]),
        ("30 */1 * * *", ["29 01:30 CET", "29 03:30 CEST"]),
        ("*/30 * * * *", ["29 01:00 CET", "29 01:30 CET", "29 03:00 CEST", "29 03:30 CEST"]),
        ("30 0-23 * * *", ["29 01:30 CET", "29 03:30 CEST"]),
    ],
)
def test_cron_where_the_clock_skips_an_hour(expression: str, walls: list[str]) -> None:
    assert on_the_wall(CronSchedule(expression, "Europe/Zurich"), BEFORE_SPRING, len(walls)) == walls


@pytest.mark.parametrize(
    ("expression", "walls"),
    [
        ("30 2 * * *", ["25 02:30 CEST", "26 02:30 CET"]),
        ("0 2 * * *", ["25 02:00 CEST", "26 02:00 CET"]),
        ("0,30 2,3 * * *", ["25 02:00 CEST", "25 02:30 CEST", "25 03:00 CET", "25 03:30 CET"]),
        ("0 */2 * * *", ["25 02:00 CEST", "25 04:00 CET"]),
        ("0 * * * *", ["25 01:00 CEST", "25 02:00 CEST", "25 02:00 CET", "25 03:00 CET"]),
        ("*/40 */1 * * *", ["25 00:40 CEST", "25 01:00 CEST", "25 01:40 CEST", "25 02:00 CEST"]),
        ("30 * * * *", ["25 01:30 CEST", "25 02:30 CEST", "25 02:30 CET", "25 03:30 CET"]),
    ],
)
def test_cron_where_the_clock_repeats_an_hour(expression: str, walls: list[str]) -> None:
    assert on_the_wall(CronSchedule(expression, "Europe/Zurich"), BEFORE_AUTUMN, len(walls)) == walls


@pytest.mark.parametrize("after", [BEFORE_SPRING, BEFORE_AUTUMN], ids=["skipped", "repeated"])
def test_cron_each_minute_runs_each_minute_of_real_time(after: datetime) -> None:
    found = occurrences(CronSchedule("* * * * *", "Europe/Zurich"), after, 300)
    assert found == [after + timedelta(minutes=n) for n in range(1, 301)]


@settings(deadline=None)
@given(cron=crons, after=near_turns)
def test_cron_runs_when_and_only_when_its_rule_says(cron: CronSchedule, after: datetime) -> None:
    zone = ZoneInfo(cron.timezone)
    minute, hour, *_ = cron.expression.split()
    each_hour = hour in ("*", "*/1", "0-23")
    after = after.replace(second=0, microsecond=0)
    end = after + timedelta(hours=6)
    expected = set()
    for n in range(-120, 361):
        at = after + timedelta(minutes=n)
        local, before = at.astimezone(zone), (at - timedelta(minutes=1)).astimezone(zone)
        shown = local.replace(tzinfo=None, fold=0)
        walls = [shown] if each_hour or not local.fold else []
        gap = shown - before.replace(tzinfo=None, fold=0)
        if not each_hour:
            walls += [shown - timedelta(minutes=m) for m in range(1, int(gap / timedelta(minutes=1)))]
        if any(_matches(minute, wall.minute) and _matches(hour, wall.hour) for wall in walls):
            expected.add(at)
    found = set()
    while (at := cron.next_occurrence(after)) <= end:
        found.add(at)
        after = at
    assert sorted(found) == sorted(at for at in expected if end - timedelta(hours=6) < at <= end)


def _matches(field: str, value: int) -> bool:
    """A second reading of the few cron fields above."""
    if field.startswith("*"):
        return value % int(field[2:] or 1) == 0
    low, _, high = field.partition("-")
    return int(low) <= value <= int(high) if high else value in map(int, field.split(","))


def test_cron_takes_day_names_months_and_nicknames() -> None:
    after = datetime(2026, 5, 6, tzinfo=UTC)
    assert CronSchedule("0 6 * jun MON").next_occurrence(after) == datetime(2026, 6, 1, 6, tzinfo=UTC)
    assert CronSchedule("0 0 29 2 *").next_occurrence(after) == datetime(2028, 2, 29, tzinfo=UTC)
    assert CronSchedule("@weekly").next_occurrence(after) == datetime(2026, 5, 10, tzinfo=UTC)


def test_cron_with_both_day_fields_runs_on_either() -> None:
    found = occurrences(CronSchedule("0 0 13 * FRI"), datetime(2026, 5, 2, tzinfo=UTC), 3)
    assert [at.day for at in found] == [8, 13, 15]


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("0 0 6 * * *", "6 fields"),
        ("@reboot", "1 fields"),
        ("60 * * * *", "out of range"),
        ("a b c d e", "cannot be read"),
        ("0 0 31 2 *", "never comes true"),
        ("R * * * *", "H and R"),
        ("0 1,H(2-4) * * *", "H and R"),
    ],
)
def test_a_cron_expression_that_cannot_work_is_refused(expression: str, why: str) -> None:
    with pytest.raises(TaskDefinitionError, match=why) as caught:
        CronSchedule(expression)
    assert repr(expression) in str(caught.value)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe", "a\0b"], ids=repr)
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(TaskDefinitionError, match="unknown time zone"):
        CronSchedule("0 6 * * *", zone)
