"""A failure that lasts, on a clock of the test: one line a minute, however often it is tried."""

from __future__ import annotations

import logging

import pytest

from diracx.tasks.plumbing.observability.lasting_failure import MAX_REASONS, LastingFailure
from support.clock import ManualClock

logger = logging.getLogger("diracx.tasks.test")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def failure(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> LastingFailure:
    caplog.set_level(logging.INFO)
    return LastingFailure(logger, "cannot pull", "can pull again", clock)


def test_an_hour_of_tries_is_a_line_a_minute_and_one_at_its_end(
    failure: LastingFailure, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3600):
        failure.failed("the queue is missing")
        clock.now += 1
    assert failure.reason == "the queue is missing"
    failure.succeeded()
    assert len(caplog.messages) == 61
    assert caplog.messages[0] == "cannot pull: the queue is missing"
    assert caplog.messages[1] == "cannot pull: the queue is missing (tried 61 times in 60 s)"
    assert caplog.messages[-1] == "can pull again, after 3600 failed tries in 3600 s"
    assert failure.tries == 0


def test_another_reason_has_a_line_at_once_unless_there_are_many(
    failure: LastingFailure, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3 * MAX_REASONS):
        failure.failed(f"reason {number % (2 * MAX_REASONS)}")
    assert len(caplog.messages) == MAX_REASONS


def test_what_fails_and_works_in_turn_has_two_lines_a_minute(
    failure: LastingFailure, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(180):
        failure.failed("a leader is elected")
        failure.succeeded()
        clock.now += 1
    assert (
        caplog.messages
        == [
            "cannot pull: a leader is elected",
            "can pull again, after 1 failed try in 0 s",
        ]
        * 3
    )


def test_a_failure_that_is_forgotten_has_no_end(failure: LastingFailure, caplog: pytest.LogCaptureFixture) -> None:
    failure.failed("the stream is missing")
    failure.forget()
    assert (failure.reason, failure.tries) == (None, 0)
    failure.succeeded()
    assert caplog.messages == ["cannot pull: the stream is missing"]


def test_without_a_failure_nothing_is_said(failure: LastingFailure, caplog: pytest.LogCaptureFixture) -> None:
    failure.succeeded()
    assert not caplog.messages
