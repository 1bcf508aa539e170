"""The words in which telemetry, logs and operators see an outcome."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import pytest

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.execution.job import (
    Dead,
    Discarded,
    Interrupted,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
    WrongQueue,
)
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.observation import (
    MAX_LOGGED_LABELS,
    OUTCOME_WORDS,
    error_of,
    log_fields,
    outcome_in_words,
)
from support.deliveries import fake_delivery

FAILURE = Failure.of(ValueError("no such owner"), "a-worker")
AT = datetime(2026, 12, 1, 6, tzinfo=UTC)


def test_each_outcome_has_a_word() -> None:
    assert set(OUTCOME_WORDS) == set(get_args(Outcome))


@pytest.mark.parametrize(
    ("outcome", "word", "error"),
    [
        (Succeeded(7), "succeeded", None),
        (Retry(AT, FAILURE), "retry", "ValueError: no such owner"),
        (LockBusy(UnableToAcquireLockError("mutex.job.7")), "lock_busy", None),
        (Dead("no retry is left", FAILURE), "dead", "ValueError: no such owner"),
        (Dead("unknown task"), "dead", "unknown task"),
        (Discarded("expired"), "discarded", "expired"),
        (Interrupted("the worker stops"), "interrupted", None),
        (WrongQueue("diracx.tasks.normal.large"), "misplaced", None),
    ],
)
def test_an_outcome_has_one_word_and_a_failure_one_line(outcome: Outcome, word: str, error: str | None) -> None:
    assert outcome_in_words(outcome) == word
    assert error_of(outcome) == error


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("headers", "details"),
    [
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, {"trace_id": TRACE}),
        ({"traceparent": f"cc-{TRACE}-b7ad6b7169203331-01-what-comes-later"}, {"trace_id": TRACE}),
        ({"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"}, {}),
        ({"traceparent": "\x1b[31m"}, {}),
        ({"Task-Labels": '{"site":"RAL","n":[1,null]}'}, {"labels": {"site": "RAL", "n": [1, None]}}),
        ({"Task-Labels": "{}"}, {"labels": {}}),
        ({"Task-Labels": "no JSON"}, {}),
        ({"Task-Labels": "[" * 3_000}, {}),
        ({"Task-Labels": '{"long":"' + "x" * MAX_LOGGED_LABELS + '"}'}, {}),
    ],
)
def test_a_line_in_json_has_the_queue_the_trace_and_the_labels(
    headers: dict[str, str], details: dict[str, object]
) -> None:
    delivery = fake_delivery(None, subject="acme.tasks.realtime.large", headers={"Task-Name": "t:T", **headers})
    short = {"task": "t:T", "id": "7", "attempt": 2}
    assert log_fields(delivery, 2, details=False) == short
    assert log_fields(delivery, 2, details=True) == short | {"queue": "realtime-large"} | details
