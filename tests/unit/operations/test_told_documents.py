"""What workers and schedulers tell operators stays as it is: other versions and scripts read it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample, WorkersSample
from diracx.tasks.plumbing.worker.snapshot import EndedQuery, EndedTask, InFlightQuery, InFlightTask

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (
            EndedTask("0192", "a:B", "normal-small", "retry", "ValueError", "no owner", 2, AT, 0.25),
            (
                b'{"id":"0192","task":"a:B","queue":"normal-small","outcome":"retry","error":"ValueError",'
                b'"message":"no owner","attempt":2,"at":"2026-12-01T06:00:00Z","seconds":0.25,"status":null}'
            ),
        ),
        (EndedQuery(5, given_back=True), b'{"limit":5,"given_back":true}'),
        (EndedQuery(ids=("0192",)), b'{"ids":["0192"]}'),
        (
            InFlightTask("0192", "a:B", "diracx.tasks.normal.small", 7, AT, 1, "executing", trace_id="0a"),
            (
                b'{"id":"0192","task":"a:B","subject":"diracx.tasks.normal.small","sequence":7,'
                b'"since":"2026-12-01T06:00:00Z","attempt":1,"state":"executing","cancelled_since":null,'
                b'"cancelled_for":null,"blocked_at":null,"args":null,"labels":{},"locks":[],"trace_id":"0a"}'
            ),
        ),
        (InFlightQuery(("0192",), details=True), b'{"ids":["0192"],"details":true}'),
        (
            Sample(
                at=AT,
                seconds=60.0,
                queues={"normal-small": QueueSample(waiting=3, oldest_seconds=1.5, submitted=5, wait=[4, 1])},
                dead_letters=2,
                delayed=1,
                workers={"small": WorkersSample(1, 10, 4)},
                leader=True,
            ),
            (
                b'{"at":"2026-12-01T06:00:00Z","seconds":60.0,"queues":{"normal-small":{"waiting":3,"oldest_seconds":1.5,'
                b'"submitted":5,"wait":[4,1]}},"dead_letters":2,"delayed":1,'
                b'"workers":{"small":{"workers":1,"slots":10,"busy":4}},"leader":true}'
            ),
        ),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, msgspec.Struct) else "",
)
def test_a_document_stays_as_it_is_and_further_fields_do_not_disturb_its_readers(
    document: msgspec.Struct, text: bytes
) -> None:
    assert msgspec.json.encode(document) == text
    later = text[:-1] + b',"of_a_later_version":[1]}'
    assert msgspec.json.decode(later, type=type(document)) == document


def test_what_an_earlier_worker_tells_of_a_delivery_that_ended_can_be_read() -> None:
    told = {"id": "7", "task": "a:B", "queue": "q", "outcome": "dead", "error": "", "message": "m", "attempt": 1}
    assert msgspec.convert(told | {"at": AT, "seconds": 0.5}, EndedTask).status is None


def test_what_an_earlier_worker_tells_of_a_task_in_flight_can_be_read() -> None:
    told = msgspec.convert(
        {"id": "7", "task": "a:B", "subject": "s", "sequence": 7, "since": AT, "attempt": 1, "state": "executing"},
        InFlightTask,
    )
    assert (told.args, told.labels, told.locks, told.trace_id) == (None, {}, [], None)
