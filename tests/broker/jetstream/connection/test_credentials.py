"""Credentials and permissions on a real nats-server."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import nkeys  # type: ignore[import-untyped]
import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import errors
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.client import PersistentClient
from diracx.tasks.plumbing.jetstream.connection.handshake import Callbacks, connect_once
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.testing import wait_until
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
        with pytest.raises(errors.AccessRefusedError, match="authorization refused to X, from Y; check") as caught:
            async with connect(server, access="X, from Y", **bad):
                pass
        assert "wr0ng" not in str(caught.value)


ODD = 'authorization { users: [{ user: "u/v", password: "p@ss/wo rd%" }, { user: plain, password: "p+w:x" }] }'


@pytest.mark.parametrize("userinfo", ["u%2Fv:p%40ss%2Fwo%20rd%25", "u%2Fv:p@ss%2Fwo rd%25", "plain:p+w:x"])
async def test_credentials_in_a_url_open_and_are_decoded(userinfo: str) -> None:
    with EmbeddedServer(extra_config=ODD) as server:
        url = server.url.replace("127.0", f"{userinfo}@127.0")
        async with connect(url) as connection:
            assert connection.is_connected
            assert connection.server == server.url
        settings = ConnectionSettings.resolve(url=f"NATS://{url.removeprefix('nats://')}/", environ={})
        async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
            assert connection.is_connected


async def test_a_token_in_a_url_opens_and_is_decoded() -> None:
    with EmbeddedServer(extra_config='authorization { token: "t/o k%n" }') as server:
        async with connect(server.url.replace("127.0", "t%2Fo%20k%25n@127.0")) as connection:
            assert connection.is_connected


async def test_each_server_gets_its_own_credentials_and_one_of_its_cluster_the_same() -> None:
    received: dict[str, list[dict[str, object]]] = {"first": [], "other": []}
    named: dict[str, list[str]] = {"first": [], "other": []}

    def server_called(name: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            info = {"version": "2.15.1", "max_payload": 1048576, "headers": True, "connect_urls": named[name]}
            writer.write(b"INFO %b\r\n" % json.dumps(info).encode())
            async for line in reader:
                if line.startswith(b"CONNECT "):
                    received[name].append(json.loads(line.removeprefix(b"CONNECT ")))
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
                    if name == "first":
                        break  # and so the client moves on
            writer.close()

        return greet

    async def ignore(*_: object) -> None:
        """Do nothing."""

    async with serve(server_called("first")) as first, serve(server_called("other")) as other:
        named["first"].append(other.removeprefix("nats://"))
        settings = ConnectionSettings(servers=(first.replace("127.0", "u:p%2F@127.0"),))
        client = PersistentClient()
        callbacks: Callbacks = {"error_cb": ignore, "disconnected_cb": ignore, "reconnected_cb": ignore}
        await connect_once(client, settings, callbacks, timeout=NEVER, name="a test", inbox_prefix="_INBOX_test")
        await wait_until(lambda: received["other"], description="it has moved on to the other one")
        await client.close()
        for name in ("first", "other"):
            assert (received[name][0]["user"], received[name][0]["pass"]) == ("u", "p/")


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
        async with connect(server, user="limited", password="p", access="user X, from Y") as connection:
            with pytest.raises(errors.PermissionDeniedError):
                await connection.request("Forbidden.Subject", timeout=NEVER)
            assert not caplog.records
            await connection.publish("Forbidden.Other")
            await connection.client.flush()
            assert 'to "forbidden.other" as user X, from Y' in caplog.text


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
        expected = r"subscription to _INBOX_other\.>, where the answers would come as user limited, from Y: connect as"
        with pytest.raises(errors.InboxDeniedError, match=expected):
            async with connect(
                server, user="limited", password="p", inbox_prefix="_INBOX_other", access="user limited, from Y"
            ):
                pass


async def test_a_refusal_names_whose_access_was_used_and_a_prefix_that_may_be_missing() -> None:
    forbidding = PERMISSIONS.replace('"$JS.API.INFO", ', "")
    for permissions, hint in ((PERMISSIONS, ""), (forbidding, "; or if its account imports the JetStream API under a")):
        async with (
            EmbeddedServer(extra_config=permissions) as server,
            connect(server, user="limited", password="p", access="user limited, from Y") as connection,
        ):
            with pytest.raises(errors.PermissionDeniedError) as caught:
                await connection.api("STREAM.LIST")
        assert str(caught.value).startswith(
            "no permission for publish to $JS.API.STREAM.LIST as user limited, from Y: grant it to this user on the "
            f"server{hint}"
        )
        assert ("(DIRACX_TASKS_API_PREFIX)" in str(caught.value)) == bool(hint)


IMPORTED = """
accounts {
    MESH { jetstream: enabled, users: [{ user: mesh, password: p }]
           exports: [{ service: "$JS.API.>" }, { service: "$KV.>" }] }
    LOOK { users: [{ user: look, password: p }]
           imports: [{ service: { account: MESH, subject: "$JS.API.>" }, to: "LOOK.API.>" }
                     { service: { account: MESH, subject: "$KV.>" }, to: "LOOK.API.$KV.>" }] }
}
"""


async def test_the_api_of_another_account_is_found_under_a_likely_prefix_or_the_refusal_says_how_to_name_it() -> None:
    async with EmbeddedServer(extra_config=IMPORTED) as server:
        look = ConnectionSettings(servers=(server.url,), user="look", password="p")
        opened = partial(Connection.open, name="a test", inbox_prefix="_INBOX_test")
        async with opened(look, other_api_prefixes=("NONE.API", "LOOK.API")) as connection:
            assert connection.api_subject("INFO") == "LOOK.API.INFO"
            async with connection.twin() as twin:
                assert twin.api_subject("INFO") == "LOOK.API.INFO"
        settings = msgspec.structs.replace(look, api_prefix="WRONG.API")
        for refused, hint in (
            (opened(look), r"; or if its account .*\(DIRACX_TASKS_API_PREFIX"),
            (
                opened(settings, other_api_prefixes=("LOOK.API",)),
                r"has no JetStream under WRONG\.API: correct .*prefix",
            ),
        ):
            with pytest.raises(errors.JetStreamUnavailableError, match=hint):
                async with refused:
                    pass


async def test_a_bucket_of_another_account_is_written_under_the_prefix_of_its_api() -> None:
    async with EmbeddedServer(extra_config=IMPORTED) as server, connect(server, user="mesh", password="p") as mesh:
        await mesh.api("STREAM.CREATE.KV_b", {"name": "KV_b", "subjects": ["$KV.b.>"], "allow_direct": False})
        async with connect(server, user="look", password="p", api_prefix="LOOK.API") as look:
            bucket = Bucket(look, "b")
            revision = await bucket.create("k", b"1")
            await bucket.replace("k", b"2", None, revision)
            found = await Bucket(mesh, "b").read("k")
            assert found is not None
            assert found.value == b"2"


def an_nkey() -> tuple[str, str]:
    """A new user: its seed and its public key."""
    pair = nkeys.from_seed(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER))
    return pair.seed.decode(), pair.public_key.decode()


async def test_an_nkey_is_exchanged_without_a_restart_of_server_or_client(tmp_path: Path) -> None:
    """First both users, then the new file, then the old user goes: the client is back as the new one."""
    (seed, old), (new_seed, new) = an_nkey(), an_nkey()
    file, replacement = tmp_path / "nkey", tmp_path / "nkey.new"
    file.write_text(seed)
    replacement.write_text(new_seed)
    for path in (file, replacement):
        path.chmod(0o600)
    users = "authorization {{ users: [{}] }}".format
    with EmbeddedServer(extra_config=users(f"{{ nkey: {old} }}")) as server:
        async with connect(server, nkey=str(file)) as connection, connect(server, nkey=str(file)) as other:
            server.extra_config = users(f"{{ nkey: {old} }}, {{ nkey: {new} }}")
            server.reload()
            replacement.rename(file)
            # The reload has taken effect once the new user is let in; it disturbs nobody.
            await wait_until(lambda: enters(server, file), description="the new user is let in")
            assert (connection.generation, other.generation) == (0, 0)
            assert connection.is_connected
            server.extra_config = users(f"{{ nkey: {new} }}")
            server.reload()
            await wait_until(lambda: connection.generation and other.generation, description="both are back")
            assert await connection.wait_connected(NEVER)
            await connection.api("INFO")


async def enters(server: EmbeddedServer, nkey: Path) -> bool:
    try:
        async with connect(server, nkey=str(nkey)):
            return True
    except errors.AccessRefusedError:
        return False
