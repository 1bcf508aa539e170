"""Times on the wire: RFC 3339 in UTC."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.wire.times import from_rfc3339, to_rfc3339


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-01T06:00:00Z", datetime(2026, 12, 1, 6, tzinfo=UTC)),
        ("2026-12-01T06:00:00+01:00", datetime(2026, 12, 1, 5, tzinfo=UTC)),
        ("2026-12-01T06:00:00.25-05:30", datetime(2026, 12, 1, 11, 30, 0, 250_000, tzinfo=UTC)),
        ("2026-12-01t06:00:00z", datetime(2026, 12, 1, 6, tzinfo=UTC)),
        # Go writes nanoseconds.
        ("2026-12-01T06:00:00.123456789Z", datetime(2026, 12, 1, 6, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_a_time_of_any_offset_is_parsed_into_utc(text: str, moment: datetime) -> None:
    assert from_rfc3339(text) == moment
    assert from_rfc3339(text).tzinfo is UTC


@settings(deadline=None)
@given(st.datetimes(timezones=st.timezones()).filter(lambda at: 1 < at.year < 9999))
def test_a_written_time_is_utc_to_the_microsecond(moment: datetime) -> None:
    text = to_rfc3339(moment)
    assert len(text) == len("2026-12-01T06:00:00.000000Z")
    assert text.endswith("Z")
    assert from_rfc3339(text) == moment.astimezone(UTC)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yesterday", "'yesterday' is not a time, e.g. 2026-12-01T06:00:00Z"),
        ("yesterdaZ", "'yesterdaZ' is not a time, e.g. 2026-12-01T06:00:00Z"),
        ("2026-13-01T06:00:00Z", "month must be in 1..12"),
        ("2026-12-01T06:00:00", "2026-12-01T06:00:00 has no time zone; write e.g. 2026-12-01T06:00:00+01:00 or ...Z"),
    ],
)
def test_what_is_no_time_is_refused_in_the_words_of_its_writer(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        from_rfc3339(text)


def test_a_time_out_of_range_in_utc_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        to_rfc3339(datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))))
    for text in ("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"):
        with pytest.raises(ValueError, match="out of range: years go from 1 to 9999 in UTC"):
            from_rfc3339(text)


class Unknown(tzinfo):
    """A time zone that names no offset."""

    def utcoffset(self, dt: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


@pytest.mark.parametrize("moment", [datetime(2026, 12, 1), datetime(2026, 12, 1, tzinfo=Unknown())])  # noqa: DTZ001
def test_a_time_without_an_offset_is_refused(moment: datetime) -> None:
    with pytest.raises(ValueError, match=r"2026-12-01T00:00:00 has no time zone; use e\.g\. datetime\.now\(UTC\)"):
        to_rfc3339(moment)


@pytest.mark.parametrize("moment", [date(2026, 12, 1), "2026-12-01T06:00:00Z", 0, timedelta(1)], ids=repr)
def test_what_is_no_datetime_is_refused(moment: Any) -> None:
    with pytest.raises(ValueError, match=r"is no datetime; use e\.g\. datetime\.now\(UTC\)"):
        to_rfc3339(moment)
