"""Schedules of every kind, times around changes of local clocks, and the next occurrences of a schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule, TaskScheduleBase

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZURICH = ZoneInfo("Europe/Zurich")

# In Zurich the clock goes from 02:00 to 03:00 on 2026-03-29, and from 03:00 back to 02:00 on 2026-10-25.
BEFORE_SPRING = datetime(2026, 3, 28, 23, 30, tzinfo=UTC)
BEFORE_AUTUMN = datetime(2026, 10, 24, 22, 30, tzinfo=UTC)

moments = st.datetimes(datetime(1971, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
zones = st.sampled_from(
    ["UTC", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo"]
)
turns = st.sampled_from(
    [
        datetime(2026, 3, 29, 1, tzinfo=UTC),  # Zurich
        datetime(2026, 10, 25, 1, tzinfo=UTC),
        datetime(2026, 3, 8, 7, tzinfo=UTC),  # New York
        datetime(2026, 11, 1, 6, tzinfo=UTC),
        datetime(2026, 4, 4, 15, tzinfo=UTC),  # Lord Howe, half an hour
        datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    ]
)
near_turns = st.builds(lambda turn, minutes: turn + timedelta(minutes=minutes), turns, st.integers(-300, 300))
minutes_field = st.sampled_from(["*", "*/7", "0", "30", "15,45", "59"])
hours_field = st.sampled_from(["*", "*/2", "*/1", "0-23", "0", "1", "2", "3", "1-3", "23"])
crons = st.builds(
    lambda minute, hour, zone: CronSchedule(f"{minute} {hour} * * *", zone), minutes_field, hours_field, zones
)
RULES = [
    "FREQ=SECONDLY;INTERVAL=7",
    "FREQ=MINUTELY;INTERVAL=11;BYHOUR=2,3",
    "FREQ=HOURLY;INTERVAL=5",
    "DTSTART:20260101T060000Z RRULE:FREQ=HOURLY;INTERVAL=7",
    "DTSTART;TZID=Europe/Zurich:20200229T023000\nRRULE:FREQ=DAILY;INTERVAL=3",
    "DTSTART;TZID=Europe/Zurich:20200101T000000\nRRULE:FREQ=MINUTELY;INTERVAL=20;BYHOUR=1,2,3",
    "DTSTART;TZID=America/New_York:20260105T093000 RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR;WKST=SU",
    "DTSTART:20260131T060000Z RRULE:FREQ=MONTHLY",
    "FREQ=MONTHLY;INTERVAL=5;BYDAY=-1FR",
    "DTSTART:20240229T120000Z RRULE:FREQ=YEARLY",
    "FREQ=YEARLY;INTERVAL=3;BYDAY=MO;BYSETPOS=2",
]
schedules = st.one_of(
    st.builds(IntervalSeconds, st.integers(1, 10**7) | st.floats(0.001, 10**7)),
    crons,
    st.sampled_from(RULES).map(RRuleSchedule),
)


def occurrences(schedule: TaskScheduleBase, after: datetime, count: int) -> list[datetime]:
    """The next `count` occurrences after a time."""
    found: list[datetime] = []
    for _ in range(count):
        after = schedule.next_occurrence(after)
        found.append(after)
    return found


def on_the_wall(schedule: TaskScheduleBase, after: datetime, count: int) -> list[str]:
    """The same as local times in Zurich, such as `29 03:30 CEST`."""
    return [f"{at.astimezone(ZURICH):%d %H:%M %Z}" for at in occurrences(schedule, after, count)]
