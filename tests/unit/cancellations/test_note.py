"""Which messages a note concerns, and its form on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.cancellations.note import Identity, Kind, Note
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage
from diracx.tasks.plumbing.wire.times import to_rfc3339

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)
NAME = "lollygag:SyncOwnersTask"
BEFORE, AFTER = AT - timedelta(seconds=1), AT + timedelta(seconds=1)


def message(stored: datetime = BEFORE, **headers: str | datetime) -> Identity:
    """A message with these headers: `task_id="a"` is `Task-Id: a`."""
    texts = {
        name.replace("_", "-").title(): to_rfc3339(value) if isinstance(value, datetime) else value
        for name, value in ({"task_name": NAME} | headers).items()
    }
    return Identity.of(texts, 7, stored)


def note(kind: Kind, key: str) -> Note:
    return Note(kind=kind, key=key, at=AT, by="alice@node1")


@pytest.mark.parametrize(
    ("concerned", "found"),
    [
        (True, message(task_id="a")),
        (False, message(task_id="b")),
        (False, message(task_id="a", task_part="g:0")),
        (True, message(task_id="a", stored=AFTER)),  # fell due later, or is a child that was stored later
        (True, message(task_id="a", task_submitted=AFTER, stored=AFTER)),
        (True, message(task_id="a", nats_msg_id="replay-3-17")),
        (False, message(task_id="a", nats_msg_id="replay-3-17", stored=AFTER)),  # replayed after the note
    ],
)
def test_a_note_of_an_id_concerns_that_task_until_it_is_replayed(concerned: bool, found: Identity) -> None:
    assert note(Kind.ID, "a").concerns(found) is concerned


def test_a_message_without_an_id_is_known_by_its_sequence() -> None:
    assert note(Kind.ID, "7").concerns(message())
    assert note(Kind.ID, "7").concerns(Identity.of(None, 7, AFTER))
    assert not note(Kind.ID, "8").concerns(message())


@pytest.mark.parametrize(
    ("concerned", "found"),
    [
        (True, message()),
        (True, message(stored=AT)),
        (False, message(stored=AFTER)),
        (False, message(task_name="lollygag:Other")),
        (False, message(task_part="g:0")),
        (True, message(task_submitted=BEFORE, stored=AFTER, task_id="a", task_due=AFTER)),  # was delayed
        (False, message(task_submitted=AFTER, stored=AFTER)),
        (True, message(task_submitted=AFTER, stored=BEFORE)),  # the clock of its submitter is ahead
        (True, message(task_submitted="yesterday")),
        (False, message(task_submitted="yesterday", stored=AFTER)),
        (False, message(task_submitted=BEFORE, stored=AFTER, nats_msg_id="replay-3-17")),
    ],
)
def test_a_note_of_a_name_concerns_what_was_submitted_before_it(concerned: bool, found: Identity) -> None:
    assert note(Kind.TASK, NAME).concerns(found) is concerned


@pytest.mark.parametrize(("due", "concerned"), [(BEFORE, True), (AT, True), (AFTER, False)])
def test_an_occurrence_counts_from_the_time_it_was_due(due: datetime, concerned: bool) -> None:
    occurrence = message(
        task_id=f"{NAME}-2026", task_submitted=AT - timedelta(hours=1), task_due=due, stored=max(due, BEFORE)
    )
    assert note(Kind.TASK, NAME).concerns(occurrence) is concerned


@pytest.mark.parametrize(
    ("concerned", "found"),
    [
        (True, message(task_group="g:0")),
        (True, message(task_group="g:17", stored=AFTER)),
        (False, message(task_group="g-1:0")),
        (False, message(task_group="g")),
        (False, message()),
        (False, message(task_callback="g")),
        (False, message(task_part="g:0")),
    ],
)
def test_a_note_of_a_group_concerns_its_children_alone(concerned: bool, found: Identity) -> None:
    assert note(Kind.GROUP, "g").concerns(found) is concerned


def test_the_form_on_the_wire_stays() -> None:
    text = b'{"kind":"task","key":"lollygag:SyncOwnersTask","at":"2026-12-01T06:00:00Z","by":"alice@node1"}'
    assert msgspec.json.encode(note(Kind.TASK, NAME)) == text
    read = Note.from_message(StoredMessage("diracx.cancelled.task.x", 3, AFTER, {}, text))
    assert read == msgspec.structs.replace(note(Kind.TASK, NAME), at=AFTER), "the time is that of the stream"
    assert read.reason == "cancelled by alice@node1 at 2026-12-01T06:00:01Z"
    assert msgspec.structs.replace(read, by="").reason == "cancelled at 2026-12-01T06:00:01Z"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"kind":"all","key":"x","at":"2026-12-01T06:00:00Z"}', b"\xff"])
def test_what_is_no_note_is_refused_by_its_subject(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"diracx\.cancelled\.id\.x: "):
        Note.from_message(StoredMessage("diracx.cancelled.id.x", 3, AFTER, {}, body))
