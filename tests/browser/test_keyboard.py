"""Whoever has no mouse reaches everything, and sees where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.browser import open_session
from support.busy_mesh import busy_mesh
from support.dashboards import listening
from support.scheduling import SchedulingMesh

if TYPE_CHECKING:
    from playwright.async_api import Page

PAGES = ("/", "/tasks", "/dead-letters", "/dead-letter?seq=1", "/schedules", "/locks", "/configuration?from=1&to=2")

REACHABLE = """() => {
  const wanted = "a[href], button, input:not([type=hidden]), select, summary, [tabindex='0']";
  const seen = [...document.querySelectorAll(wanted)].filter((element) => element.checkVisibility());
  seen.forEach((element, place) => { element.dataset.place = place; });
  return seen.length;
}"""
FOCUSED = """() => {
  const element = document.activeElement, style = getComputedStyle(element), box = element.getBoundingClientRect();
  const marked = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const seen = box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight;
  return [element.dataset.place ?? null, marked && seen, element.outerHTML.slice(0, 120)];
}"""


async def test_tab_reaches_everything_and_the_focus_is_seen(mesh: SchedulingMesh, page: Page) -> None:
    async with busy_mesh(mesh, text="plain"), listening(mesh.connection, mesh.namespace, mesh.registry) as site:
        await open_session(page, site.url)
        # Nothing is to be replaced while the elements are counted.
        await page.route("**/events/**", lambda route: route.abort())
        for path in PAGES:
            await page.goto(site.url + path)
            count, reached = await page.evaluate(REACHABLE), set[str]()
            for _ in range(count):
                await page.keyboard.press("Tab")
                place, visible, html = await page.evaluate(FOCUSED)
                assert visible, f"{path}: the focus is not seen on {html}"
                reached.add(place)
            missed = set(map(str, range(count))) - reached
            assert not missed, f"{path}: not reached: {[await _html(page, place) for place in sorted(missed)]}"
        # The first stop leads past the navigation.
        await page.goto(f"{site.url}/tasks")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"


async def _html(page: Page, place: str) -> str:
    return str(await page.locator(f"[data-place='{place}']").evaluate("element => element.outerHTML"))[:120]
