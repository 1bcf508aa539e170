"""The page of tasks says "none" only where all were read."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from diracx.tasks.dashboard.pages.tasks import brief, search_form
from diracx.tasks.dashboard.rendering import Renderer
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_search import SearchResult

MORE = "None among the messages that were read; there are more."
NO_PARKED = "No task waits for a retry or a lock."
NO_RESULT = "No task that has not succeeded fits."


@pytest.mark.parametrize(("unread", "said", "not_said"), [([], NO_PARKED, MORE), ([State.PARKED], MORE, NO_PARKED)])
def test_no_parked_task_is_told_only_if_all_were_read(unread: list[State], said: str, not_said: str) -> None:
    html = Renderer("", {}).render("tasks/parked.html", parked=SearchResult([], unread, unread=unread), brief=brief)
    assert said in html
    assert not_said not in html


@pytest.mark.parametrize(("unread", "said", "not_said"), [([], NO_RESULT, MORE), ([State.WAITING], MORE, NO_RESULT)])
def test_that_nothing_fits_is_told_only_if_all_were_read(unread: list[State], said: str, not_said: str) -> None:
    found = SearchResult([], unread, unread=unread)
    variables = {"form": search_form(QueryParams("name=a:B")), "found": found, "brief": brief, "meant": []}
    html = Renderer("", {}).render("tasks/results.html", **variables)
    assert said in html
    assert not_said not in html
