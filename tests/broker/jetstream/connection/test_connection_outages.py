"""A connection through outages of a real nats-server."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from nats.aio.transport import TcpTransport

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream import errors
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.testing import wait_until
from support.connecting import NEVER, connect
from support.tcp_proxy import TcpProxy


async def test_a_restart_of_the_server_is_survived_and_told_in_one_line_each(
    own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="diracx.tasks.jetstream")
    told: list[int] = []
    async with connect(own_server) as connection:

        async def again() -> None:
            await connection.api("INFO")
            told.append(connection.generation)

        connection.on_reconnect(again)
        connection.on_reconnect(lambda: told.append(-1))
        own_server.restart()
        await wait_until(lambda: sorted(told) == [-1, 1], description="both callbacks ran")
        assert await connection.wait_connected(NEVER)
        assert connection.generation == 1
        connection.remove_on_reconnect(again)
        own_server.restart()
        await wait_until(lambda: connection.generation == 2, description="reconnected again")
        await connection.api("INFO")
        assert told.count(2) == 0
    lines = [re.sub(r":\d+", "", record.getMessage()) for record in caplog.records]
    assert lines[0] == "connected to nats://127.0.0.1"
    assert lines.count("reconnected to nats://127.0.0.1") == 2
    assert sum("disconnected" in line for line in lines) == 2
    assert not any("EOF" in line or "Errno" in line for line in lines)
    assert not any(record.exc_info for record in caplog.records)


async def test_a_callback_that_fails_is_logged_and_harms_nothing(
    own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a bug in a callback")

    async with connect(own_server) as connection:
        connection.on_reconnect(fail)
        own_server.restart()
        await wait_until(lambda: "a bug in a callback" in caplog.text, description="the error is in the log")
        await connection.api("INFO")


@pytest.mark.parametrize("turns", [0, 1])
async def test_what_is_sent_in_the_moment_in_which_the_socket_is_lost_tells_of_the_connection(
    turns: int, server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writelines(self: TcpTransport, lines: list[bytes]) -> None:  # as uvloop does
        assert self._io_writer is not None
        if self._io_writer.is_closing():
            raise RuntimeError("unable to perform operation; the handler is closed")
        self._io_writer.writelines(lines)

    monkeypatch.setattr(TcpTransport, "writelines", writelines)
    async with connect(server) as connection:
        await connection.client.subscribe(namespace)
        await connection.client.flush()
        heard = await connection.client.listen(f"{namespace}.heard", lambda _: None)
        cut_off(connection)
        for _ in range(turns):
            await asyncio.sleep(0)
        with pytest.raises(errors.NotConnectedError, match="the connection was lost before the reply"):
            await connection.request(namespace, timeout=NEVER)
        assert await connection.wait_connected(NEVER)
        flusher = connection.client._flusher_task
        assert flusher is not None
        flusher.cancel()  # it ends where it cannot write, and nats-py writes without it from then on
        await asyncio.wait([flusher])
        cut_off(connection)
        await connection.publish(namespace)
        await heard.unsubscribe()
        await wait_until(lambda: connection.generation == 2, description="it is connected again")
        await connection.api("INFO")
        cut_off(connection)
        await connection.publish(namespace)
        # The end of the block closes the connection, and has no error of the event loop either.


def cut_off(connection: Connection) -> None:
    """Lose the socket, as where the server resets it; nats-py does not know of it yet."""
    transport = connection.client._transport
    assert isinstance(transport, TcpTransport)
    assert transport._io_writer is not None
    transport._io_writer.transport.abort()


async def test_while_disconnected_nothing_is_buffered_and_what_waits_is_ended(
    own_server: EmbeddedServer, namespace: str
) -> None:
    async with connect(own_server) as connection:
        await connection.client.subscribe(namespace)
        waiting = await connection.send_request(namespace)
        own_server.kill()
        with pytest.raises(errors.NotConnectedError, match="lost before the reply"):
            await waiting
        assert not await connection.wait_connected(0.01)
        with pytest.raises(errors.NotConnectedError, match="nothing was sent"):
            await connection.request(namespace, timeout=NEVER)
        with pytest.raises(ServerUnavailableError, match="nothing was sent"):
            await connection.publish(namespace, b"+ACK")
        own_server.start()
        assert await connection.wait_connected(NEVER)
        assert (await connection.api("INFO"))["type"]


async def test_what_was_not_yet_on_the_wire_when_it_broke_is_not_sent_afterwards(
    own_server: EmbeddedServer, namespace: str
) -> None:
    async with (
        TcpProxy(own_server.url) as proxy,
        connect(own_server) as reader,
        connect(proxy.url) as connection,
    ):
        received: list[bytes] = []

        async def keep(message: Any) -> None:
            received.append(message.data[:1])

        await reader.client.subscribe(namespace, cb=keep)
        await reader.client.flush()
        proxy.block()
        for _ in range(200):
            await connection.publish(namespace, b"s" * 100_000)
            await asyncio.sleep(0)
        proxy.unblock()
        await wait_until(lambda: connection.generation == 1, description="reconnected")
        assert await connection.wait_connected(NEVER)
        await connection.publish(namespace, b"f")
        await wait_until(lambda: b"f" in received, description="what was sent afterwards has come")
        assert received.count(b"s") < 100


async def test_an_error_that_stays_is_told_once_in_an_outage(
    own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0

    async def turn_away(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.write(b"-ERR 'no room'\r\n")
        writer.close()

    async with connect(own_server):
        port = int(own_server.url.rpartition(":")[2])
        own_server.stop()
        listener = await asyncio.start_server(turn_away, "127.0.0.1", port)
        await wait_until(lambda: attempts >= 3, description="three attempts were turned away")
        listener.close()
    refusals = [record for record in caplog.records if "INFO message" in record.getMessage()]
    assert len(refusals) == 1


async def test_credentials_withdrawn_and_given_back_do_not_end_the_connection(
    own_server: EmbeddedServer,
) -> None:
    def allow(token: str) -> None:
        own_server.extra_config = f'authorization {{ token: "{token}" }}'
        own_server.reload()

    own_server.extra_config = 'authorization { token: "first" }'
    own_server.restart()
    async with connect(own_server, token="first") as connection:
        allow("second")
        await wait_until(lambda: not connection.is_connected, description="the server ended the connection")
        allow("first")
        assert await connection.wait_connected(NEVER)
        assert (await connection.api("INFO"))["type"]


async def test_a_server_that_stands_still_is_not_waited_for_longer_than_asked(
    own_server: EmbeddedServer,
) -> None:
    async with connect(own_server) as connection:
        os.kill(own_server.pid, signal.SIGSTOP)
        status = Path(f"/proc/{own_server.pid}/status")
        await wait_until(lambda: "State:\tT" in status.read_text(), description="the server stands still")
        try:
            with pytest.raises(errors.RequestTimeoutError):
                await connection.api("INFO", timeout=0.05)
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        assert (await connection.api("INFO"))["type"]


@pytest.mark.parametrize("turns", range(6))
async def test_a_close_in_the_moment_in_which_an_attempt_to_reconnect_fails_ends_the_attempts(
    own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    failing = asyncio.Event()

    async def refuse(*_: Any, **__: Any) -> None:
        failing.set()
        raise ConnectionRefusedError

    before = asyncio.all_tasks()
    async with connect(own_server):
        monkeypatch.setattr(asyncio, "open_connection", refuse)
        own_server.kill()
        await failing.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
    await wait_until(lambda: asyncio.all_tasks() == before, description="nothing of the connection is left")
