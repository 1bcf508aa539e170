"""A tiny HTTP door for whoever restarts and balances processes: `/live` and `/ready`.

It answers on the event loop of what it speaks for, so a loop that is held up does not answer at all, which says the
same as a 503. There is no TLS and no access control: it says nothing secret, and listens on loopback unless told
otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

logger = logging.getLogger("diracx.tasks.health")

_PATIENCE: Final = 5.0
_LONGEST_REQUEST: Final = 16_384
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class Health(Protocol):
    """Speaks for a process."""

    def why_not_live(self) -> str | None:
        """Why it should be restarted; None: it should not."""

    def why_not_ready(self) -> str | None:
        """Why it does no work at the moment; None: it does, or would if there were any."""


@asynccontextmanager
async def health_served(health: Health, host: str, port: int) -> AsyncIterator[int]:
    """Answer `GET /live` and `GET /ready` until the end of the block: 200, or 503 with the reason in a line.

    Args:
        port: 0 is a free one.

    Yields the port.

    Raises:
        OSError: It cannot listen there.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(*_answer(health, request)))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            logger.debug("a health request broke off: %s", error)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, port, limit=_LONGEST_REQUEST)
    try:
        listening: int = server.sockets[0].getsockname()[1]
        logger.info("health on http://%s:%d/live and /ready", f"[{host}]" if ":" in host else host, listening)
        yield listening
    finally:
        server.close()
        await server.wait_closed()


def _answer(health: Health, request: bytes) -> tuple[int, str, bool]:
    """The status, the text, and whether the text is sent, too."""
    method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    asks: dict[str, Callable[[], str | None]] = {"/live": health.why_not_live, "/ready": health.why_not_ready}
    if method not in ("GET", "HEAD"):
        return (405, "ask with GET", True) if rest else (400, "this is no HTTP", True)
    if path not in asks:
        return 404, "there are /live and /ready", method == "GET"
    problem = asks[path]()
    return (200 if problem is None else 503), problem or "ok", method == "GET"


def _response(status: int, text: str, with_body: bool) -> bytes:
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    return head + body if with_body else head
