"""A dashboard that listens, in the process of the test, and a browser's requests to it."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from diracx.tasks.dashboard.access import AccessSettings
from diracx.tasks.dashboard.app import Dashboard
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.serving import listen, serving
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until

TOKEN = "a-token-that-tests-know"
EVENT_SECONDS = 20.0
"""How long an event may take that a test waits for."""


@dataclass(frozen=True)
class Site:
    """A dashboard that listens."""

    url: str
    dashboard: Dashboard
    client: httpx.AsyncClient
    """Without a session, until `log_in`."""

    async def log_in(self) -> None:
        """Begin a session."""
        answer = await self.client.get("/login", params={"token": TOKEN})
        assert answer.status_code == 303, answer.text

    async def text(self, path: str, **query: str) -> str:
        """The html of a page."""
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text.partition("<main")[2] or answer.text
        return answer.text

    async def form(self, path: str, **query: str) -> dict[str, str]:
        """The hidden values of the form on a page, without that of signing out."""
        text = (await self.text(path, **query)).partition("<main")[2]
        return dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', text))

    async def act(self, name: str, /, choices: dict[str, str] | None = None, **query: str) -> str:
        """Confirm an action; the sentence that the page tells as its result."""
        values = await self.form(f"/actions/{name}", **query)
        answer = await self.client.post(f"/actions/{name}", data=values | (choices or {}))
        assert answer.status_code == 303, answer.text
        where, _, told = answer.headers["location"].rpartition("=")
        job = self.dashboard.jobs.get(told)
        assert job is not None, where
        await wait_until(lambda: job.result is not None, description=f"{name} ends", timeout=EVENT_SECONDS)
        path = "/job?id=" if where.endswith("/job?id") else f"{where}="
        assert html.escape(str(job.result)[1:]) in (await self.client.get(f"{path}{told}")).text
        return str(job.result)

    async def parts(self, page: str, **query: str) -> AsyncIterator[tuple[str, str]]:
        """The parts that the stream of a page sends, each with its html."""
        async with self.client.stream("GET", f"/events/{page}", params=query, timeout=EVENT_SECONDS) as answer:
            assert answer.status_code == 200
            event = ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data" and event == "part":
                    data = json.loads(value)
                    yield data["part"], data["html"]

    async def sees(self, page: str, part: str, text: str, **query: str) -> None:
        """Wait until the stream of a page brings a part with a text."""
        async with asyncio.timeout(EVENT_SECONDS):
            async for name, content in self.parts(page, **query):
                if name == part and text in content:
                    return
        raise AssertionError(f"the stream ended without {text!r}")


@asynccontextmanager
async def listening(
    connection: Connection,
    names: Namespace,
    registry: TaskRegistry | None = None,
    *,
    read_only: bool = False,
    port: int = 0,
    **settings: Any,
) -> AsyncIterator[Site]:
    """Run a dashboard of a mesh during the block.

    Args:
        port: 0 takes a free one.
        settings: Further fields of `AccessSettings`.
    """
    mesh = Mesh(connection, names, TaskRegistry() if registry is None else registry, read_only=read_only)
    with listen("127.0.0.1", port) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        access = AccessSettings(**({"token": TOKEN} | settings))
        async with serving(mesh, access, sock) as dashboard, httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield Site(url, dashboard, client)


@asynccontextmanager
async def signed_in(connection: Connection, names: Namespace, **settings: Any) -> AsyncIterator[Site]:
    """As `listening`, with a session."""
    async with listening(connection, names, **settings) as site:
        await site.log_in()
        yield site
