"""A browser for the dashboard, in this process: it keeps the session, and reads pages as a parser of HTML does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode

import httpx

from diracx.tasks.dashboard.access import AccessSettings, Gate
from diracx.tasks.dashboard.app import Dashboard
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.serving import ACTIONS, PAGES
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until

TOKEN = "a-token-of-a-test"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[31m\u202e&amp;{{ 7*7 }}"
"""A text that others chose: it must be shown as it is, in every place."""
LONG = "n" * 10_000
_VOID = ("input", "link", "meta", "br", "img", "rect", "line", "path")


@dataclass
class Form:
    """A form of a page."""

    action: str
    method: str
    values: list[tuple[str, str]] = field(default_factory=list)


class Page(HTMLParser):
    """A page as a browser understands it."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.status = answer.status_code
        self.url = answer.url
        self.html = answer.text
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._text: list[str] = []
        self.feed(self.html)

    @property
    def text(self) -> str:
        """What a reader sees, with single spaces."""
        return " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element."""
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag == "a":
            self.links.append(values.get("href") or "")
        if tag == "form":
            self.forms.append(Form(values.get("action") or "", values.get("method") or "get"))
        if tag == "input" and values.get("type") == "hidden":
            self.forms[-1].values.append((values["name"] or "", values.get("value") or ""))

    def handle_endtag(self, tag: str) -> None:
        """Keep the texts of cells and items apart."""
        if tag in ("td", "th", "li", "dd", "dt", "p"):
            self._text.append(" ")

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self._text.append(data)

    def form(self, action: str) -> Form:
        """The form that leads there."""
        (found,) = [each for each in self.forms if each.action == action]
        return found

    def assert_harmless(self) -> None:
        """No text of others has become an element or an attribute, or reached the page unescaped."""
        scripts = [values for tag, values in self.tags if tag == "script"]
        assert [values.get("src") for values in scripts] == ["/static/live.js"]
        assert not [tag for tag, _ in self.tags if tag == "img"]
        assert not [name for _, values in self.tags for name in values if name.startswith("on") or name == "style"]
        assert not set(self.html) & {"\x1b", "\u202e"}
        assert LONG not in self.text


class Client:
    """One visitor."""

    def __init__(self, dashboard: Dashboard, http: httpx.AsyncClient) -> None:
        self.dashboard, self.http = dashboard, http

    async def get(self, path: str, *values: tuple[str, object], **query: object) -> Page:
        """Load a page; `values` may have a name more than once."""
        text = urlencode([*values, *query.items()])
        return Page(await self.http.get(f"{path}?{text}" if text else path, follow_redirects=True))

    async def confirm(self, action: str, *values: tuple[str, object], **query: object) -> Page:
        """Load the confirmation page of an action."""
        return await self.get(f"/actions/{action}", *values, **query)

    async def post(self, action: str, values: Iterable[tuple[str, str]]) -> Page:
        """Send a form; follow to its result."""
        body = urlencode(list(values))
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await self.http.post(f"/actions/{action}", content=body, headers=headers, follow_redirects=True)
        return Page(answer)

    async def do(self, action: str, *values: tuple[str, object], **query: object) -> Page:
        """Confirm an action, and wait for its result."""
        confirmation = await self.confirm(action, *values, **query)
        assert confirmation.status == 200, confirmation.text
        page = await self.post(action, confirmation.form(f"/actions/{action}").values)
        await wait_until(lambda: not self.dashboard.jobs.running(), description="the action has ended", timeout=60)
        return await self.get("/job", id=page.url.params["id"]) if page.url.path == "/job" else page


@asynccontextmanager
async def visiting(
    connection: Connection,
    namespace: Namespace,
    registry: TaskRegistry | None = None,
    *,
    acts: bool = True,
    token: str = TOKEN,
) -> AsyncIterator[Client]:
    """A dashboard of a mesh, and a visitor who has given the token.

    Args:
        acts: Whether visitors may act.
    """
    mesh = Mesh(connection, namespace, TaskRegistry() if registry is None else registry)
    dashboard = Dashboard(mesh, Gate(AccessSettings(token=token, acts=acts)), PAGES, ACTIONS)
    transport = httpx.ASGITransport(app=dashboard.app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
            await http.get("/login", params={"token": token})
            yield Client(dashboard, http)
    finally:
        await dashboard.close()


async def assert_only_operators_act(client: Client, action: str, values: Sequence[tuple[str, str]]) -> None:
    """An action is refused without the CSRF token of the session, and with a wrong one."""
    for csrf in ([], [("csrf", "x" * 64)]):
        page = await client.post(action, [*values, *csrf])
        assert page.status == 403
        assert "The form is not of this session" in page.text
