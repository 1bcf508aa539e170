"""A browser for each process of the tests, a page for each test, and a mesh to look at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

from diracx.tasks.dashboard import actions
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.browser import chromium, opened_page
from support.dashboards import EVENT_SECONDS
from support.scheduling import SchedulingMesh

if TYPE_CHECKING:
    from playwright.async_api import Page


@pytest.fixture(autouse=True)
def actions_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lead to the result of an action, and to a page of its own only where a test says so."""
    monkeypatch.setattr(actions, "AT_ONCE_SECONDS", EVENT_SECONDS)


@pytest.fixture(scope="session")
def browser_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the debugging protocol of a browser."""
    with chromium(tmp_path_factory.mktemp("chromium")) as url:
        yield url


@pytest.fixture
async def page(browser_url: str) -> AsyncIterator[Page]:
    """A page that nobody has used, 1,024 px wide."""
    async with opened_page(browser_url) as page:
        yield page


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[SchedulingMesh]:
    """A mesh without processes; its tasks are submitted by its broker."""
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        yield mesh
        await mesh.remove()
