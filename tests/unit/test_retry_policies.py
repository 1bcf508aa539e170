"""Retry policies as values: the delay and the number of retries."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, NoRetry, RetryPolicyBase

FAILURE = RuntimeError("boom")


def delay_bounds(policy: RetryPolicyBase, attempt: int) -> tuple[float, float]:
    """The least and the most seconds of delay, since the clock runs on while the policy decides."""
    before = datetime.now(UTC)
    at = policy.schedule_retry(attempt, FAILURE)
    after = datetime.now(UTC)
    assert at is not None
    assert at.tzinfo is not None
    return (at - after).total_seconds(), (at - before).total_seconds()


def retries_given(policy: RetryPolicyBase, most: int) -> int:
    return next(n for n in range(most + 1) if policy.schedule_retry(n, FAILURE) is None)


def test_no_retry_never_retries() -> None:
    assert NoRetry().schedule_retry(0, FAILURE) is None


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 10), (1, 20), (2, 40), (3, 80), (4, 160)])
def test_the_default_backoff_waits_ten_seconds_and_doubles(attempt: int, seconds: int) -> None:
    least, most = delay_bounds(ExponentialBackoff(), attempt)
    assert least <= seconds <= most


def test_the_default_backoff_gives_five_retries() -> None:
    assert retries_given(ExponentialBackoff(), most=100) == 5


@settings(deadline=None)
@given(base=st.floats(0, 60), retries=st.integers(0, 15))
def test_a_backoff_gives_exactly_max_retries_retries(base: float, retries: int) -> None:
    policy = ExponentialBackoff(base_delay_seconds=base, max_retries=retries)
    assert retries_given(policy, most=retries) == retries
    assert policy.schedule_retry(retries + 1_000, FAILURE) is None


@settings(deadline=None)
@given(base=st.floats(0.001, 60), attempt=st.integers(0, 14))
def test_a_backoff_waits_base_times_two_to_the_attempt(base: float, attempt: int) -> None:
    least, most = delay_bounds(ExponentialBackoff(base_delay_seconds=base, max_retries=15), attempt)
    assert least - 1e-3 <= base * 2**attempt <= most + 1e-3


def test_a_backoff_of_zero_retries_at_once_however_often() -> None:
    least, most = delay_bounds(ExponentialBackoff(base_delay_seconds=0, max_retries=5_000), 4_999)
    assert least <= 0 <= most


@pytest.mark.parametrize(
    ("base", "retries"),
    [(-1, 5), (float("nan"), 5), (10, -1), (float("inf"), 1), (10, 23), (10, 5_000), (366 * 86_400, 1)],
)
def test_a_backoff_with_impossible_numbers_is_refused_and_shows_them(base: float, retries: int) -> None:
    with pytest.raises(ValueError, match=f"{retries} retries: "):
        ExponentialBackoff(base_delay_seconds=base, max_retries=retries)


def test_the_longest_delay_is_a_year() -> None:
    year = timedelta(days=365).total_seconds()
    least, most = delay_bounds(ExponentialBackoff(base_delay_seconds=year, max_retries=1), 0)
    assert least <= year <= most


def test_policies_are_frozen_values() -> None:
    assert NoRetry() == NoRetry()
    assert ExponentialBackoff() == ExponentialBackoff(10, 5)
    assert len({ExponentialBackoff(), ExponentialBackoff(), ExponentialBackoff(1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExponentialBackoff().max_retries = 6  # type: ignore[misc]


def test_policies_have_a_text_for_people() -> None:
    assert str(NoRetry()) == "no retry"
    assert str(ExponentialBackoff(1.5, 3)) == "exponential backoff, base 1.5 s, 3 retries"


def test_a_policy_must_define_schedule_retry() -> None:
    class Incomplete(RetryPolicyBase):
        pass

    with pytest.raises(TypeError, match="schedule_retry"):
        Incomplete()  # type: ignore[abstract]
