"""What `--since` takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from diracx.tasks.cli.commands.dlq.since import since_from

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
def test_a_duration_counts_back_from_now(text: str, ago: timedelta) -> None:
    assert since_from(text, NOW) == NOW - ago


@pytest.mark.parametrize("text", ["2026-11-30T07:00:00+01:00", "2026-11-30T06:00:00Z", "2026-11-30T06:00:00.000Z"])
def test_a_time_is_itself(text: str) -> None:
    assert since_from(text, NOW) == NOW - timedelta(days=1)


def test_a_duration_that_began_before_all_time_means_everything() -> None:
    assert since_from("9" * 400 + "w", NOW) == since_from("999999w", NOW) == datetime.min.replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "-5m", "5 minutes", "m", "1h30m", "٣s"])
def test_anything_else_is_refused_with_examples_of_both(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"neither a time, e\.g\. 2026-12-01T06:00:00Z, nor a duration"):
        since_from(text, NOW)


@pytest.mark.parametrize("text", ["2026-11-30T06:00:00", "2026-11-30"])
def test_a_time_without_an_offset_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="has no time zone"):
        since_from(text, NOW)
