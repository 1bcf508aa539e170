"""The rate limiter under eight processes, judged by the server's own time stamps."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.paths import TESTS

CONTENDER = TESTS / "support" / "rate_contender.py"
PROCESSES = 8
LIMIT, WINDOW, SECONDS = 50, 2, 10


@pytest.fixture
async def names(server: EmbeddedServer, namespace: str) -> AsyncIterator[tuple[Connection, Namespace]]:
    found = Namespace(namespace)
    settings = ConnectionSettings(servers=(server.url,))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
        await ensure(connection, [asset for asset in assets(found) if asset.name == found.locks_bucket])
        yield connection, found
        await connection.api(f"STREAM.DELETE.KV_{found.locks_bucket}")


async def observe(connection: Connection, namespace: Namespace) -> list[int]:
    """The times at which the server stores keys in the bucket from now on, in nanoseconds of its own clock."""
    stored: list[int] = []

    async def note(message: Msg) -> None:
        stored.append(int(message.reply.split(".")[7]))

    stream, subject = f"KV_{namespace.locks_bucket}", f"observer.{namespace.name}"
    await connection.client.subscribe(subject, cb=note)
    config = {"name": "observer", "deliver_subject": subject, "ack_policy": "none", "mem_storage": True}
    await connection.api(f"CONSUMER.CREATE.{stream}.observer", {"stream_name": stream, "config": config})
    return stored


async def contend(url: str, namespace: Namespace) -> list[list[bytes]]:
    """Let the processes contend, and return the counts of each."""
    arguments = [url, namespace.name, str(LIMIT), str(WINDOW), str(SECONDS)]
    contenders = [
        await asyncio.create_subprocess_exec(
            sys.executable, str(CONTENDER), *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(PROCESSES)
    ]
    try:
        for each in contenders:
            assert each.stdout is not None
            assert await each.stdout.readline() == b"ready\n"
        ended = await asyncio.gather(*(each.communicate(b"go\n") for each in contenders))
    finally:
        for each in contenders:
            if each.returncode is None:
                each.kill()
                await each.wait()
    return [line.split() for line, _ in ended]


async def test_no_window_admits_more_than_the_limit_and_little_goes_unused(
    names: tuple[Connection, Namespace], server: EmbeddedServer
) -> None:
    stored = await observe(*names)
    counted = await contend(server.url, names[1])
    asked, admitted = (sum(int(line[at]) for line in counted) for at in (0, 1))
    await wait_until(lambda: len(stored) == admitted, description="every admission was observed")
    stored.sort()
    window = WINDOW * 1_000_000_000
    assert all(late - early >= window for early, late in zip(stored, stored[LIMIT:], strict=False))
    assert admitted >= 0.9 * LIMIT * SECONDS / WINDOW, f"{admitted} admitted"
    assert asked < 20 * admitted, f"{asked} asked for {admitted} admissions"
