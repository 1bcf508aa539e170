"""Times and durations on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diracx.tasks.cli.times import Duration, due_time, since_from
from diracx.tasks.plumbing.clock import LATEST_TIME

NOW = datetime(2026, 12, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90", timedelta(seconds=90)),
        ("0", timedelta(0)),
        ("1.5", timedelta(seconds=1.5)),
        ("90s", timedelta(seconds=90)),
        (" 15m ", timedelta(minutes=15)),
        ("2 h", timedelta(hours=2)),
        ("0.5d", timedelta(hours=12)),
        ("1w", timedelta(days=7)),
    ],
)
def test_since_a_duration_counts_back_from_now(text: str, ago: timedelta) -> None:
    assert since_from(text, NOW) == NOW - ago


@pytest.mark.parametrize("text", ["2026-11-30T07:00:00+01:00", "2026-11-30T06:00:00Z", "2026-11-30T06:00:00.000Z"])
def test_since_a_time_is_that_time(text: str) -> None:
    assert since_from(text, NOW) == NOW - timedelta(days=1)


def test_since_a_duration_longer_than_all_time_means_everything() -> None:
    assert since_from("9" * 400 + "w", NOW) == since_from("999999w", NOW) == datetime.min.replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "-5m", "5 minutes", "m", "1h30m", "٣s"])
def test_since_refuses_any_other_text_with_examples_of_both(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"neither a time, e\.g\. 2026-12-01T06:00:00Z, nor a duration"):
        since_from(text, NOW)


@pytest.mark.parametrize("text", ["2026-11-30T06:00:00", "2026-11-30"])
def test_since_refuses_a_time_without_an_offset(text: str) -> None:
    with pytest.raises(click.BadParameter, match="has no time zone"):
        since_from(text, NOW)


def test_a_task_without_a_time_is_due_now_and_a_delay_stays_one() -> None:
    assert due_time(None, None) is None
    assert due_time(None, timedelta(seconds=90)) == timedelta(seconds=90)
    assert due_time("2026-12-01T07:00:00+01:00", None) == NOW


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("tomorrow", "'tomorrow' is not a time"),
        ("2026-12-01T06:00:00", "has no time zone"),
        ("2026-W49-2", "has no time zone"),
        ("", "is not a time"),
        ("2026-12-31T23:59:60Z", "is not a time"),
        ("2026-12-01T06:00:00+24:00", "is not a time"),
        ("9999-12-31T23:59:59-01:00", "out of range: years go from 1 to 9999 in UTC"),
        ("0001-01-01T00:00:00+01:00", "out of range"),
        ("2262-04-11T23:47:16.000001Z", "the server holds nothing beyond 2262-04-11T23:47:16Z"),
        ("2300-01-01T00:00:00Z", "the server holds nothing beyond"),
        ("9999-12-31T23:59:59.999999Z", "the server holds nothing beyond"),
        ("2026-12-01T06:00:00.1234567Z", "more than six digits after the second"),
        ("2026-12-01T06:00:00,0000001+01:00", "more than six digits after the second"),
    ],
)
def test_a_due_time_that_is_no_time_is_refused(at: str, why: str) -> None:
    with pytest.raises(click.BadParameter, match=why):
        due_time(at, None)


@pytest.mark.parametrize(
    ("at", "due"),
    [
        ("2262-04-11T23:47:16Z", LATEST_TIME),
        ("2262-04-12T01:47:16+02:00", LATEST_TIME),
        ("0001-01-01T00:00:00Z", datetime.min.replace(tzinfo=UTC)),
        ("1969-12-31T23:59:59Z", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2026-12-01t06:00:00z", NOW),
        ("2026-W49-2T06:00:00Z", NOW),
        ("2026-12-01T06:00:00.0000000Z", NOW),
        ("2026-12-01T06:19:32+00:19:32", NOW),
    ],
)
def test_any_other_time_is_that_time(at: str, due: datetime) -> None:
    assert due_time(at, None) == due


@settings(deadline=None)
@given(moment=st.datetimes(timezones=st.timezones()), digits=st.integers(0, 9))
def test_a_due_time_is_never_earlier_than_what_was_typed(moment: datetime, digits: int) -> None:
    typed = moment.isoformat(timespec="microseconds").replace(f"{moment:.%f}"[:7], f"{moment:.%f}" + "1" * digits, 1)
    try:
        due = due_time(typed, None)
    except click.BadParameter:
        assert digits or not 1 < moment.year < 2262
    else:
        # Across time zones, a moment in a repeated hour equals no other one.
        assert due == moment.astimezone(UTC)


def test_a_due_time_and_a_delay_exclude_each_other() -> None:
    with pytest.raises(click.UsageError, match="exclude each other"):
        due_time("2026-12-01T06:00:00Z", timedelta(0))


DURATION = Duration(timedelta(seconds=1), timedelta(days=10))


@pytest.mark.parametrize(("text", "seconds"), [("1", 1), ("90s", 90), ("15m", 900), ("2h", 7_200), ("7d", 604_800)])
def test_a_duration_has_a_unit_or_is_in_seconds(text: str, seconds: int) -> None:
    assert DURATION.convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["0", "0.9s", "11d", "9" * 400])
def test_a_duration_out_of_bounds_is_refused_with_the_bounds(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not from 1s to 10d"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize("text", ["", "soon", "-5m", "1h30m"])
def test_any_other_text_is_refused_as_a_duration_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not a duration, e\.g\. 90s, 15m, 2h, 7d"):
        DURATION.convert(text, None, None)
