"""A message beside the dead letters that no worker wrote is read as far as it can be, and hides none of the others."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from diracx.tasks.plumbing.dead_letters.dead_letter import Advisory, DeadLetter, original_stored
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage

STORED = datetime(2026, 12, 1, 6, tzinfo=UTC)
NUMBERS = ("9" * 5_000, "9" * 400, "9" * 25, "-1", "1e5", "\u0663", "")
ERROR = {"type": "T", "message": "m", "traceback": "", "worker": "w", "at": "2026-12-01T06:00:00Z"}
ERRORS = (
    "[" * 60_000,
    "null",
    "[{}]",
    "\ud800",
    *(json.dumps([ERROR, {**ERROR, "at": at}]) for at in ("2026-12-01T06:00:00", "x", 5)),
)


def read(headers: dict[str, str], body: bytes = b"{}") -> DeadLetter:
    return DeadLetter.from_message(StoredMessage("diracx.dlq.a.B.1", 7, STORED, {"Task-Name": "a:B", **headers}, body))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("malformed: no name", "malformed"),
        ("given up on normal-small after 3 deliveries, message 1", "given up"),
        ("unknown task 'lollygag:Gone'; did you mean lollygag:Good?", "unknown task"),
        ('unknown task "it\'s:Gone"', "unknown task"),
    ],
)
def test_without_an_error_the_kind_of_death_stands_for_it(reason: str, kind: str) -> None:
    assert read({"Dead-Reason": reason}).error_type == kind


@pytest.mark.parametrize("text", NUMBERS, ids=lambda text: text[:5] or "empty")
def test_what_is_no_number_is_not_known(text: str) -> None:
    headers = {"Dead-Executions": text, "Dead-Stored": text, "Dead-Sequence": text}
    letter = read(headers)
    assert (letter.seq, letter.task, letter.attempts, letter.submitted) == (7, "a:B", None, None)
    assert original_stored(headers) is None


@pytest.mark.parametrize("text", ERRORS, ids=range(len(ERRORS)))
def test_errors_that_cannot_be_read_are_none(text: str) -> None:
    assert read({"Dead-Errors": text}).errors == []


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+12:00", "9999-12-31T23:59:59-12:00", "x", "2026-12-01T06:00"])
def test_a_time_that_cannot_be_read_is_that_of_the_message(text: str) -> None:
    letter = read({"Dead-At": text, "Task-Submitted": text})
    assert (letter.died, letter.submitted) == (STORED, None)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b'{"a":' * 2_000, b"NaN", b"1" * 5_000], ids=range(6))
def test_arguments_that_cannot_be_read_are_not_known(body: bytes) -> None:
    assert read({}, body).args is None


@pytest.mark.parametrize("at", ["2026-12-01T06:00:00", "0001-01-01T00:00:00+12:00", "9999-12-31T23:59:59-12:00", 5])
def test_an_advisory_that_cannot_be_read_concerns_no_message(at: object) -> None:
    body = json.dumps({"stream_seq": 5, "consumer": "c", "deliveries": 1, "timestamp": at}).encode()
    advisory = Advisory.from_message(StoredMessage("$JS.EVENT.ADVISORY", 7, STORED, {}, body))
    assert (advisory.seq, advisory.sequence, advisory.at) == (7, 0, STORED)
    assert "cannot be read" in advisory.reason
