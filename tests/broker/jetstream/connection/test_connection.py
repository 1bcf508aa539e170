"""The first connect of a process to a nats-server, and the servers that it refuses."""

from __future__ import annotations

import asyncio
import json

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import UnsupportedServerError
from diracx.tasks.plumbing.jetstream import errors
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.testing import wait_until
from support.connecting import connect, serve
from support.processes import free_port


async def test_a_connected_client_asks_the_jetstream_api_under_its_own_inbox(server: EmbeddedServer) -> None:
    async with connect(server) as connection:
        assert connection.is_connected
        assert connection.generation == 0
        assert connection.max_payload == 1024 * 1024
        assert connection.client.new_inbox().startswith("_INBOX_test.")
        assert (await connection.api("INFO"))["type"].endswith("account_info_response")


async def test_the_inbox_prefix_of_the_settings_wins_over_the_roles_own(server: EmbeddedServer) -> None:
    async with connect(server, inbox_prefix="_INBOX_operator") as connection:
        assert connection.client.new_inbox().startswith("_INBOX_operator.")


async def test_no_server_is_an_error_of_one_line_without_the_password() -> None:
    async with serve(lambda *_: asyncio.sleep(0)) as url:
        pass
    url = url.replace("127.0", "alice:s3cret@127.0")
    with pytest.raises(errors.ServerUnreachableError, match="connection refused") as caught:
        async with connect(url):
            pass
    assert "***@127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_of_several_servers_one_is_enough(server: EmbeddedServer) -> None:
    async with serve(lambda *_: asyncio.sleep(0)) as gone:
        pass
    settings = ConnectionSettings(servers=(gone, server.url))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
        assert connection.is_connected


# nats-py gives aiohttp a timeout in the old way.
@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float' is deprecated:DeprecationWarning")
async def test_a_server_is_reached_through_a_websocket() -> None:
    port = free_port()
    with EmbeddedServer(extra_config=f"websocket {{ port: {port}, no_tls: true }}"):
        async with connect(f"ws://127.0.0.1:{port}") as connection:
            assert (await connection.api("INFO"))["type"].endswith("account_info_response")


async def test_a_server_that_never_greets_is_given_up(server: EmbeddedServer) -> None:
    over = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async with serve(say_nothing) as url:
        with pytest.raises(errors.ServerUnreachableError, match="no answer in time"):
            async with Connection.open(
                ConnectionSettings(servers=(url,)), name="a test", inbox_prefix="_I", connect_timeout=0.2
            ):
                pass
        over.set()


async def test_a_server_that_is_too_old_is_refused_with_both_versions() -> None:
    # Only the greeting of an old server, which cannot be installed here; nothing else of NATS is played.
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "old", "version": "2.9.0", "max_payload": 1048576, "headers": True, "proto": 1}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    async with serve(greet) as url:
        with pytest.raises(UnsupportedServerError, match=r"2\.9\.0.*2\.12\.1"):
            async with connect(url):
                pass


async def test_a_server_without_jetstream_is_refused() -> None:
    # The account's own switch: the server has JetStream, this user has none.
    accounts = "accounts { A { users: [{user: a, password: p}] } }"
    async with EmbeddedServer(extra_config=accounts) as server:
        with pytest.raises(errors.JetStreamUnavailableError, match="JetStream"):
            async with connect(server, user="a", password="p"):
                pass


async def test_a_subject_that_is_too_long_for_the_server_is_refused_and_the_connection_stays(
    server: EmbeddedServer,
) -> None:
    async with connect(server) as connection:
        for subject in ("a." * 2_048 + "a", "é" * 2_040, "x" * 100_000):
            for publish in (connection.publish, connection.request):
                with pytest.raises(errors.SubjectTooLongError, match="max_control_line, 4096: shorten") as caught:
                    await publish(subject, b"x" * 10)
                assert len(str(caught.value)) < 500
        # The longest line that passes is one that the server takes, too.
        longest, refused = "x" * 4_096, True
        while refused:
            try:
                await connection.publish(longest, b"x" * 1_000_000, headers={"a": "b"})
                refused = False
            except errors.SubjectTooLongError as error:
                longest = longest[: error.limit - error.size]
        assert (await connection.api("INFO"))["type"].endswith("account_info_response")
        assert connection.generation == 0


async def test_a_flush_that_is_given_up_does_not_end_the_reading(server: EmbeddedServer) -> None:
    async with connect(server) as connection:
        flush = asyncio.create_task(connection.client.flush())
        await asyncio.sleep(0)
        flush.cancel()
        await asyncio.wait([flush])
        assert flush.cancelled()
        await connection.client.flush()
        assert (await connection.api("INFO"))["type"].endswith("account_info_response")


async def test_more_than_a_socket_holds_is_sent_in_order(server: EmbeddedServer) -> None:
    async with connect(server) as sender, connect(server) as receiver:
        seen: list[bytes] = []
        await receiver.client.listen("much", lambda message: seen.append(message.data[:4]))
        await receiver.client.flush()
        for _ in range(2):  # the second part finds the socket full
            for number in range(100):
                await sender.publish("much", b"%4d" % number + bytes(100_000))
            await asyncio.sleep(0)
        await wait_until(lambda: len(seen) == 200, description="all of it has arrived")
        assert seen == 2 * [b"%4d" % number for number in range(100)]


async def test_an_inbox_prefix_that_is_too_long_is_refused_in_one_line(server: EmbeddedServer) -> None:
    with pytest.raises(errors.SubjectTooLongError, match="or the inbox prefix"):
        async with connect(server, inbox_prefix="_INBOX_" + "x" * 4_096):
            pass


async def test_what_a_lower_limit_of_the_server_has_cut_once_is_not_sent_again() -> None:
    with EmbeddedServer(extra_config="max_control_line: 512") as server:
        async with connect(server) as connection:
            with pytest.raises(errors.NotConnectedError):
                await connection.request("x" * 600)
            assert await connection.wait_connected(10)
            for length in (600, 601, 4_000):
                with pytest.raises(errors.SubjectTooLongError):
                    await connection.request("x" * length)
            assert (await connection.api("INFO"))["type"].endswith("account_info_response")
            assert connection.generation == 1


async def test_a_login_that_a_lower_limit_cuts_takes_no_subject_from_the_time_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with EmbeddedServer() as server:
        settings = ConnectionSettings(servers=(server.url,))
        async with Connection.open(settings, name="n" * 600, inbox_prefix="_INBOX_test") as connection:
            server.extra_config = "max_control_line: 512"
            await asyncio.to_thread(server.restart)
            await wait_until(lambda: "maximum control line exceeded" in caplog.text, description="the login is cut")
            server.extra_config = ""
            await asyncio.to_thread(server.restart)
            assert await connection.wait_connected(10)
            assert (await connection.api("INFO"))["type"].endswith("account_info_response")
