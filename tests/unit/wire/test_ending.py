"""For how long the result of a task is kept."""

from __future__ import annotations

import math

import pytest

from diracx.tasks.plumbing.wire.ending import MAX_KEEP_SECONDS, seconds_to_keep


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, None), (False, None), (True, 86400.0), (1, 1.0), (0.5, 0.5), (MAX_KEEP_SECONDS, 31536000.0)],
)
def test_seconds_true_and_none_are_taken(given: object, seconds: float | None) -> None:
    assert seconds_to_keep(given) == seconds


@pytest.mark.parametrize("given", [0, -1, math.nan, math.inf, MAX_KEEP_SECONDS + 1, 10**400])
def test_a_time_out_of_bounds_is_refused(given: float) -> None:
    with pytest.raises(ValueError, match=r"^.+; make it more than 0 seconds, and 31536000 \(a year\) at most$"):
        seconds_to_keep(given)


@pytest.mark.parametrize("given", ["60", [], 1j])
def test_what_is_no_number_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match="make it a number of seconds, or True for a day"):
        seconds_to_keep(given)
