"""The past of a task in sentences: each fact once, and what repeats in one line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.operations.past_deliveries import past_events
from diracx.tasks.plumbing.operations.task_document import (
    CancellationNote,
    DeadTask,
    PastDelivery,
    State,
    TaskDocument,
)
from diracx.tasks.plumbing.wire.failure import Failure
from support.task_lookups import past_delivery

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def delivery(second: int, outcome: str, message: str, **others: Any) -> PastDelivery:
    return past_delivery(NOON + timedelta(seconds=second), outcome, message, **others)


def failure(second: int, kind: str = "ValueError", worker: str = "w") -> Failure:
    return Failure(type=kind, message="bad", traceback="", worker=worker, at=NOON + timedelta(seconds=second))


def texts(*past: PastDelivery, errors: tuple[Failure, ...] = (), **others: Any) -> list[str]:
    document = TaskDocument(id="1", state=State.PARKED, why=[], past=list(past), errors=list(errors), **others)
    return [event.text for event in past_events(document)]


def test_what_repeats_is_one_line_with_its_count_and_its_last_worker() -> None:
    locked = [delivery(second, "lock_busy", "a is held by b") for second in range(3)]
    last = delivery(9, "lock_busy", "a is held by b", worker="v")
    assert texts(*locked, last, delivery(10, "lock_busy", "a is held by c")) == [
        "given back 4 times until 2026-12-01T12:00:09Z, the last time by v: a is held by b",
        "given back by w: a is held by c",
    ]


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (delivery(1, "retry", "bad", error="E", attempt=2), "attempt 2 failed on w: E: bad"),
        (delivery(1, "dead", "poison"), "became a dead letter on w: poison"),
        (delivery(1, "discarded", "bad", error="E", status="failed"), "attempt 1 failed for good on w: E: bad"),
        (delivery(1, "discarded", "bad", error="E", status="expired"), "dropped on w: it had expired"),
        (delivery(1, "cancelled", "alice has", status="cancelled"), "dropped on w: alice has"),
        (delivery(1, "held", "tasks.a:B"), "given back by w: tasks.a:B"),
        (delivery(1, "of_a_later_version", "why"), "given back by w: why"),
    ],
)
def test_each_outcome_has_a_sentence(told: PastDelivery, text: str) -> None:
    assert texts(told) == [text]


def test_a_failure_that_stands_among_the_errors_is_told_there_alone() -> None:
    failed = [delivery(second, "retry", "bad", error="ValueError", attempt=second) for second in (1, 2, 3)]
    assert texts(*failed, errors=(failure(2), failure(3))) == ["attempt 1 failed on w: ValueError: bad"]
    assert texts(*failed, errors=(failure(1), failure(2), failure(3))) == []
    others = (failure(3, kind="KeyError"), failure(3, worker="v"), failure(60))
    assert len(texts(*failed, errors=others)) == 3, "another error, another worker, and one that came later"


def test_a_dead_letter_and_a_cancellation_tell_the_latest_delivery_alone() -> None:
    died = [delivery(second, "dead", "poison", status="failed") for second in (1, 2)]
    letter = DeadTask(seq=4, reason="poison", died=NOON)
    assert texts(*died, dead_letter=letter) == ["became a dead letter on w: poison"]
    note = CancellationNote(kind="id", key="1", at=NOON, by=None)
    assert texts(delivery(1, "cancelled", "an operator has", status="cancelled"), cancelled=note) == []
