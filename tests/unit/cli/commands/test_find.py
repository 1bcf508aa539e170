"""The lines in which `find` says what its search does not tell."""

from __future__ import annotations

import pytest

from diracx.tasks.cli.commands.find import gaps
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_search import SearchResult, Wanted

PARKED, WAITING, FAILED = State.PARKED, State.WAITING, State.FAILED


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (
            SearchResult([], [PARKED, WAITING], limited=[PARKED, WAITING]),
            "there may be more that are parked or waiting; --limit 500 shows more",
        ),
        (
            SearchResult([], [PARKED], unread=[PARKED]),
            "100,000 messages were read and not all: there may be more that are parked",
        ),
        (
            SearchResult([], [FAILED], unread=[FAILED]),
            "workers were asked for the latest 200 failures: there may be more that are failed",
        ),
        (
            SearchResult([], [PARKED], silent=[f"h-{n}-small-a" for n in range(7)]),
            (
                "no answer from h-0-small-a, h-1-small-a, h-2-small-a, h-3-small-a, h-4-small-a and 2 more: "
                "running tasks may be listed as parked"
            ),
        ),
        (
            SearchResult([], [PARKED], left_off=1_200),
            "workers did not name 1,200 of their running tasks: these may be listed as parked",
        ),
        (
            SearchResult([], workers_known=False),
            "this user may not ask the workers: running tasks are listed as parked",
        ),
    ],
)
def test_each_gap_has_a_line(result: SearchResult, line: str) -> None:
    assert list(gaps(Wanted(), result)) == [line]


def test_a_limit_that_the_option_refuses_is_not_advised() -> None:
    result = SearchResult([], [WAITING], limited=[WAITING])
    assert list(gaps(Wanted(limit=2_000), result)) == ["there may be more that are waiting; --limit 10000 shows more"]
    assert list(gaps(Wanted(limit=10_000), result)) == ["there may be more that are waiting"]


def test_workers_matter_only_to_what_is_asked_of_them() -> None:
    silent = SearchResult([], silent=["host-1-small-a"], left_off=1)
    assert list(gaps(Wanted([WAITING]), silent)) == []
    denied = SearchResult([], [FAILED], workers_known=False)
    assert (
        list(gaps(Wanted([FAILED]), denied))[-1] == "this user may not ask the workers: none that is failed is listed"
    )


def test_labels_of_failed_tasks_are_not_known() -> None:
    wanted = Wanted([WAITING, FAILED], labels={"of": "atlas"})
    line = "workers do not keep the labels of what failed: none that is failed is listed"
    assert list(gaps(wanted, SearchResult([], [FAILED]))) == [line]
