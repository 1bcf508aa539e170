"""A hundred workers on the overview."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.browser import open_session
from support.busy_mesh import simulated_workers
from support.dashboards import listening
from support.scheduling import SchedulingMesh

if TYPE_CHECKING:
    from playwright.async_api import Page


async def test_a_hundred_workers_are_listed_and_can_be_folded_away(mesh: SchedulingMesh, page: Page) -> None:
    async with simulated_workers(mesh, 100), listening(mesh.connection, mesh.namespace) as site:
        await open_session(page, site.url)
        group = page.locator("#workers-small")
        await group.get_by_text("100 workers, 960 of 2,000 slots busy").wait_for()
        rows = group.locator("tbody tr")
        assert await rows.count() == 100
        box = await group.bounding_box()
        assert box is not None
        assert box["height"] < 700  # the list scrolls in itself
        # What somebody has folded away stays so when the page is kept up.
        await group.locator("summary").click()
        assert not await rows.first.is_visible()
        await page.evaluate("document.querySelector('#workers-small .meter').remove()")
        await group.locator("summary .meter").wait_for(state="attached")
        assert not await rows.first.is_visible()
        await group.locator("summary").click()
        assert await rows.first.is_visible()
