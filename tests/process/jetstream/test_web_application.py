"""A web application in two processes submits a task for each request, while the server is killed and comes back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.stream_messages import read_messages
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.command_line import isolated_environment
from support.distributions import install_extension
from support.processes import START_SECONDS, STOP_SECONDS, free_port

REQUESTS = 8_000
AT_ONCE = 32
PER_CONNECTION = 25
BEFORE_THE_OUTAGE = 3_000
OUTAGE_SECONDS = 3.0
PROCESSES = 2
MAX_SECONDS = 240.0
"""For all requests. On two cores that had much else to do they took 27 s."""


@dataclass(frozen=True)
class Answer:
    begun: float
    ended: float
    status: int
    id: str = ""
    process: int = 0


class Client:
    """Sends numbered requests on `AT_ONCE` connections, and keeps the answers.

    It speaks HTTP by hand: an HTTP library would take more time than the application.
    """

    def __init__(self, port: int) -> None:
        self.answers: list[Answer] = []
        self._port = port
        self._numbers = iter(range(REQUESTS))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._send_all())

    async def _send_all(self) -> None:
        # A process that is awake accepts all connections that wait, so new ones are opened all the time.
        while numbers := list(islice(self._numbers, PER_CONNECTION)):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                for number in numbers:
                    self.answers.append(await _answer(number, reader, writer))
            finally:
                writer.close()


async def _answer(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    begun = time.monotonic()
    writer.write(b"POST /tasks/%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % number)
    status, body = await _response(reader)
    stored = json.loads(body) if status == 200 else {}
    return Answer(begun, time.monotonic(), status, **stored)


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one response; return its status and its body."""
    status_line, _, headers = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
    length = re.search(rb"(?im)^content-length: (\d+)", headers)
    assert length is not None, headers
    return int(status_line.split()[1]), await reader.readexactly(int(length[1]))


@pytest.fixture
def application(tmp_path: Path, own_server: EmbeddedServer, namespace: str) -> Iterator[int]:
    """The port of the application, which runs in two processes."""
    points = {"diracx.tasks.web": {"Numbered": "web_application.application:Numbered"}}
    install_extension(tmp_path / "site", "web_application", points)
    port = free_port()
    options = ["--workers", str(PROCESSES), "--port", str(port), "--no-access-log"]
    with (tmp_path / "uvicorn.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "web_application.application:app", *options],
            env=isolated_environment(tmp_path, own_server.url, namespace),
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0, (tmp_path / "uvicorn.log").read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def outage(server: EmbeddedServer, client: Client) -> tuple[float, float]:
    """Kill the server under load, and start it again; return from when to when it was away."""
    await wait_until(
        lambda: len(client.answers) >= BEFORE_THE_OUTAGE, description="requests are answered", timeout=MAX_SECONDS
    )
    killed = time.monotonic()
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(OUTAGE_SECONDS)  # the outage itself
    await asyncio.to_thread(server.start)
    return killed, time.monotonic()


async def stored_ids(server: EmbeddedServer, namespace: str) -> Counter[str]:
    """How often each id of a task stands in the stream."""
    names = Namespace(namespace)
    settings = ConnectionSettings(servers=(server.url,))
    async with Connection.open(settings, name="test", inbox_prefix="_INBOX_test") as connection:
        messages = read_messages(connection, names.tasks_stream, ">")
        return Counter([message.headers["Task-Id"] async for message in messages])


@pytest.mark.slow
async def test_every_200_is_a_stored_task_and_none_is_stored_twice_across_a_kill_of_the_server(
    application: int, own_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    log = tmp_path / "uvicorn.log"
    await wait_until(
        lambda: log.read_text().count("Application startup complete") == PROCESSES,
        description="both processes have started",
        timeout=START_SECONDS,
    )
    client = Client(application)
    async with asyncio.timeout(MAX_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(client.run())
        away = group.create_task(outage(own_server, client))
    killed, back = away.result()

    accepted = [answer for answer in client.answers if answer.status == 200]
    refused = [answer for answer in client.answers if answer.status != 200]
    print(f"accepted by {Counter(answer.process for answer in accepted)}, refused: {len(refused)}")
    assert len(accepted) + len(refused) == REQUESTS
    assert len({answer.process for answer in accepted}) == PROCESSES
    assert any(answer.begun < back and answer.ended > killed for answer in client.answers), "the outage hit nobody"
    assert not [answer for answer in refused if answer.ended < killed or answer.begun > back]
    stored = await stored_ids(own_server, namespace)
    assert max(stored.values()) == 1
    assert not {answer.id for answer in accepted} - set(stored)
    assert len({answer.id for answer in accepted}) == len(accepted)
    # A refused one may be stored nevertheless: its answer was lost with the server.
    assert len(stored) <= REQUESTS
