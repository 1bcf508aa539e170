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


@pytest.mark.parametrize(
    ("days", "found"),
    [
        ("13 * FRI", [1, 8, 13, 15, 22, 29]),
        ("8-9 * 0#2", [8, 9, 10]),
        ("1 * mon#1", [1, 4]),
        ("15 * L5", [15, 29]),
        ("8 * 5L", [8, 29]),
        ("8 * Lfri", [8, 29]),
        ("8 * mon,fri#1", [1, 4, 8, 11, 18, 25]),
        ("15W * sun#5", [15, 31]),
        ("? * 5-7", [1, 2, 3, 8, 9, 10, 15, 16, 17, 22, 23, 24, 29, 30, 31]),
        ("* * sat-sun", [2, 3, 9, 10, 16, 17, 23, 24, 30, 31]),
        ("* * 1-7#2", [8, 9, 10, 11, 12, 13, 14]),
        ("*/15 * mon", [1, 4, 11, 16, 18, 25, 31]),
        ("*/2 * */7", [*range(1, 32, 2), 10, 24]),
        ("L * ?", [31]),
        ("LW * ?", [29]),
        ("2W * *", [1]),
        ("3W * *", [4]),
        ("W16 * *", [15]),
        ("29-L * *", [29, 30, 31]),
        ("15W,1,LW * *", [1, 15, 29]),
        ("* * L5,mon#1,sat", [2, 4, 9, 16, 23, 29, 30]),
        ("30-2 * *", [1, 2, 30, 31]),
    ],
)
def test_cron_names_the_days_of_a_month(days: str, found: list[int]) -> None:
    # May 2026 begins on a Friday, and ends on a Sunday.
    schedule, at, end = CronSchedule(f"0 0 {days}"), datetime(2026, 4, 30, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    days_of_may = []
    while (at := schedule.next_occurrence(at)) < end:
        days_of_may.append(at.day)
    assert days_of_may == sorted(found)


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("0 22-2 * * *", "0 0,1,2,22,23 * * *"),
        ("0 20-10/5 * * *", "0 1,6,20 * * *"),
        ("50-10/15 5/6 * * *", "5,50 5,11,17,23 * * *"),
        ("0 5-5 * * *", "0 5 * * *"),
        ("0 0 1 apr-jan/3 *", "0 0 1 1,4,7,10 *"),
        (" @Daily ", "0 0 * * *"),
        ("@weekly", "0 0 * * 7"),
        ("*/7 0 * * *", "0,7,14,21,28,35,42,49,56 0 * * *"),
    ],
)
def test_ranges_wrap_and_steps_go_on_through_the_wrap(expression: str, same: str) -> None:
    after = datetime(2026, 5, 2, tzinfo=UTC)
    assert occurrences(CronSchedule(expression), after, 40) == occurrences(CronSchedule(same), after, 40)


def test_a_match_in_a_later_gap_is_not_taken_for_one_in_the_repeated_hour_of_now() -> None:
    # In Beirut the clock goes from 24:00 back to 23:00 on 2025-10-25, and skips midnight on 2026-03-29.
    schedule = CronSchedule("0 * 29 3 *", "Asia/Beirut")
    assert schedule.next_occurrence(datetime(2025, 10, 25, 20, 30, tzinfo=UTC)) == datetime(2026, 3, 28, 22, tzinfo=UTC)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TaskDefinitionError, match=r"cron 5: the expression must be a text"):
        CronSchedule(5)  # type: ignore[arg-type]
    with pytest.raises(TaskDefinitionError, match="unknown time zone 5"):
        CronSchedule("0 0 * * *", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("0 0 6 * * *", "6 fields"),
        ("0 0 6 * * * 2027", "7 fields"),
        ("@reboot", "1 fields"),
        ("@every 5m", "2 fields"),
        ("60 * * * *", "60 is out of range for the field minute, 0 to 59"),
        ("a b c d e", "'a' is no minute"),
        ("\u0663 * * * *", "is no minute, write e.g. 1, 1-5"),
        ("-1 * * * *", "'-1' is no minute"),
        ("*/0 * * * *", "the step of '\\*/0' must be 1 to 60"),
        ("*/90 * * * *", "the step of '\\*/90' must be 1 to 60 in the field minute"),
        ("0 ? * * *", "'\\?' is no hour"),
        ("0 0 0 * *", "0 is out of range for the field day of month"),
        ("0 0 1, * *", "'' is no day of month"),
        ("0 0 L-3 * *", "'l' is no day of month"),
        ("0 0 31W * *", "LW is the last weekday of the month"),
        ("0 0 0W * *", "must be 1W to 28W"),
        ("0 0 * 13 *", "13 is out of range for the field month"),
        ("0 0 * thu *", "'thu' is no month"),
        ("0 0 * * 8", "8 is out of range for the field weekday"),
        ("0 0 * * L", "'l' is no weekday"),
        ("0 0 * * 1#6", "fri#1 to fri#5"),
        ("0 0 * * mon#", "fri#1 to fri#5"),
        ("0 0 * * *#2", "fri#1 to fri#5"),
        ("0 0 * * 1-5/2#2", "fri#1 to fri#5"),
        ("0 0 31 2 *", "never comes true"),
        ("0 0 31 2,4,6,9,11 ?", "never comes true"),
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
