"""The error tree, and the suggestions for mistyped names."""

from __future__ import annotations

import re

import pytest

from diracx.tasks.plumbing import exceptions
from diracx.tasks.plumbing.exceptions import ScheduleEndedError, TaskError, UnableToAcquireLockError, near_names


def drawn_tree() -> dict[str, str]:
    """Each error in the picture at the top of the module, with its parent."""
    parents: dict[str, str] = {}
    above = {0: "Exception"}
    for indent, name in re.findall(r"^( *)[*x-] (\w+)", exceptions.__doc__ or "", re.MULTILINE):
        depth = len(indent) // 2
        parents[name] = above[depth]
        above[depth + 1] = name
    return parents


def test_the_picture_shows_every_error_under_its_parent() -> None:
    defined = {
        name: value.__bases__[0].__name__
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, TaskError)
    }
    assert drawn_tree() == defined


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("lollygag:SyncOwnerTask", ["lollygag:SyncOwnersTask"]),
        ("LOLLYGAG:syncownerstask", ["lollygag:SyncOwnersTask"]),
        ("SyncOwnersTask", ["lollygag:SyncOwnersTask"]),
        ("jobs:CleanTask", ["lollygag:CleanTask", "garage:CleanTask"]),
        ("zzz", []),
    ],
)
def test_a_mistyped_name_suggests_the_names_that_it_may_mean(name: str, near: list[str]) -> None:
    assert near_names(name, ["lollygag:SyncOwnersTask", "lollygag:CleanTask", "garage:CleanTask"]) == near


def test_at_most_three_names_are_suggested() -> None:
    assert len(near_names("task", [f"task{number}" for number in range(9)])) == 3


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnableToAcquireLockError("mutex.job.1"), "mutex.job.1 is held"),
        (UnableToAcquireLockError("mutex.job.1", "host-7 since 06:00"), "mutex.job.1 is held by host-7 since 06:00"),
        (UnableToAcquireLockError("rate.job.1", reason="rate.job.1 admits no more"), "rate.job.1 admits no more"),
    ],
)
def test_a_held_lock_is_described_by_its_holder_or_by_a_reason(error: TaskError, text: str) -> None:
    assert str(error) == text


def test_the_end_of_a_schedule_is_no_error_of_its_definition() -> None:
    assert ScheduleEndedError.__bases__ == (TaskError,)
