"""Recurrence rules (RFC 5545): their phase, their end, and what is refused."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import ScheduleEndedError, TaskDefinitionError, TaskError
from diracx.tasks.plumbing.schedules import RRuleSchedule
from support.occurrences import (
    BEFORE_AUTUMN,
    BEFORE_SPRING,
    EPOCH,
    RULES,
    occurrences,
    on_the_wall,
)


def test_a_rule_keeps_the_phase_of_its_start() -> None:
    rule = RRuleSchedule("DTSTART:20260101T060000Z\nRRULE:FREQ=HOURLY;INTERVAL=7")
    start = datetime(2026, 1, 1, 6, tzinfo=UTC)
    assert rule.next_occurrence(EPOCH) == start
    for n in (1, 1_000, 100_000):
        assert rule.next_occurrence(start + timedelta(hours=7 * n - 1)) == start + timedelta(hours=7 * n)


@pytest.mark.parametrize("rule", ["FREQ=DAILY;INTERVAL=10", "RRULE:FREQ=DAILY;INTERVAL=10", "freq=daily;interval=10"])
def test_a_rule_without_a_start_counts_from_the_epoch(rule: str) -> None:
    found = RRuleSchedule(rule).next_occurrence(datetime(2026, 5, 4, 10, tzinfo=UTC))
    assert (found - EPOCH).days % 10 == 0
    assert found.time() == EPOCH.time()


@pytest.mark.parametrize(
    ("rule", "start", "days"),
    [
        ("DTSTART:20260131T060000Z RRULE:FREQ=MONTHLY", 2027, ["01-31", "03-31", "05-31"]),
        ("DTSTART:20240229T060000Z RRULE:FREQ=YEARLY", 2027, ["02-29", "02-29"]),
        ("DTSTART:20260131T060000Z RRULE:FREQ=DAILY;BYMONTH=2", 2027, ["02-01", "02-02"]),
        ("DTSTART:20260101T060000Z RRULE:FREQ=MONTHLY;INTERVAL=5;BYDAY=-1FR", 2027, ["04-30", "09-24"]),
        (
            "DTSTART:20260105T060000Z RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,SU",
            2027,
            ["01-04", "01-10", "01-18"],
        ),
        ("DTSTART:20260120T060000Z RRULE:FREQ=MONTHLY;BYMONTHDAY=5,20", 2027, ["01-05", "01-20"]),
        ("DTSTART:20260108T060000Z RRULE:FREQ=WEEKLY;INTERVAL=2", 2027, ["01-07", "01-21"]),
        ("FREQ=MONTHLY;BYDAY=2TU", 2027, ["01-12", "02-09"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", 2027, ["01-29", "02-26"]),
        ("FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=2", 2027, ["01-05", "01-12", "01-19", "01-26", "02-02"]),
        ("FREQ=MONTHLY;BYDAY=MO(2)", 2027, ["01-11", "02-08"]),
        ("FREQ=YEARLY;BYWEEKDAY=-1SU;BYMONTH=3", 2027, ["03-28", "03-26"]),
        ("FREQ=YEARLY;BYEASTER=0", 2027, ["03-28", "04-16", "04-01"]),
        ("FREQ=YEARLY;BYWEEKNO=-1;BYDAY=MO", 2027, ["12-27", "12-25"]),
        ("FREQ=DAILY;BYHOUR=9,17;BYSETPOS=-1;BYDAY=SA", 2027, ["01-02", "01-09"]),
    ],
)
def test_a_rule_steps_through_the_calendar(rule: str, start: int, days: list[str]) -> None:
    found = occurrences(RRuleSchedule(rule), datetime(start, 1, 1, tzinfo=UTC), len(days))
    assert [f"{at:%m-%d}" for at in found] == days


@settings(deadline=None)
@given(rule=st.sampled_from(RULES[2:]).map(RRuleSchedule), steps=st.integers(1, 50))
def test_an_answer_far_from_the_start_equals_that_of_a_walk(rule: RRuleSchedule, steps: int) -> None:
    walked = occurrences(rule, datetime(2026, 1, 1, tzinfo=UTC), steps)
    assert all(one < other for one, other in pairwise(walked))
    assert rule.next_occurrence(walked[-1] - timedelta(seconds=1)) == walked[-1]


@pytest.mark.parametrize(
    ("rule", "seconds"),
    [("FREQ=SECONDLY", 1), ("FREQ=MINUTELY;INTERVAL=3", 180), ("FREQ=SECONDLY;BYMONTH=1;INTERVAL=2", 2)],
)
def test_a_frequent_rule_is_not_walked_from_its_start(rule: str, seconds: int) -> None:
    # A walk of up to 4,000,000,000 steps would not end.
    after = datetime(2099, 1, 1, tzinfo=UTC)
    expected = [after + timedelta(seconds=seconds * n) for n in range(1, 11)]
    assert occurrences(RRuleSchedule(rule), after, 10) == expected


def test_a_rule_where_the_clock_skips_or_repeats_an_hour() -> None:
    daily = RRuleSchedule("DTSTART;TZID=Europe/Zurich:20260101T023000 RRULE:FREQ=DAILY")
    assert on_the_wall(daily, BEFORE_SPRING, 2) == ["29 03:00 CEST", "30 02:30 CEST"]
    assert on_the_wall(daily, BEFORE_AUTUMN, 2) == ["25 02:30 CEST", "26 02:30 CET"]
    hourly = RRuleSchedule("DTSTART:20260101T000000Z RRULE:FREQ=HOURLY")
    assert on_the_wall(hourly, BEFORE_SPRING, 3) == ["29 01:00 CET", "29 03:00 CEST", "29 04:00 CEST"]
    assert on_the_wall(hourly, BEFORE_AUTUMN, 4)[1:] == ["25 02:00 CEST", "25 02:00 CET", "25 03:00 CET"]


def test_count_ends_a_rule_for_any_time() -> None:
    rule = RRuleSchedule("DTSTART:20260101T060000Z RRULE:FREQ=DAILY;COUNT=3")
    last = datetime(2026, 1, 3, 6, tzinfo=UTC)
    assert occurrences(rule, EPOCH, 3)[-1] == last
    for after in (last, last + timedelta(days=400)):
        with pytest.raises(ScheduleEndedError, match="COUNT=3 has ended") as caught:
            rule.next_occurrence(after)
        assert caught.value.after == after
    assert isinstance(caught.value, TaskError)


def test_until_ends_a_rule_and_is_included() -> None:
    rule = RRuleSchedule("DTSTART;TZID=Europe/Zurich:20260101T060000 RRULE:FREQ=DAILY;UNTIL=20260701T040000Z")
    last = datetime(2026, 7, 1, 4, tzinfo=UTC)
    assert rule.next_occurrence(last - timedelta(seconds=1)) == last
    with pytest.raises(ScheduleEndedError):
        rule.next_occurrence(last)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("", "one RRULE"),
        ("FREQ", "NAME=VALUE"),
        ("FREQ=DAILY;;", "NAME=VALUE"),
        ("BYHOUR=3", "FREQ must be one of"),
        ("FREQ=FORTNIGHTLY", "FREQ must be one of"),
        ("FREQ=DAILY;FREQ=DAILY", "twice"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL=0"),
        ("FREQ=DAILY;INTERVAL=-1", "INTERVAL=-1"),
        ("FREQ=DAILY;BYHOUR=25", "'25' must be a number from 0 to 23"),
        ("FREQ=DAILY;BYHOUR=", "'' must be a number from 0 to 23"),
        ("FREQ=MINUTELY;BYSECOND=60", "'60' must be a number from 0 to 59"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "1 to 31, or -31 to -1"),
        ("FREQ=MONTHLY;BYMONTH=1.5", "'1.5' must be a number from 1 to 12"),
        ("FREQ=YEARLY;BYEASTER=300", "from -80 to 250"),
        ("FREQ=DAILY;WKST=XX", "WKST=XX must be one of MO, TU"),
        ("FREQ=DAILY;BYDAY=1MO(2)", "must be like MO, 2TU or -1FR"),
        ("FREQ=WEEKLY;BYDAY=2MO", "a number goes with FREQ=MONTHLY or YEARLY"),
        ("FREQ=MONTHLY;BYDAY=MO,1FR", "mixes weekdays"),
        ("FREQ=MONTHLY;BYDAY=6MO", "must be 1 to 5, or -5 to -1"),
        ("FREQ=YEARLY;BYDAY=0MO", "must be 1 to 53, or -53 to -1"),
        ("FREQ=DAILY;INTERVAL=1000001", "from 1 to 1000000"),
        (
            "DTSTART:23000101T000000Z RRULE:FREQ=YEARLY",
            "never comes true up to 2262, and the server holds no later time",
        ),
        ("DTSTART;TZID=Asia/Tokyo:00010101T000000 RRULE:FREQ=YEARLY", "cannot be read"),
        ("FREQ=DAILY;BYDAY=XX", "BYDAY"),
        ("FREQ=DAILY;SPEED=3", "SPEED"),
        ("FREQ=DAILY;COUNT=3", "COUNT needs a DTSTART"),
        ("DTSTART:20260101T060000Z RRULE:FREQ=DAILY;COUNT=10001", "10000"),
        ("DTSTART:20260101T060000Z RRULE:FREQ=DAILY;COUNT=2;UNTIL=20270101T000000Z", "exclude each other"),
        ("FREQ=DAILY;UNTIL=20260101", "UTC"),
        ("FREQ=DAILY;UNTIL=20260101T000000", "UTC"),
        ("FREQ=DAILY;UNTIL=20261301T000000Z", "20261301"),
        ("FREQ=DAILY;UNTIL=19691231T000000Z", "before the first"),
        ("DTSTART:20260101T060000 RRULE:FREQ=DAILY", "time zone"),
        ("DTSTART;TZID=Europe/Zurich:20260101T060000Z RRULE:FREQ=DAILY", "one time zone"),
        ("DTSTART:0600Z RRULE:FREQ=DAILY", "DTSTART"),
        ("DTSTART:20261301T060000Z RRULE:FREQ=DAILY", "20261301"),
        ("DTSTART:20260101T060000Z", "one RRULE"),
        ("RRULE:FREQ=DAILY\nEXDATE:20260101T060000Z", "one RRULE"),
        ("RRULE:FREQ=DAILY\nRRULE:FREQ=HOURLY", "DTSTART"),
        ("FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30", "never comes true"),
        ("FREQ=SECONDLY;BYSETPOS=2", "BYSETPOS"),
        ("FREQ=YEARLY;INTERVAL=400;BYMONTH=2;BYMONTHDAY=29", "never comes true"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(rule: str, why: str) -> None:
    with pytest.raises(TaskDefinitionError, match=why) as caught:
        RRuleSchedule(rule)
    assert repr(rule) in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "comes"),
    [
        ("FREQ=SECONDLY;INTERVAL=61", True),
        ("FREQ=SECONDLY;BYMONTHDAY=29;BYMONTH=2", True),
        ("FREQ=SECONDLY;INTERVAL=61;BYMONTH=2;BYMONTHDAY=29", True),
        ("FREQ=SECONDLY;INTERVAL=86399;BYHOUR=3;BYMINUTE=0;BYSECOND=0", True),
        ("FREQ=MINUTELY;INTERVAL=7;BYHOUR=3;BYYEARDAY=366", True),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", False),
        ("FREQ=SECONDLY;INTERVAL=2;BYSECOND=1", False),
        ("FREQ=SECONDLY;INTERVAL=999983;BYHOUR=3;BYMINUTE=0;BYSECOND=0;BYMONTH=2;BYMONTHDAY=29", False),
        ("FREQ=SECONDLY;INTERVAL=7;BYHOUR=3;BYMINUTE=0;BYSECOND=0;BYDAY=MO", False),
        ("FREQ=SECONDLY;INTERVAL=86399;BYEASTER=1;BYDAY=SU", False),
        ("FREQ=DAILY;INTERVAL=7;BYDAY=TU", False),
        ("FREQ=WEEKLY;INTERVAL=2;BYWEEKNO=53;BYMONTH=6", False),
        ("FREQ=WEEKLY;BYWEEKNO=20;BYDAY=MO;BYSETPOS=2", False),
        ("FREQ=SECONDLY;INTERVAL=120;BYMINUTE=1,3,5,7,9,11,13,15", False),
    ],
)
def test_an_answer_takes_a_bounded_number_of_steps(rule: str, comes: bool) -> None:
    steps = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal steps
        steps += event == "call"
        assert steps < 2_000_000

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        if comes:
            RRuleSchedule(rule).next_occurrence(datetime(2026, 11, 26, 12, tzinfo=UTC))
        else:
            with pytest.raises(TaskDefinitionError, match="never comes true"):
                RRuleSchedule(rule)
    finally:
        sys.setprofile(before)


def test_a_rule_that_is_no_text_is_refused() -> None:
    with pytest.raises(TaskDefinitionError, match=r"rrule 5 must be a text"):
        RRuleSchedule(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["", ";COUNT=10000"])
def test_a_rule_ends_with_the_times_that_the_server_can_hold(end: str) -> None:
    rule = RRuleSchedule(f"DTSTART:20260101T000000Z RRULE:FREQ=YEARLY{end}")
    last = datetime(2262, 1, 1, tzinfo=UTC)
    assert rule.next_occurrence(last - timedelta(days=1)) == last
    with pytest.raises(ScheduleEndedError):
        rule.next_occurrence(last)


def test_a_rule_in_an_unknown_time_zone_is_refused() -> None:
    with pytest.raises(TaskDefinitionError, match="unknown time zone 'Mars/Olympus'"):
        RRuleSchedule("DTSTART;TZID=Mars/Olympus:20260101T060000 RRULE:FREQ=DAILY")
