"""The HTTP endpoints `/live` and `/ready`, for orchestrators that restart and balance processes.

They answer on the event loop of the worker or scheduler. A blocked loop does not answer at all, and an orchestrator
treats that like a 503. There is no TLS and no access control, since the answers hold no secrets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

logger = logging.getLogger("diracx.tasks.health")

_REQUEST_SECONDS: Final = 5.0
_MAX_REQUEST_BYTES: Final = 16_384
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class Health(Protocol):
    """The health of a process."""

    def why_not_live(self) -> str | None:
        """Return why the process should be restarted; None if it should not."""

    def why_not_ready(self) -> str | None:
        """Return why the process takes no work at the moment; None if it works, or would if there were any."""


@asynccontextmanager
async def serve_health(health: Health, host: str, port: int) -> AsyncIterator[int]:
    """Answer `GET /live` and `GET /ready` within the block: 200, or 503 with the reason as one line of text.

    Args:
        health: The process to report on.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.

    Yields:
        The port.

    Raises:
        OSError: The address is in use or not available.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(*_answer(health, request)))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            logger.debug("a health request broke off: %s", error)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, port, limit=_MAX_REQUEST_BYTES)
    try:
        listening: int = server.sockets[0].getsockname()[1]
        logger.info("health on http://%s:%d/live and /ready", f"[{host}]" if ":" in host else host, listening)
        yield listening
    finally:
        server.close()
        await server.wait_closed()


def _answer(health: Health, request: bytes) -> tuple[int, str, bool]:
    """Return the status, the text, and whether to send the text (not for HEAD)."""
    method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    checks: dict[str, Callable[[], str | None]] = {"/live": health.why_not_live, "/ready": health.why_not_ready}
    if method not in ("GET", "HEAD"):
        return (405, "use GET", True) if rest else (400, "not an HTTP request", True)
    if path not in checks:
        return 404, "only /live and /ready exist", method == "GET"
    problem = checks[path]()
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
