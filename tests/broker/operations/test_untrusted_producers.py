"""The harm that a malicious producer can do if it may submit for later, and how to prevent it.

Permissions of nats-server cannot tell headers apart, and the stream `later` obeys some headers: it allows rollups,
since schedules need them. `nats/README.md` warns of the effects that these tests show. If a newer server refuses one of
them, the page must change.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import JetStreamUnavailableError, NoRespondersError, PermissionDeniedError
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.paths import NATS_FOLDER as FOLDER
from support.permission_table import FAR, LATER_HEADERS
from support.secured import connected, secured_server

NS = "diracx"
STREAM = "DIRACX_LATER"
STATE, OCCURRENCE, OTHER = f"{NS}.state.a.B", f"{NS}.periodic.a.B.1", f"{NS}.delayed.other"
LATER = {"Nats-Schedule": FAR, "Nats-Schedule-Target": f"{NS}.due.normal.small"}
NOW = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z"}
GRANTS = ('                        "diracx.delayed.*"\n', '                        "diracx.group.>"\n')


@pytest.fixture
def secured() -> Iterator[EmbeddedServer]:
    with secured_server(NS) as server:
        yield server


@pytest.fixture
async def operator(secured: EmbeddedServer) -> AsyncIterator[Connection]:
    """The stream holds a state, its next occurrence, and a task of another producer."""
    async with connected(secured, NS, "operator") as connection:
        await ensure(connection, assets(Namespace(NS)), tolerant=False)
        await answer(connection, STATE, {})
        await answer(connection, OCCURRENCE, LATER)
        await answer(connection, OTHER, LATER)
        yield connection


@pytest.fixture
async def producer(secured: EmbeddedServer) -> AsyncIterator[Connection]:
    async with connected(secured, NS, "producer") as connection:
        yield connection


async def answer(connection: Connection, subject: str, headers: dict[str, str], body: bytes = b"{}") -> str:
    """Why the message was refused; empty if it was stored."""
    done = json.loads((await connection.request(subject, body, headers=headers)).data)
    return str(done["error"]["description"]) if "error" in done else ""


async def held(operator: Connection) -> set[str]:
    """The subjects of the stream."""
    info = await operator.api(f"STREAM.INFO.{STREAM}", {"subjects_filter": ">"})
    return set(info["state"].get("subjects") or {})


async def body_of(operator: Connection, subject: str) -> bytes:
    message = (await operator.api(f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": subject}))["message"]
    return b64decode(message.get("data", ""))


def headers_to(end: str) -> dict[str, str]:
    return {name: value.replace("{ns}", NS) for name, value in LATER_HEADERS[end].items()}


async def test_a_producer_can_empty_the_later_stream(operator: Connection, producer: Connection) -> None:
    assert not await answer(producer, f"{NS}.delayed.mine", headers_to("empty it"))
    assert await held(operator) == {f"{NS}.delayed.mine"}


async def test_so_can_one_that_may_only_spawn_groups(operator: Connection, producer: Connection) -> None:
    assert not await answer(producer, f"{NS}.group.mine", headers_to("empty it"))
    assert await held(operator) == {f"{NS}.group.mine"}


async def test_a_producer_can_withdraw_a_schedule_of_others(operator: Connection, producer: Connection) -> None:
    assert not await answer(producer, f"{NS}.delayed.mine", headers_to("take back a schedule of others"))
    assert await held(operator) == {STATE, OTHER, f"{NS}.delayed.mine"}


async def test_a_producer_can_forge_the_state_of_a_schedule(operator: Connection, producer: Connection) -> None:
    headers = headers_to("write a state of a schedule")
    assert not await answer(producer, f"{NS}.delayed.mine", headers, b'"forged"')

    async def forged() -> bool:
        return await body_of(operator, STATE) == b'"forged"'

    await wait_until(forged, description="the schedule has fired", timeout=10)


async def test_a_producer_can_cancel_tasks_so(operator: Connection, producer: Connection) -> None:
    assert not await answer(producer, f"{NS}.delayed.mine", headers_to("cancel tasks"), b"{}")

    async def written() -> bool:
        return f"{NS}.cancelled.task.a=3AB" in await held(operator)

    await wait_until(written, description="the schedule has fired", timeout=10)


@pytest.mark.parametrize(
    "target",
    [
        f"{NS}.tasks.normal.small",
        f"{NS}.dlq.a.B.1",
        f"{NS}.state.>",
        f"$KV.{NS}_locks.leader.task.scheduler",
        f"$KV.{NS}_config.configuration",
        "$JS.API.STREAM.PURGE.DIRACX_DLQ",
        "$SRV.PING",
    ],
)
async def test_a_producer_reaches_no_other_stream(operator: Connection, producer: Connection, target: str) -> None:
    refused = await answer(producer, f"{NS}.delayed.mine", NOW | {"Nats-Schedule-Target": target})
    assert refused == "message schedules target is invalid"


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        (LATER | {"Nats-Rollup": "all"}, "message schedules invalid rollup"),
        (LATER | {"Nats-Schedule-Rollup": "all"}, "message schedules invalid rollup"),
        ({"Nats-Scheduler": f"{NS}.periodic.>", "Nats-Schedule-Next": "purge"}, "message schedules invalid scheduler"),
        ({"Nats-Scheduler": STATE, "Nats-Schedule-Next": "purge"}, "message schedules invalid scheduler"),
    ],
)
async def test_a_refused_message_changes_nothing(
    operator: Connection, producer: Connection, headers: dict[str, str], refused: str
) -> None:
    assert await answer(producer, f"{NS}.delayed.mine", headers) == refused
    assert await held(operator) == {STATE, OCCURRENCE, OTHER}


@pytest.mark.parametrize("stream", ["DIRACX_TASKS", "DIRACX_DLQ"])
async def test_no_other_stream_of_a_limited_user_can_be_emptied_by_a_rollup(
    secured: EmbeddedServer, operator: Connection, stream: str
) -> None:
    role, subject = (
        ("producer", f"{NS}.tasks.normal.small") if stream == "DIRACX_TASKS" else ("worker", f"{NS}.dlq.a.B.1")
    )
    async with connected(secured, NS, role) as connection:
        assert "rollup not permitted" in await answer(connection, subject, {"Nats-Rollup": "all"})


async def test_a_producer_without_the_grants_submits_for_now_and_harms_nothing(
    secured: EmbeddedServer, operator: Connection
) -> None:
    head, account, rest = secured.extra_config.partition("DIRACX_PRODUCERS {")
    for grant in GRANTS:
        assert rest.partition("\n}\n")[0].count(grant) == 1
        rest = rest.replace(grant, "", 1)
    secured.extra_config = head + account + rest
    secured.reload()
    async with AsyncExitStack() as stack:
        while (producer := await _entered(stack, secured)) is None:
            pass

        async def refused() -> bool:
            try:
                await answer(producer, f"{NS}.delayed.mine", LATER)
            except PermissionDeniedError:
                return True
            except ServerUnavailableError:
                pass  # the accounts are being exchanged
            return False

        await wait_until(refused, description="the server has loaded its new configuration", timeout=10)
        for kind in ("delayed", "group"):
            for headers in map(headers_to, LATER_HEADERS):
                with pytest.raises(PermissionDeniedError, match=rf"publish to {NS}\.{kind}\.mine"):
                    await answer(producer, f"{NS}.{kind}.mine", headers)
        assert not await answer(producer, f"{NS}.tasks.normal.small", {"Task-Name": "a:B"})
    assert await held(operator) >= {STATE, OCCURRENCE, OTHER}


async def _entered(stack: AsyncExitStack, secured: EmbeddedServer) -> Connection | None:
    """A producer; None: the server exchanges its accounts at this moment, and has no JetStream for anybody."""
    try:
        return await stack.enter_async_context(connected(secured, NS, "producer"))
    except JetStreamUnavailableError:
        return None


def test_the_page_names_the_grants_and_the_headers() -> None:
    page = (FOLDER / "README.md").read_text()
    assert all(grant.strip() in page for grant in GRANTS)
    assert all(name in page for headers in LATER_HEADERS.values() for name in headers)


async def test_a_producer_in_its_own_account_hears_that_no_stream_takes_a_subject_beside_the_queues(
    operator: Connection, producer: Connection
) -> None:
    for odd in ("silly.huge", "*.*", "normal.*"):
        with pytest.raises(NoRespondersError):
            await producer.request(f"{NS}.tasks.{odd}", b"{}")
    assert not await answer(producer, f"{NS}.tasks.normal.small", {})
    assert (await operator.api("STREAM.INFO.DIRACX_TASKS"))["state"]["messages"] == 1


async def test_what_a_producer_schedules_falls_due_in_one_of_the_queues_or_is_refused(
    operator: Connection, producer: Connection
) -> None:
    for odd in ("silly.huge", "*.*", "normal.*"):
        headers = {"Nats-Schedule": FAR, "Nats-Schedule-Target": f"{NS}.due.{odd}"}
        assert await answer(producer, f"{NS}.delayed.mine", headers) == "message schedules target is invalid"
    assert await held(operator) == {STATE, OCCURRENCE, OTHER}
