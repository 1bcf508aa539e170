"""A page that is open follows the mesh without a reload, through the end of the server and of the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.testing import wait_until
from support.browser import open_session
from support.busy_mesh import Holds
from support.dashboards import listening
from support.processes import free_port
from support.scheduling import SchedulingMesh

if TYPE_CHECKING:
    from playwright.async_api import Page


async def waiting(page: Page, count: int) -> None:
    """Wait until the page shows so many waiting tasks."""
    await page.locator(".totals > div", has_text="waiting").get_by_text(str(count), exact=True).wait_for()


async def test_numbers_change_without_a_reload_and_the_reader_is_not_disturbed(
    mesh: SchedulingMesh, page: Page
) -> None:
    mesh.register(Holds)
    async with listening(mesh.connection, mesh.namespace, mesh.registry) as site:
        await open_session(page, site.url)
        await waiting(page, 0)
        await page.evaluate("window.unchanged = true")
        pause = page.get_by_role("button", name="Pause normal-small")
        await pause.focus()
        await page.evaluate("window.scrollTo(0, 80)")
        await mesh.broker.submit(Holds("x"))
        await waiting(page, 1)
        assert await page.evaluate("window.unchanged && window.scrollY") == 80
        assert await pause.evaluate("element => element === document.activeElement")
        # A page that somebody leaves costs nothing, and goes on when they are back.
        await page.get_by_role("link", name="Configuration").click()
        await page.go_back(wait_until="commit")
        await mesh.broker.submit(Holds("x"))
        await waiting(page, 2)
        await page.goto("about:blank")
        await wait_until(lambda: not site.dashboard.live.viewers, description="nobody looks")


async def test_a_search_goes_on_and_what_somebody_types_meanwhile_stays(mesh: SchedulingMesh, page: Page) -> None:
    mesh.register(Holds)
    async with listening(mesh.connection, mesh.namespace, mesh.registry) as site:
        await open_session(page, site.url)
        await page.goto(f"{site.url}/tasks?state=waiting")
        await page.get_by_role("searchbox", name="Label").fill("who=al")
        await mesh.broker.submit(Holds("x"))
        await page.get_by_role("heading", name="1 task found").wait_for()
        assert await page.get_by_role("searchbox", name="Label").input_value() == "who=al"


async def test_a_kill_of_the_server_is_told_and_the_page_goes_on(own_server: EmbeddedServer, page: Page) -> None:
    async with (
        SchedulingMesh.open(own_server.url, "diracx") as mesh,
        listening(mesh.connection, mesh.namespace, mesh.registry) as site,
    ):
        mesh.register(Holds)
        await open_session(page, site.url)
        await page.get_by_text("Live", exact=True).wait_for()
        own_server.kill()
        await page.get_by_text("No news since").wait_for()
        # What was known stays readable; a page that is loaded now fills itself later.
        await waiting(page, 0)
        other = await page.context.new_page()
        await other.goto(f"{site.url}/dead-letters")
        await other.get_by_text("This page fills itself").wait_for()
        own_server.start()
        await page.locator("#news .outage").wait_for(state="detached")
        await mesh.broker.submit(Holds("x"))
        await waiting(page, 1)
        await other.get_by_text("0 dead letters in").wait_for()


async def test_a_restart_of_the_dashboard_interrupts_nobody_for_long(mesh: SchedulingMesh, page: Page) -> None:
    mesh.register(Holds)
    port = free_port()
    async with listening(mesh.connection, mesh.namespace, mesh.registry, port=port) as site:
        await open_session(page, site.url)
        await page.get_by_text("Live", exact=True).wait_for()
        await page.evaluate("window.unchanged = true")
    await page.get_by_text("the dashboard does not answer. It goes on by itself.").wait_for()
    await mesh.broker.submit(Holds("x"))
    async with listening(mesh.connection, mesh.namespace, mesh.registry, port=port):
        await waiting(page, 1)
        await page.locator("#news .outage").wait_for(state="detached")
        assert await page.evaluate("window.unchanged")
    # With another token the session is over: the page says so, and leads to the form.
    async with listening(mesh.connection, mesh.namespace, port=port, token="another-token-of-a-test"):
        await page.get_by_role("link", name="Load it again").click()
        await page.get_by_label("Token").wait_for()
