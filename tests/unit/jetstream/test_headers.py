"""The headers of nats-server: those of a schedule, and those that a message loses when it is stored anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from diracx.tasks.plumbing.clock import LATEST_TIME
from diracx.tasks.plumbing.jetstream.headers import schedule_headers, status_of, without_server_headers


def test_a_schedule_names_its_time_its_target_and_how_long_it_waits_for_room() -> None:
    due = datetime(2026, 12, 1, 6, 0, 0, 5, tzinfo=UTC)
    assert schedule_headers(due, "diracx.due.normal.small") == {
        "Nats-Schedule": "@at 2026-12-01T06:00:00.000005Z",
        "Nats-Schedule-Target": "diracx.due.normal.small",
        "Nats-Schedule-TTL": "720h",
    }


def test_a_schedule_at_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        schedule_headers(datetime(2026, 12, 1), "diracx.due.normal.small")  # noqa: DTZ001 - the mistake


def test_a_schedule_that_the_server_would_take_for_a_past_one_is_refused() -> None:
    target = "diracx.due.normal.small"
    assert schedule_headers(LATEST_TIME, target)["Nats-Schedule"] == "@at 2262-04-11T23:47:16.000000Z"
    for late in (LATEST_TIME + timedelta(microseconds=1), datetime.max.replace(tzinfo=UTC)):
        with pytest.raises(ValueError, match="the server holds nothing beyond 2262-04-11T23:47:16Z; choose an earlier"):
            schedule_headers(late, target)


@pytest.mark.parametrize("year", [1, 1500, 1677, 1969])
def test_a_schedule_that_the_server_would_take_for_a_future_one_falls_due_at_once(year: int) -> None:
    headers = schedule_headers(datetime(year, 1, 1, tzinfo=UTC), "diracx.due.normal.small")
    assert headers["Nats-Schedule"] == "@at 1970-01-01T00:00:00.000000Z"


def test_the_servers_headers_are_left_out_in_any_case_of_letters() -> None:
    headers = {"Task-Name": "a:B", "Nats-Msg-Id": "1", "nats-ttl": "1s", "Dead-Reason": "x", "Natsy": "kept"}
    assert without_server_headers(headers) == {"Task-Name": "a:B", "Dead-Reason": "x", "Natsy": "kept"}
    assert without_server_headers(headers, "dead-") == {"Task-Name": "a:B", "Natsy": "kept"}
    assert without_server_headers(None) == {}


@pytest.mark.parametrize("name", ["a/b", "a b", "a(b)", 'a"b', "a,b", "a@b", "a=b", "a[b]", "a{b}", "\u00e4", ""])
def test_a_name_that_cannot_be_published_is_left_out(name: str) -> None:
    assert without_server_headers({"X.y_z-1!#$%&'*+^`|~": "kept", name: "x"}) == {"X.y_z-1!#$%&'*+^`|~": "kept"}


def test_only_a_message_of_the_server_has_a_status() -> None:
    def message(headers: dict[str, str] | None) -> Any:
        return SimpleNamespace(headers=headers)

    assert status_of(message({"Status": "404", "Description": "No Messages"})) == "404"
    assert status_of(message({"Task-Name": "a:B"})) == status_of(message(None)) == ""
