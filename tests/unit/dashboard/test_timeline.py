"""The strip of a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from diracx.tasks.dashboard.timeline import hours_of, in_words, start_of, strip

NOW = datetime(2026, 12, 1, 12, 30, tzinfo=UTC)
START = datetime(2026, 12, 1, 12, tzinfo=UTC)


def every(minutes: int, times: int) -> list[datetime]:
    return [START + timedelta(minutes=minutes * number) for number in range(1, times + 1)]


def test_a_day_begins_at_the_last_full_hour() -> None:
    assert start_of(NOW) == START
    assert hours_of(START) == ["12:00", "15:00", "18:00", "21:00", "00:00", "03:00", "06:00", "09:00"]


def test_each_occurrence_is_a_mark_within_the_strip() -> None:
    svg = strip(every(60, 24), START, NOW)
    assert svg.count('class="due"') == 24
    assert '<rect class="due" x="60" y="2" width="5" height="12"/>' in svg
    assert '<rect class="due" x="1435" ' in svg
    assert '<rect class="now" x="30" ' in svg
    assert 'aria-label="24 times, from 2026-12-01T13:00:00Z to 2026-12-02T12:00:00Z"' in svg


def test_many_are_a_band_from_the_first_on() -> None:
    svg = strip(every(1, 97), START, NOW)
    assert svg.count('class="due"') == 0
    assert '<rect class="dense" x="1" y="3" width="1439" height="10"/>' in svg


def test_the_alternative_text_says_what_the_strip_shows() -> None:
    assert in_words([]) == "not in the next 24 hours"
    assert in_words(every(60, 1)) == "1 time, at 2026-12-01T13:00:00Z"
    assert in_words(every(1, 97)) == "more than 96 times, from 2026-12-01T12:01:00Z on"
