"""Each page, with hostile texts wherever others choose them: it fits the window, can be read, and runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from support import dashboard_client
from support.browser import open_session
from support.busy_mesh import BusyMesh, busy_mesh
from support.dashboards import listening
from support.scheduling import SchedulingMesh

if TYPE_CHECKING:
    from playwright.async_api import Page

WIDTHS = (360, 1024, 1920)
CHECK = Path(dashboard_client.__file__).with_name("page_check.js").read_text()


def paths(busy: BusyMesh) -> list[str]:
    """A path of each page, and of confirmations."""
    return [
        "/",
        "/tasks?state=all",
        *(f"/task?id={each}" for each in (busy.runs, busy.waits, busy.fails, "odd")),
        "/dead-letters",
        "/dead-letter?seq=1",
        "/schedules",
        "/locks",
        "/configuration",
        "/configuration?from=1&to=2",
        "/job?id=none",
        "/nowhere",
        "/actions/purge?everything=1",
        "/actions/pause?queue=normal-small",
        f"/actions/cancel?id={busy.runs}",
        "/actions/release?key=mutex.job.alice",
    ]


async def test_each_page_is_readable_at_each_width_in_light_and_dark(mesh: SchedulingMesh, page: Page) -> None:
    async with (
        busy_mesh(mesh) as busy,
        listening(mesh.connection, mesh.namespace, mesh.registry) as site,
    ):
        problems = await problems_of(page, f"{site.url}/login")
        await open_session(page, site.url)
        for path in paths(busy):
            problems += await problems_of(page, site.url + path)
    assert not problems, "\n".join(problems)


async def problems_of(page: Page, url: str) -> list[str]:
    """What is wrong with a page, each with its path."""
    found = []
    await page.goto(url)
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 900})
        if (takes := await page.evaluate("document.documentElement.scrollWidth")) > width:
            found.append(f"it is {takes} px wide in a window of {width} px")
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        found += await page.evaluate(CHECK)
    # The elements that the hostile texts would have made.
    if await page.locator("img, textarea, body script, [onerror]").count():
        found.append("a text has become an element")
    return [f"{url.partition('//')[2].partition('/')[2]}: {each}" for each in dict.fromkeys(found)]
