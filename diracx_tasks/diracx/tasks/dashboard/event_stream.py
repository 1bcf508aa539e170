"""An HTTP answer that goes on: the events of one viewer, until the viewer or the dashboard leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from diracx.tasks.dashboard.live import Viewer


class EventStream(Response):
    """Sends what `events` yields for a viewer, as `text/event-stream`.

    Args:
        allowed: Asked before each event: the session may have ended meanwhile.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Callable[[Viewer], AsyncGenerator[bytes, None]], allowed: Callable[[], bool]) -> None:
        super().__init__()
        self._of, self._allowed = events, allowed
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"  # a proxy that collects an answer would hold the events back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream to its end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        viewer = Viewer()
        listening = asyncio.create_task(_leave_with_the_client(viewer, receive), name="viewer of the dashboard")
        try:
            async with aclosing(self._of(viewer)) as events:
                async for chunk in events:
                    if not self._allowed():
                        break
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not viewer.gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            pass  # the client has left in the middle of an event
        finally:
            listening.cancel()


async def _leave_with_the_client(viewer: Viewer, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    viewer.leave()
