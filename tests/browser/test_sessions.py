"""Who is let in, and who sees the buttons of actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.registry import TaskRegistry
from support.browser import open_session
from support.dashboards import TOKEN, listening
from support.operated_mesh import NAMES, operated_mesh
from support.scheduling import SchedulingMesh
from support.secured import connected, secured_server

if TYPE_CHECKING:
    from playwright.async_api import Page

KEPT_UP = "document.addEventListener('part', () => document.documentElement.classList.add('kept'))"
"""Marks a page that its stream has brought up to date."""
PAGES = ("/", "/tasks", "/dead-letters", "/dead-letter?seq=1", "/schedules", "/locks", "/configuration")


async def test_a_session_begins_by_the_form_or_the_link_and_ends_by_the_button(
    mesh: SchedulingMesh, page: Page
) -> None:
    async with listening(mesh.connection, mesh.namespace) as site:
        await page.goto(f"{site.url}/locks?key=mutex")
        assert await page.get_by_label("Token").evaluate("element => element === document.activeElement")
        await page.keyboard.type("a wrong token, for once")
        await page.keyboard.press("Enter")
        await page.get_by_text("The token is wrong").wait_for()
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_text("No locks are held").wait_for()
        assert page.url == f"{site.url}/locks?key=mutex"
        (cookie,) = await page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert await page.evaluate("document.cookie") == ""

        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Token").wait_for()
        assert not await page.context.cookies()
        await page.goto(site.url)
        assert "/login" in page.url
        await open_session(page, site.url)
        assert await page.get_by_role("heading", level=1).inner_text() == "Overview"
        assert TOKEN not in page.url


async def test_observers_and_readers_see_all_and_no_button(page: Page) -> None:
    await page.add_init_script(
        "document.addEventListener('part', () => document.documentElement.classList.add('kept'))"
    )
    with secured_server(NAMES.name) as server:
        async with operated_mesh(server) as mesh:
            async with connected(server, NAMES.name, "operator") as operator:
                assert await buttons(page, operator, mesh.registry, PAGES[:3]) > 12
                assert not await buttons(page, operator, mesh.registry, PAGES[:3], read_only=True)
            async with connected(server, NAMES.name, "observer") as observer:
                assert not await buttons(page, observer, mesh.registry, PAGES)


async def buttons(
    page: Page, connection: Connection, registry: TaskRegistry, paths: Sequence[str], *, read_only: bool = False
) -> int:
    """How many buttons there are that lead to actions on pages that were kept up for once."""
    found = 0
    async with listening(connection, NAMES, registry, read_only=read_only) as site:
        await open_session(page, site.url)
        for path in paths:
            await page.goto(site.url + path)
            await page.locator("html.kept").wait_for()
            found += await page.locator("[action*='/actions/'], [formaction*='/actions/'], [type=checkbox]").count()
            assert await page.locator("main h1").count() == 1
    return found
