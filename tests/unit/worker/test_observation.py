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
from diracx.tasks.plumbing.worker.observation import OUTCOME_WORDS, error_of, outcome_in_words

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
