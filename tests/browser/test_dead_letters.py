"""A thousand dead letters: they are found, and replayed or purged one, some and all at once, with progress."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from diracx.tasks.dashboard import actions
from support.browser import confirm, open_session, shown_result
from support.dashboards import Site, listening
from support.dead_letters import DeadLetterBox
from support.scheduling import SchedulingMesh

if TYPE_CHECKING:
    from playwright.async_api import Page

COUNT = 1_000
OTHER = {"Task-Name": "lollygag:Other", "Task-Id": "other"}


async def test_a_thousand_dead_letters_are_replayed_and_purged_one_some_and_all(
    mesh: SchedulingMesh, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = DeadLetterBox(mesh.connection, mesh.namespace)
    for _ in range(0, COUNT, 50):
        await asyncio.gather(*(box.add() for _ in range(50)))
    for _ in range(3):
        await box.add(headers=OTHER)
    async with listening(mesh.connection, mesh.namespace) as site:
        await open_session(page, site.url)
        await page.goto(f"{site.url}/dead-letters")
        await page.get_by_text("1,003 dead letters in").wait_for()
        await _look_through(page)
        await _one_and_some(page, site)
        # From here on each action has a page of its own, as one that takes long.
        monkeypatch.setattr(actions, "AT_ONCE_SECONDS", 0.0)
        await _all(page, site)


async def _look_through(page: Page) -> None:
    rows = page.locator('tr[id^="letter-"]')
    assert await rows.count() == 50
    await page.get_by_role("link", name="Older").click()
    await page.locator("#letter-953").wait_for()
    assert await page.locator("#letter-954").count() == 0
    await page.get_by_label("Task", exact=True).fill("lollygag:Other")
    await page.get_by_label("Task", exact=True).press("Enter")
    await page.get_by_role("button", name="Purge all of lollygag:Other").wait_for()
    assert await rows.count() == 3


async def _one_and_some(page: Page, site: Site) -> None:
    await page.get_by_role("button", name="Replay the ticked ones").click()
    await page.get_by_text("No dead letter is chosen: tick some of them first").wait_for()
    await page.goto(f"{site.url}/dead-letter?seq=7")
    await page.get_by_role("button", name="Replay it").click()
    assert "1 dead task goes back into the queue" in await confirm(page, "Replay 1 dead letter")
    assert "replayed 1 dead letter" in await shown_result(page)
    await page.get_by_text("1,002 dead letters in").wait_for()
    await page.get_by_label("Choose dead letter 1001").check()
    await page.get_by_label("Choose dead letter 1003").check()
    await page.get_by_role("button", name="Purge the ticked ones").click()
    assert "2 dead letters are removed for good" in await confirm(page, "Purge 2 dead letters")
    assert "purged 2 dead letters" in await shown_result(page)
    assert await page.locator("#letter-1001, #letter-1003").count() == 0
    assert await page.locator("#letter-1002").count() == 1


async def _all(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/dead-letters?task=lollygag:SyncOwnersTask")
    await page.get_by_role("button", name="Replay all of lollygag:SyncOwnersTask").click()
    assert "999 dead tasks go back into the queue" in await confirm(page, "Replay 999 dead letters")
    assert "/job?id=" in page.url
    async with asyncio.timeout(60):
        await page.get_by_text("of 999").first.wait_for()
        await page.get_by_text("Replayed 999 dead letters").wait_for(timeout=60_000)
    await page.get_by_role("link", name="Back").click()
    await page.get_by_text("1 dead letter in").wait_for()
    await page.get_by_role("link", name="All", exact=True).click()
    await page.get_by_role("button", name="Purge all", exact=True).click()
    await confirm(page, "Purge 1 dead letter")
    await page.get_by_text("Purged 1 dead letter").wait_for()
    await page.get_by_role("link", name="Back").click()
    await page.get_by_text("0 dead letters in").wait_for()
