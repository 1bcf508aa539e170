"""Figures and texts of the pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.dashboard import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, words.NOTHING),
        (0.0, "0 ms"),
        (0.0124, "12 ms"),
        (0.9999, "1 s"),
        (1.25, "1.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_601, "1 h"),
        (3_725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
        (86_400 + 60, "1 d"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


def test_where_there_is_little_room_a_duration_has_one_unit() -> None:
    assert [words.coarse(each) for each in (None, 0.012, 61, 90_000)] == [words.NOTHING, "12 ms", "1 min", "1 d"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, words.NOTHING),
        (0, "0/s"),
        (0.1, "6/min"),
        (0.94, "56.4/min"),
        (1, "1/s"),
        (17.44, "17.4/s"),
        (2_000, "2,000/s"),
    ],
)
def test_a_slow_rate_is_one_per_minute(value: float | None, text: str) -> None:
    assert words.rate(value) == text


@pytest.mark.parametrize(
    ("octets", "text"), [(0, "0 B"), (999, "999 B"), (2_048, "2.0 KiB"), (50 << 20, "50 MiB"), (1 << 50, "1024.0 TiB")]
)
def test_bytes_have_units(octets: float, text: str) -> None:
    assert words.size(octets) == text


def test_what_hides_or_turns_text_is_written_as_an_escape() -> None:
    assert words.visible("a\u202eb\u200bc\x1b[31m\nd\u00e9\u6f22") == "a\\u202eb\\u200bc\\x1b[31m\nd\u00e9\u6f22"
    assert words.visible(3) == 3


def test_an_age_is_never_negative() -> None:
    now = datetime(2026, 11, 27, tzinfo=UTC)
    assert words.age(now + timedelta(seconds=5), now) == "0 ms"
    assert words.age(now - timedelta(minutes=5), now) == "5 min"
    assert words.age(None, now) == words.NOTHING


def test_a_number_goes_with_its_noun() -> None:
    assert [words.plural(n, "task") for n in (0, 1, 1_000)] == ["0 tasks", "1 task", "1,000 tasks"]
    assert words.plural(2, "child", "children") == "2 children"


def test_json_is_indented_and_cut_to_what_a_browser_bears() -> None:
    assert words.pretty({"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}'
    assert words.pretty("x" * 50_000).endswith("\n[cut: 50,002 characters]")
    assert len(words.pretty("x" * 50_000)) < 21_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("it waits for a lock", "It waits for a lock"),
        ("paused: normal-small", "Paused: normal-small"),
        ("host-1-small has it since noon", "host-1-small has it since noon"),
        ("lollygag:SyncOwnersTask is held", "lollygag:SyncOwnersTask is held"),
        ("mutex.job.42 is held", "mutex.job.42 is held"),
        ("", ""),
    ],
)
def test_a_sentence_begins_with_a_capital_and_a_name_stays_as_it_is(text: str, said: str) -> None:
    assert words.sentence(text) == said
