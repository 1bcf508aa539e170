"""Each action, from its button over the confirmation to the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.browser import confirm, open_session, shown_result
from support.busy_mesh import busy_mesh
from support.dashboards import listening
from support.scheduling import SchedulingMesh

if TYPE_CHECKING:
    from playwright.async_api import Page


async def test_an_operator_pauses_resumes_runs_cancels_and_releases(mesh: SchedulingMesh, page: Page) -> None:
    async with (
        busy_mesh(mesh, text="plain") as busy,
        listening(mesh.connection, mesh.namespace, mesh.registry) as site,
    ):
        await open_session(page, site.url)
        await _pause_and_resume(page)
        await page.goto(f"{site.url}/schedules")
        await page.get_by_role("button", name="Run test:Report lhcb now").click()
        assert "One more run goes into normal-small at once" in await confirm(page, "Run it now")
        assert "submitted as" in await shown_result(page)

        await page.goto(f"{site.url}/locks")
        await page.get_by_role("button", name="Release mutex.job.alice").click()
        assert f"Held by test:Holds {busy.runs}" in await confirm(page, "Release it")
        assert "released mutex.job.alice" in await shown_result(page)

        # The next holder.
        await page.goto(f"{site.url}/tasks")
        async with page.expect_navigation():
            await page.get_by_role("button", name="Cancel test:Holds").first.click()
        assert "its code is told to end" in await confirm(page, "Cancel the task")
        assert "cancelled, and has ended" in await shown_result(page)
        # To read the result again does nothing again.
        await page.reload()
        assert "cancelled, and has ended" in await shown_result(page)


async def _pause_and_resume(page: Page) -> None:
    queue = page.locator('td[data-label="normal-small"]')
    await queue.get_by_role("button", name="Pause normal-small").click()
    await page.get_by_label("For how long").select_option("900")
    assert "No worker gets further tasks of normal-small" in await confirm(page, "Pause it")
    assert "normal-small is paused until 20" in await shown_result(page)
    await queue.get_by_text("paused until 20").wait_for()
    await queue.get_by_role("button", name="Resume normal-small").click()
    assert "Workers get the tasks of normal-small again" in await confirm(page, "Resume it")
    assert "normal-small is resumed" in await shown_result(page)
    # The page is of the time after the action, and no stream brings back what was there before.
    assert not await queue.get_by_text("paused").count()
    await queue.get_by_role("button", name="Pause normal-small").click()
    await page.get_by_role("link", name="Do nothing").click()
    await queue.get_by_role("button", name="Pause normal-small").wait_for()
    assert not await page.get_by_role("alert").count()
