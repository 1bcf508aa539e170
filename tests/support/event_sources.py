"""A stream of events that the test makes up, in place of that of the dashboard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.async_api import Page

_IN_PLACE: Final = """
window.sources = [];
window.EventSource = class extends EventTarget {
  static CONNECTING = 0; static OPEN = 1; static CLOSED = 2;
  readyState = 0;
  constructor() { super(); window.sources.push(this); }
  close() { this.readyState = 2; }
};
"""


class EventSources:
    """The streams that a page has asked for; made for a page before it is loaded."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def take_place(self) -> None:
        """Give the page these in place of its own, from its next load on."""
        await self._page.add_init_script(_IN_PLACE)

    async def count(self) -> int:
        """How many streams the page has asked for since it was loaded."""
        return int(await self._page.evaluate("sources.length"))

    async def bring(self, part: str, html: str) -> None:
        """Send a part of the page."""
        data = json.dumps({"part": part, "html": html})
        await self._page.evaluate("data => sources.at(-1).dispatchEvent(new MessageEvent('part', {data}))", data)

    async def refuse(self) -> None:
        """Refuse the latest stream for good, as for a session that is over."""
        await self._page.evaluate("() => { sources.at(-1).readyState = 2; sources.at(-1).onerror(); }")
