"""The TTL of the leader lock, and the horizon that it requires."""

from __future__ import annotations

from datetime import timedelta

import pytest

from diracx.tasks.plumbing.scheduler import SchedulerSettings
from diracx.tasks.plumbing.scheduler.leadership import DEFAULT_TAKEOVER, EXPIRY_DELAY, POLL_INTERVAL, ttl_for


@pytest.mark.parametrize("seconds", [5, 5.5, 12, 59.9])
def test_a_vanished_leader_is_replaced_within_the_takeover(seconds: float) -> None:
    takeover = timedelta(seconds=seconds)
    ttl = ttl_for(takeover)
    assert ttl % timedelta(seconds=1) == timedelta(0)
    assert takeover - timedelta(seconds=1) < ttl + EXPIRY_DELAY + POLL_INTERVAL <= takeover


def test_a_takeover_of_less_than_five_seconds_is_refused() -> None:
    with pytest.raises(ValueError, match="a takeover takes 5 s or more"):
        ttl_for(timedelta(seconds=4.9))


def test_the_horizon_covers_two_takeovers() -> None:
    assert SchedulerSettings().effective_horizon >= 2 * DEFAULT_TAKEOVER
    minute = timedelta(minutes=1)
    assert SchedulerSettings(takeover=minute).effective_horizon == 2 * minute
    with pytest.raises(ValueError, match="the horizon must be twice the takeover time or more"):
        SchedulerSettings(takeover=minute, horizon=1.5 * minute)
