"""The health endpoints, over a real socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from diracx.tasks.plumbing.observability.health import serve_health


@dataclass
class FakeHealth:
    """Health with answers of the test."""

    live: str | None = None
    ready: str | None = None

    def why_not_live(self) -> str | None:
        return self.live

    def why_not_ready(self) -> str | None:
        return self.ready


async def ask(port: int, request: str) -> tuple[str, str]:
    """The status line and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    await writer.drain()
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return head.partition("\r\n")[0], body


@pytest.mark.parametrize(
    ("request_line", "health", "status", "body"),
    [
        ("GET /live HTTP/1.1", FakeHealth(), "200 OK", "ok\n"),
        ("GET /ready HTTP/1.1", FakeHealth(), "200 OK", "ok\n"),
        ("GET /ready?verbose=1 HTTP/1.0", FakeHealth(live="hangs"), "200 OK", "ok\n"),
        (
            "GET /live HTTP/1.1",
            FakeHealth(live="no pull was answered"),
            "503 Service Unavailable",
            "no pull was answered\n",
        ),
        ("GET /ready HTTP/1.1", FakeHealth(ready="stopping"), "503 Service Unavailable", "stopping\n"),
        ("HEAD /ready HTTP/1.1", FakeHealth(ready="stopping"), "503 Service Unavailable", ""),
        ("GET /metrics HTTP/1.1", FakeHealth(), "404 Not Found", "only /live and /ready exist\n"),
        ("POST /live HTTP/1.1", FakeHealth(), "405 Method Not Allowed", "use GET\n"),
        ("nonsense", FakeHealth(), "400 Bad Request", "not an HTTP request\n"),
    ],
)
async def test_each_request_has_its_answer(request_line: str, health: FakeHealth, status: str, body: str) -> None:
    async with serve_health(health, "127.0.0.1", 0) as port:
        assert await ask(port, f"{request_line}\r\nHost: here\r\n\r\n") == (f"HTTP/1.1 {status}", body)


async def test_a_client_that_hangs_up_does_not_disturb_others() -> None:
    async with serve_health(FakeHealth(), "127.0.0.1", 0) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /li")
        writer.close()
        await writer.wait_closed()
        assert (await ask(port, "GET /live HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK"


async def test_a_port_in_use_is_an_error_at_once() -> None:
    async with serve_health(FakeHealth(), "127.0.0.1", 0) as port:
        with pytest.raises(OSError, match="in use"):
            async with serve_health(FakeHealth(), "127.0.0.1", port):
                pass
