"""A page whose stream is refused asks again from time to time: one stream, and only while somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.browser import open_session
from support.dashboards import listening
from support.event_sources import EventSources
from support.scheduling import SchedulingMesh

if TYPE_CHECKING:
    from playwright.async_api import Page

RETRY_MS = 15_000
_SHOW = """hidden => {
  Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def show(page: Page, visible: bool) -> None:
    """Bring the tab of a page to the front, or another one."""
    await page.evaluate(_SHOW, not visible)


async def test_one_stream_is_asked_for_again_however_often_the_tab_was_hidden(mesh: SchedulingMesh, page: Page) -> None:
    sources = EventSources(page)
    await sources.take_place()
    await page.clock.install()
    async with listening(mesh.connection, mesh.namespace) as site:
        await open_session(page, site.url)
        await sources.refuse()
        for shown in range(1, 4):
            await show(page, visible=False)
            await show(page, visible=True)
            assert await sources.count() == 1 + shown
            await sources.refuse()
        await page.clock.run_for(RETRY_MS)
        assert await sources.count() == 5
        # It goes on as long as somebody looks.
        await sources.refuse()
        await page.clock.run_for(RETRY_MS)
        assert await sources.count() == 6


async def test_a_hidden_page_asks_for_nothing(mesh: SchedulingMesh, page: Page) -> None:
    sources = EventSources(page)
    await sources.take_place()
    await page.clock.install()
    async with listening(mesh.connection, mesh.namespace) as site:
        await open_session(page, site.url)
        await sources.refuse()
        await show(page, visible=False)
        await page.clock.run_for(4 * RETRY_MS)
        assert await sources.count() == 1
        await show(page, visible=True)
        assert await sources.count() == 2


async def test_a_page_that_is_refused_while_it_is_hidden_asks_once_it_is_seen(mesh: SchedulingMesh, page: Page) -> None:
    sources = EventSources(page)
    await sources.take_place()
    await page.clock.install()
    # As a link that is opened in a new tab behind this one.
    await page.add_init_script("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    async with listening(mesh.connection, mesh.namespace) as site:
        await open_session(page, site.url)
        await sources.refuse()
        await page.clock.run_for(4 * RETRY_MS)
        assert await sources.count() == 1
        await show(page, visible=True)
        assert await sources.count() == 2
