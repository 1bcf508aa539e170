"""Pages that keep up with the mesh: streams of events that carry the parts of a page that changed.

    viewer ---\\
    viewer ----> feed of one page ---> view of the page ---> facts of the mesh, shared
    viewer ---/      (one poller for all feeds, while anybody looks)

* A feed keeps the latest html of each part, and no more. A viewer gets the parts that differ from those it has; one
  that reads slowly skips what came between. So memory does not depend on how long or how slowly somebody looks.
* The poller begins with the first viewer and ends soon after the last.
* If the facts cannot be had, the part `news` says since when and why; the other parts stay as they were.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec

from diracx.tasks.plumbing.background import wait_for_event
from diracx.tasks.plumbing.clock import Clock, Now, boottime
from diracx.tasks.plumbing.exceptions import TaskError

logger = logging.getLogger("diracx.tasks.dashboard")

MAX_VIEWERS: Final = 200
"""Further ones are told to come back later."""
MAX_FEEDS: Final = 50
"""With so many pages that are kept up, each with its filter, one at which nobody looks is dropped for a new one."""
LINGER_SECONDS: Final = 5.0
"""The poller goes on for so long without a viewer: somebody may have gone to another page."""
ALIVE_SECONDS: Final = 10.0
"""A stream says at least this often that it is alive."""
MAX_SHARE: Final = 0.2
"""A feed whose view takes long is read less often: for no more than this share of the time."""

Parts = Mapping[str, str]
"""The html of each part of a page, by the name of the part."""


class TooManyViewersError(TaskError):
    """There is no room for one more."""


@dataclass(eq=False, slots=True)
class Viewer:
    """One stream of events."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be news, and at the end."""
    has: dict[str, str] = field(default_factory=dict)
    """What was sent last, by part. The texts are those of the feed, so they are kept once."""
    gone: bool = False

    def leave(self) -> None:
        """End the stream."""
        self.gone = True
        self.changed.set()


@dataclass(eq=False, slots=True)
class _Feed:
    """A page that somebody looks at."""

    read: Callable[[], Awaitable[Parts]]
    every: float
    viewers: set[Viewer] = field(default_factory=set)
    parts: dict[str, str] = field(default_factory=dict)
    due: float = 0.0
    """When it is read next."""
    is_read: bool = False
    """Whether it is being read."""
    empty_since: float = 0.0
    good_at: datetime | None = None
    """The time of the last good reading."""
    changes: int = 0
    """How often something was changed here; a reading that began before a change is not shown."""

    def forget(self) -> None:
        """Read it anew."""
        self.parts.clear()
        self.due = 0.0
        self.changes += 1


class Live:
    """The feeds of all pages.

    Args:
        news: Makes the part `news` of a problem (None: there is none) and of the time of the last good reading (None:
            there was none).
        now: The time for that part.
    """

    def __init__(self, news: Callable[[str | None, datetime | None], str], now: Now, clock: Clock = boottime) -> None:
        self._news, self._now, self._clock = news, now, clock
        self._feeds: dict[tuple[str, ...], _Feed] = {}
        self._poller: asyncio.Task[None] | None = None
        self._readings: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def polls(self) -> bool:
        """Whether the mesh is being read."""
        return self._poller is not None and not self._poller.done()

    @property
    def viewers(self) -> int:
        """How many look."""
        return sum(len(feed.viewers) for feed in self._feeds.values())

    def check_room(self) -> None:
        """Check that there is room for one more viewer.

        Raises:
            TooManyViewersError: There is none.
        """
        if self._closed or self.viewers >= MAX_VIEWERS:
            raise TooManyViewersError("too many pages are open; close some, and load this one again")

    async def events(
        self, key: tuple[str, ...], read: Callable[[], Awaitable[Parts]], every: float, viewer: Viewer
    ) -> AsyncGenerator[bytes, None]:
        """The stream of one viewer, as `text/event-stream`, until it or this object is closed.

        Args:
            key: What the page depends on: viewers with equal keys share it.
            read: Makes its parts.
            every: Seconds between two readings.
        """
        feed = self._feeds.get(key)
        if feed is None:
            if len(self._feeds) >= MAX_FEEDS:
                self._drop_an_empty_feed()
            feed = self._feeds[key] = _Feed(read, every)
        if not feed.viewers:
            feed.forget()  # what it has is of the time when somebody looked
        feed.viewers.add(viewer)
        self._start_poller()
        try:
            yield b"retry: 2000\n\n"
            while not (viewer.gone or self._closed):
                viewer.changed.clear()
                for name, html in feed.parts.items():
                    if viewer.has.get(name) != html:
                        viewer.has[name] = html
                        yield _event(name, html)
                if not await wait_for_event(viewer.changed, ALIVE_SECONDS):
                    yield b"event: alive\ndata: 1\n\n"
        finally:
            feed.viewers.discard(viewer)
            feed.empty_since = self._clock()

    def forget(self) -> None:
        """Read all pages anew, as after something was changed: nobody is shown again what was there before."""
        for feed in self._feeds.values():
            feed.forget()
        self._wake.set()

    def _drop_an_empty_feed(self) -> None:
        key = next((key for key, feed in self._feeds.items() if not feed.viewers), None)
        if key is not None:
            del self._feeds[key]

    def _start_poller(self) -> None:
        self._wake.set()
        if not self.polls:
            self._poller = asyncio.create_task(self._poll(), name="poller of the dashboard")

    async def _poll(self) -> None:
        while self._feeds and not self._closed:
            self._wake.clear()
            now = self._clock()
            for key in [key for key, feed in self._feeds.items() if self._is_over(feed, now)]:
                del self._feeds[key]
            for feed in self._feeds.values():
                # Each by itself: a page that takes long holds up no other.
                if feed.due <= now and not feed.is_read:
                    feed.is_read = True
                    reading = asyncio.create_task(self._refresh(feed), name="reading for the dashboard")
                    self._readings.add(reading)
                    reading.add_done_callback(self._readings.discard)
            ends = [self._end_of(feed) for feed in self._feeds.values() if not feed.is_read]
            if self._feeds:
                await wait_for_event(self._wake, max(0.01, min(ends, default=now + LINGER_SECONDS) - self._clock()))

    @staticmethod
    def _end_of(feed: _Feed) -> float:
        """When there is something to do for a feed."""
        return feed.due if feed.viewers else feed.empty_since + LINGER_SECONDS

    def _is_over(self, feed: _Feed, now: float) -> bool:
        return not feed.viewers and now - feed.empty_since >= LINGER_SECONDS

    async def _refresh(self, feed: _Feed) -> None:
        try:
            await self._read(feed)
        finally:
            feed.is_read = False
            self._wake.set()

    async def _read(self, feed: _Feed) -> None:
        begun, changes = self._clock(), feed.changes
        if not feed.viewers:
            feed.due = begun + feed.every
            return
        try:
            parts = dict(await feed.read())
            feed.good_at = self._now()
            parts["news"] = self._news(None, feed.good_at)
        except TaskError as error:
            parts = {"news": self._news(str(error), feed.good_at)}
        except Exception as error:
            logger.exception("a page could not be made")
            problem = f"an unforeseen error, see the log of the dashboard: {error!r}"
            parts = {"news": self._news(problem, feed.good_at)}
        if feed.changes != changes:
            return
        changed = [name for name, html in parts.items() if feed.parts.get(name) != html]
        feed.parts.update(parts)
        took = self._clock() - begun
        feed.due = begun + max(feed.every, took / MAX_SHARE if took > 1 else 0.0)
        if changed:
            for viewer in feed.viewers:
                viewer.changed.set()

    async def close(self) -> None:
        """End all streams and the poller."""
        self._closed = True
        for feed in self._feeds.values():
            for viewer in feed.viewers:
                viewer.changed.set()
        running = [each for each in (self._poller, *self._readings) if each is not None and not each.done()]
        for each in running:
            each.cancel()
        if running:
            await asyncio.wait(running)


def _event(name: str, html: str) -> bytes:
    return b"event: part\ndata: " + msgspec.json.encode({"part": name, "html": str(html)}) + b"\n\n"
