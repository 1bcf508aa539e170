"""The record of how the latest run of a schedule has ended."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from diracx.tasks.plumbing.scheduler.state import ScheduleKey, occurrence_id
from diracx.tasks.plumbing.wire.occurrence import RunRecord, occurrence_of, run_key

DUE = datetime(2026, 12, 1, 6, tzinfo=UTC)
HEADERS = {"Task-Name": "acme:Report", "Task-Due": "2026-12-01T06:00:00.000000Z"}


def test_the_record_on_the_wire_stays_as_it_is() -> None:
    record = RunRecord(due=DUE, outcome="failed", ended=DUE, duration=1.5, error="ValueError", worker="host-7-small")
    assert msgspec.json.encode(record) == (
        b'{"due":"2026-12-01T06:00:00Z","outcome":"failed","ended":"2026-12-01T06:00:00Z","duration":1.5,'
        b'"error":"ValueError","worker":"host-7-small"}'
    )


@pytest.mark.parametrize("key", [ScheduleKey("acme:Report"), ScheduleKey("acme:Report", "my-vo.org", "All-20 (x)")])
@pytest.mark.parametrize("due", [DUE, DUE.replace(microsecond=7)])
def test_an_occurrence_tells_its_schedule(key: ScheduleKey, due: datetime) -> None:
    headers = {**HEADERS, "Task-Id": occurrence_id(key, due), "Task-Due": due.isoformat()}
    assert occurrence_of(headers) == (str(key), due)
    assert "." not in run_key(str(key)).removeprefix("run.")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Task-Id": "0192f0c1"},
        {"Task-Id": "other:Task-20261201T060000Z"},
        {"Task-Id": "-20261201T060000Z"},
        {"Task-Id": "acme:Report-20261201T060001Z"},
        {"Task-Id": "acme:Report-20261201T060000Z", "Task-Due": "soon"},
        {"Task-Id": "-20261201T060000Z", "Task-Name": ""},
    ],
)
def test_any_other_task_is_no_occurrence(headers: dict[str, str]) -> None:
    assert occurrence_of({**HEADERS, **headers}) is None
