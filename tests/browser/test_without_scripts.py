"""A browser that runs no scripts: the pages are readable, and the actions work."""

from __future__ import annotations

from diracx.tasks.testing import wait_until
from support.browser import confirm, open_session, opened_page, shown_result
from support.busy_mesh import Holds
from support.dashboards import TOKEN, listening
from support.dead_letters import DeadLetterBox
from support.scheduling import Hourly, SchedulingMesh


async def test_pages_are_readable_and_actions_work(mesh: SchedulingMesh, browser_url: str) -> None:
    mesh.register(Holds, Hourly)
    await DeadLetterBox(mesh.connection, mesh.namespace).fill(3, advised=False)
    waiting = await mesh.broker.submit(Holds("x"))
    async with (
        opened_page(browser_url, scripts=False) as page,
        listening(mesh.connection, mesh.namespace, mesh.registry) as site,
    ):
        await page.goto(site.url)
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Sign in").click()
        await page.locator("#part-totals").get_by_text("waiting").wait_for()
        await page.get_by_role("button", name="Pause normal-small").click()
        await confirm(page, "Pause it")
        assert "normal-small is paused until it is resumed" in await shown_result(page)

        await page.get_by_role("link", name="Tasks", exact=True).click()
        await page.get_by_role("searchbox", name="Id of a task or group").fill(waiting)
        await page.get_by_role("button", name="Show").click()
        await page.get_by_role("button", name="Cancel this task").click()
        await confirm(page, "Cancel the task")
        assert "it is dropped when its turn comes" in await shown_result(page)

        await page.get_by_role("link", name="Dead letters").click()
        await page.get_by_label("Choose dead letter 2").check()
        await page.get_by_role("button", name="Purge the ticked ones").click()
        await confirm(page, "Purge 1 dead letter")
        assert "purged 1 dead letter" in await shown_result(page)
        for name, text in (
            ("Schedules", "test:Hourly"),
            ("Locks", "No locks are held"),
            ("Configuration", "No config"),
        ):
            await page.get_by_role("link", name=name).click()
            await page.locator("main").get_by_text(text).first.wait_for()
        assert not site.dashboard.live.viewers
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Token").wait_for()
        await open_session(page, site.url)
        await wait_until(lambda: page.url == f"{site.url}/", description="the overview is shown")


async def test_a_page_that_does_not_keep_up_says_of_when_it_is(mesh: SchedulingMesh, browser_url: str) -> None:
    async with opened_page(browser_url, scripts=False) as page, listening(mesh.connection, mesh.namespace) as site:
        await open_session(page, site.url)
        assert (await page.locator("#news").inner_text()).startswith("As of ")
        await page.get_by_role("button", name="Pause normal-small").click()
        await page.get_by_role("button", name="Pause it").wait_for()
        assert not await page.locator("#news").inner_text(), "there is nothing to keep up"
