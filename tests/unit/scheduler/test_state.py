"""The state of a schedule on the wire, and the ids of its occurrences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from diracx.tasks.plumbing.scheduler.state import ScheduleKey, ScheduleState, occurrence_id

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
STATE = ScheduleState(
    task="lollygag:OwnerReportTask",
    vo="lhcb",
    schedule="every 3600 s",
    enabled=True,
    after=NOON + timedelta(hours=1),
    pending=(NOON, NOON + timedelta(hours=1)),
    cancelled=(NOON - timedelta(hours=1),),
    scheduler="host-1-scheduler",
)


def test_the_json_of_a_state_is_pinned() -> None:
    assert msgspec.json.encode(STATE) == (
        b'{"task":"lollygag:OwnerReportTask","vo":"lhcb","schedule":"every 3600 s","enabled":true,'
        b'"after":"2026-12-01T13:00:00Z","pending":["2026-12-01T12:00:00Z","2026-12-01T13:00:00Z"],"last":null,'
        b'"cancelled":["2026-12-01T11:00:00Z"],"ended":false,"scheduler":"host-1-scheduler"}'
    )


def test_the_json_of_the_state_of_an_entry_is_pinned() -> None:
    entry = msgspec.structs.replace(STATE, entry="My CERN", args=msgspec.Raw(b'{"ce_regex":"cern"}'), pending=())
    stored = msgspec.json.encode(entry)
    assert stored == (
        b'{"task":"lollygag:OwnerReportTask","vo":"lhcb","entry":"My CERN","args":{"ce_regex":"cern"},'
        b'"schedule":"every 3600 s","enabled":true,"after":"2026-12-01T13:00:00Z","pending":[],"last":null,'
        b'"cancelled":["2026-12-01T11:00:00Z"],"ended":false,"scheduler":"host-1-scheduler"}'
    )
    read = msgspec.json.decode(stored, type=ScheduleState)
    assert (read.key, read.arguments) == (
        ScheduleKey("lollygag:OwnerReportTask", "lhcb", "My CERN"),
        b'{"ce_regex":"cern"}',
    )
    assert (STATE.key, STATE.arguments) == (ScheduleKey("lollygag:OwnerReportTask", "lhcb"), b"")


def test_a_state_tells_the_latest_and_the_next_occurrence() -> None:
    assert (STATE.latest_before(NOON), STATE.next_after(NOON)) == (NOON, NOON + timedelta(hours=1))
    before, after = NOON - timedelta(seconds=1), NOON + timedelta(hours=1)
    assert (STATE.latest_before(before), STATE.next_after(after)) == (None, None)


def test_an_occurrence_has_an_id_that_is_safe_in_subjects_and_headers() -> None:
    assert occurrence_id(ScheduleKey("lollygag:OwnerCleanupTask"), NOON) == "lollygag:OwnerCleanupTask-20261201T120000Z"
    vo = ScheduleKey("lollygag:OwnerReportTask", "my vo.ö")
    due = NOON + timedelta(seconds=0.5)
    entry = ScheduleKey("acme:SubmitPilots", "lhcb", "C ERN")
    assert occurrence_id(entry, NOON) == "acme:SubmitPilots@lhcb+C=20ERN-20261201T120000Z"
    assert occurrence_id(ScheduleKey("acme:A", "", "B"), NOON) == "acme:A+B-20261201T120000Z"
    assert occurrence_id(vo, due) == "lollygag:OwnerReportTask@my=20vo=2E=C3=B6-20261201T120000_500000Z"
