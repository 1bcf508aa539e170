"""Credentials and permissions on a real nats-server."""

from __future__ import annotations

import asyncio

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import errors
from support.connecting import NEVER, connect, serve


@pytest.mark.parametrize(
    ("authorization", "good", "bad"),
    [
        (
            "user: alice, password: s3cret",
            {"user": "alice", "password": "s3cret"},
            {"user": "alice", "password": "wr0ng"},
        ),
        ("token: s3cret", {"token": "s3cret"}, {"token": "wr0ng"}),
        ("token: s3cret", {"token": "s3cret"}, {}),
    ],
    ids=["password", "token", "nothing"],
)
async def test_the_right_credentials_open_and_others_are_named_as_the_cause(
    authorization: str, good: dict[str, str], bad: dict[str, str]
) -> None:
    with EmbeddedServer(extra_config=f"authorization {{ {authorization} }}") as server:
        async with connect(server, **good) as connection:
            assert connection.is_connected
        with pytest.raises(errors.AccessRefusedError, match="authorization refused") as caught:
            async with connect(server, **bad):
                pass
        assert "wr0ng" not in str(caught.value)


async def test_credentials_in_the_url_open_too() -> None:
    with EmbeddedServer(extra_config="authorization { user: alice, password: s3cret }") as server:
        async with connect(server.url.replace("127", "alice:s3cret@127")) as connection:
            assert connection.is_connected


async def test_credentials_are_not_sent_in_the_clear_to_a_server_that_offers_no_tls() -> None:
    received = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version": "2.15.1", "max_payload": 1048576, "headers": true}\r\n')
        received.extend(await reader.read())
        writer.close()

    async with serve(greet) as url:
        with pytest.raises(errors.AccessRefusedError, match="TLS failed"):
            async with connect(url.replace("nats://", "tls://"), token="s3cret"):
                pass
    assert not received


PERMISSIONS = """
authorization { users: [{ user: limited, password: p, permissions: {
    publish: { allow: ["$JS.API.INFO", "Allowed.>"] }, subscribe: { allow: ["_INBOX_test.>"] } } }] }
"""


async def test_a_forbidden_request_is_told_to_its_caller_and_not_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedServer(extra_config=PERMISSIONS) as server:
        async with connect(server, user="limited", password="p") as connection:
            with pytest.raises(errors.PermissionDeniedError):
                await connection.request("Forbidden.Subject", timeout=NEVER)
            assert not caplog.records
            await connection.publish("Forbidden.Other")
            await connection.client.flush()
            assert 'to "forbidden.other"' in caplog.text


async def test_a_forbidden_subject_is_an_error_at_once_and_the_connection_stays() -> None:
    with EmbeddedServer(extra_config=PERMISSIONS) as server:
        async with connect(server, user="limited", password="p") as connection:
            seen: list[errors.PermissionDeniedError] = []
            connection.on_permission_denied(seen.append)
            allowed = await connection.send_request("Allowed.subject")
            with pytest.raises(errors.PermissionDeniedError, match=r"publish to Forbidden\.Subject"):
                await connection.request("Forbidden.Subject", timeout=NEVER)
            assert [(denial.action, denial.subject) for denial in seen] == [("publish", "forbidden.subject")]
            with pytest.raises(errors.NoRespondersError):
                await allowed
            assert connection.is_connected


async def test_a_forbidden_inbox_is_an_error_at_once() -> None:
    async with EmbeddedServer(extra_config=PERMISSIONS) as server:
        with pytest.raises(errors.InboxDeniedError, match=r"subscription to _INBOX_other\.>, where the answers"):
            async with connect(server, user="limited", password="p", inbox_prefix="_INBOX_other"):
                pass
