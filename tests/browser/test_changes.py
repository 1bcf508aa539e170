"""A change of a part leaves the rows that stay as they are, and shows each one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from diracx.tasks.dashboard.rendering import Renderer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.operations.recent_failures import RecentFailure
from diracx.tasks.plumbing.worker.snapshot import EndedTask
from support.browser import open_session
from support.dashboards import listening
from support.event_sources import EventSources
from support.scheduling import SchedulingMesh

if TYPE_CHECKING:
    from playwright.async_api import Page

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def rows(*names: str) -> str:
    """A table with a row for each name, and a button in each."""
    listed = "\n".join(
        f'<tr data-key="{name}"><td>task {name}</td><td><button>{name}</button></td></tr>' for name in names
    )
    return f"<table><tbody>\n{listed}\n</tbody></table>"


def failures(*errors: str) -> str:
    """The part of recent failures: the first attempts of one task, the latest first."""
    listed = [
        RecentFailure(
            worker="node-1-small",
            size=Size.SMALL,
            ended=EndedTask("id", "a:B", "normal-small", "retry", "E", error, 1, NOON - timedelta(hours=at), 0.5),
        )
        for at, error in enumerate(errors)
    ]
    return Renderer("", {}).render("tasks/failures.html", failures=listed)


async def test_the_focus_and_a_selection_stay_when_the_first_row_leaves(mesh: SchedulingMesh, page: Page) -> None:
    sources = EventSources(page)
    await sources.take_place()
    async with listening(mesh.connection, mesh.namespace) as site:
        await open_session(page, site.url)
        await page.goto(f"{site.url}/tasks")
        await sources.bring("running", rows("a", "b", "c", "d"))
        button = page.get_by_role("button", name="b", exact=True)
        await button.focus()
        await page.evaluate("getSelection().selectAllChildren(document.querySelector('[data-key=c] td'))")
        for left in (rows("b", "c", "d"), rows("new", "b", "c", "d"), rows("b", "c")):
            await sources.bring("running", left)
            assert await page.locator("#part-running").inner_html() == left
            assert await button.evaluate("element => element === document.activeElement")
            assert await page.evaluate("String(getSelection())") == "task c"
        # Rows that change places do so.
        await sources.bring("running", rows("c", "new", "b"))
        assert await page.locator("#part-running button").all_inner_texts() == ["c", "new", "b"]


async def test_two_failures_of_the_same_attempt_are_both_shown(mesh: SchedulingMesh, page: Page) -> None:
    sources = EventSources(page)
    await sources.take_place()
    async with listening(mesh.connection, mesh.namespace) as site:
        await open_session(page, site.url)
        await page.goto(f"{site.url}/tasks")
        shown = page.locator('#part-failures td[data-label="error"]')
        # A replay keeps the id of the task and begins with attempt 1 again.
        for errors in (["old"], ["new", "old"], ["newest", "new", "old"], ["newest", "new"]):
            await sources.bring("failures", failures(*errors))
            assert await shown.all_inner_texts() == [f"E: {error}" for error in errors]
