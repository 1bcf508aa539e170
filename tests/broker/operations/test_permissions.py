"""The permissions of each user of the server in `nats/`: the table in `nats/README.md`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import nats
import pytest
from nats.aio.msg import Msg

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import NoRespondersError, PermissionDeniedError, RequestTimeoutError
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.permissions import API
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.paths import NATS_FOLDER
from support.permission_table import INBOXES, OPERATIONS, ROLES, Operation, Request, table
from support.secured import connected, password, secured_server

OURS, OTHERS = "diracx", "acme"
README = NATS_FOLDER / "README.md"


@pytest.fixture(scope="module")
def secured() -> Iterator[EmbeddedServer]:
    with secured_server(OURS, OTHERS) as server:
        yield server


@pytest.fixture
async def operator(secured: EmbeddedServer) -> AsyncIterator[Connection]:
    async with connected(secured, OURS, "operator") as connection:
        await ensure(connection, assets(Namespace(OURS)), tolerant=False)
        yield connection


def api_of(role: str, namespace: str = OURS) -> str:
    return Namespace(namespace).imported_api if role in ("producer", "observer") else API


async def refusal(connection: Connection, request: Request) -> str:
    """Why the request was refused; "" if it was executed."""
    try:
        answer = await connection.request(request.subject, request.body, headers=request.headers, timeout=5)
    except PermissionDeniedError as error:
        return str(error)
    if not answer.data.startswith(b"{"):
        return ""
    refused = json.loads(answer.data).get("error")
    if refused is None or (request.refused_by and request.refused_by in refused["description"]):
        return ""
    return f"JetStream: {refused['description']}"


async def subscription_refusal(connection: Connection, subject: str) -> str:
    """Why the subscription was refused; "" if it was accepted."""
    refused: asyncio.Queue[str] = asyncio.Queue()
    connection.on_permission_denied(lambda denial: refused.put_nowait(f"{denial.action} to {denial.subject}"))
    await connection.client.subscribe(subject)
    await connection.client.flush()
    return refused.get_nowait() if refused.qsize() else ""


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.text.replace(" ", "-"))
async def test_each_operation_is_executed_or_refused_as_in_the_table(
    secured: EmbeddedServer, operator: Connection, role: str, operation: Operation
) -> None:
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(connected(secured, OURS, role))
        if any(request.subject.startswith("$SRV") for request in operation.requests):
            await answer_questions(await stack.enter_async_context(connected(secured, OURS, "worker")))
        wanted = role in operation.roles
        for each in operation.requests:
            request = each.filled(OURS, api_of(role))
            refused = await refusal(connection, request)
            assert (not refused) == wanted, f"{request.subject}: {refused or 'executed'}"
            assert wanted or "no permission for publish" in refused
        # A role may subscribe to its own inbox.
        for subject in (each for each in operation.listens if f"_{role}." not in each):
            refused = await subscription_refusal(
                connection, subject.replace("{ns}", OURS).replace("{NS}", OURS.upper())
            )
            assert (not refused) == wanted, f"{subject}: {refused or 'accepted'}"


@pytest.mark.parametrize("role", ROLES)
async def test_only_an_operator_confirms_what_it_watches_backs_up_and_restores(
    secured: EmbeddedServer, operator: Connection, role: str
) -> None:
    async with connected(secured, OURS, role) as connection:
        for subject in ("$JS.FC.KV_diracx_results.x.y", "$JS.SNAPSHOT.ACK.x.y", "$JS.SNAPSHOT.RESTORE.x.y"):
            # Nobody listens there at the moment.
            with pytest.raises(NoRespondersError if role == "operator" else PermissionDeniedError):
                await connection.request(subject)


async def test_the_user_of_the_system_account_hears_requests_to_jetstream_and_their_answers(
    secured: EmbeddedServer, operator: Connection
) -> None:
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    url = secured.url.replace("nats://", f"nats://admin:{password('sys', 'admin')}@")
    admin = await nats.connect(url)
    try:
        await admin.subscribe(">", cb=hear)
        await admin.flush()
        sent = await operator.request("diracx.tasks.normal.large", b'{"month":"2026-05"}')
        sequence = json.loads(sent.data)["seq"]
        stored = await operator.api("STREAM.MSG.GET.DIRACX_TASKS", {"seq": sequence})
        body = stored["message"]["data"].encode()
        await wait_until(lambda: any(body in each for each in heard), description="the stored task is heard")
        assert not any(b"2026-05" in each for each in heard), "not as it is submitted"
    finally:
        await admin.close()
        await operator.api("STREAM.PURGE.DIRACX_TASKS")


async def answer_questions(worker: Connection) -> None:
    async def answer(message: object) -> None:
        await worker.publish(message.reply, b"{}")  # type: ignore[attr-defined]

    await worker.client.subscribe("$SRV.>", cb=answer)
    await worker.client.flush()


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_reaches_another_namespace(secured: EmbeddedServer, role: str) -> None:
    async with connected(secured, OTHERS, "operator") as theirs, connected(secured, OURS, role) as ours:
        await ensure(theirs, assets(Namespace(OTHERS)), tolerant=False)
        before = await contents(theirs)
        for operation in OPERATIONS:
            for each in operation.requests:
                # Namespaces are alike except for their account, where `INFO` and lists show one's own.
                if "{ns}" in each.subject.lower():
                    request = each.filled(OTHERS, api_of(role))
                    await nothing_happens(ours, request)
        assert await contents(theirs) == before


async def nothing_happens(connection: Connection, request: Request) -> None:
    try:
        answer = await connection.request(request.subject, request.body, headers=request.headers, timeout=0.3)
    except (PermissionDeniedError, NoRespondersError, RequestTimeoutError):
        return  # refused, no responder, or (an acknowledgement) no reply
    # An operator may create anything in its own account.
    assert b'"error"' in answer.data or b'"did_create":true' in answer.data, f"{request.subject}: {answer.data!r}"


async def contents(connection: Connection) -> dict[str, int]:
    streams = (await connection.api("STREAM.LIST"))["streams"]
    return {each["config"]["name"]: each["state"]["last_seq"] for each in streams}


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_receives_messages_of_another_namespace(secured: EmbeddedServer, role: str) -> None:
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        # The server reports of the own account as well, at any time: a stream with a source makes its consumer again.
        if (
            not message.subject.startswith("$JS.EVENT.ADVISORY.")
            or OTHERS in (message.subject + message.data.decode()).lower()
        ):
            heard.append(message.subject)

    names = Namespace(OTHERS)
    inboxes = {f"{names.inbox_prefix(each)}.>" for each in ROLES}
    async with connected(secured, OTHERS, "operator") as theirs, connected(secured, OURS, role) as ours:
        await ensure(theirs, assets(names), tolerant=False)
        # Permissions forbid some of these subscriptions; for the others, the account holds nothing of the namespace.
        for subject in (f"{OTHERS}.>", "$KV.>", "$JS.EVENT.ADVISORY.>", "_INBOX.>", "$SRV.>", *inboxes):
            await ours.client.subscribe(subject, cb=hear)
        await ours.client.flush()
        await theirs.request(f"{OTHERS}.tasks.normal.small", b"{}", headers={"Task-Name": "test:Nothing"})
        await theirs.request(f"$KV.{OTHERS}_locks.held", b"{}")
        await theirs.publish("$SRV.PING", reply=f"{names.inbox_prefix('operator')}.x")
        await theirs.api("STREAM.PURGE." + names.tasks_stream)
        await theirs.client.flush()
        await ours.client.flush()
    assert not heard


@pytest.mark.parametrize("role", ["producer", "observer"])
async def test_no_reply_goes_to_a_subject_that_the_requester_may_not_publish_to(
    secured: EmbeddedServer, operator: Connection, role: str
) -> None:
    lock = await operator.request(f"$KV.{OURS}_locks.held", b"{}")
    stored = await operator.request(f"{OURS}.tasks.normal.small", b"{}", headers={"Task-Name": "test:Nothing"})
    seq = json.loads(stored.data)["seq"]
    before = await contents(operator)
    async with connected(secured, OURS, role) as connection:
        for reply in (f"{OURS}.tasks.realtime.small", f"$KV.{OURS}_locks.held", f"$KV.{OURS}_config.configuration"):
            if role == "observer":
                api = Namespace(OURS).imported_api
                get = json.dumps({"seq": seq}).encode()
                await connection.publish(f"{api}.STREAM.INFO.{OURS.upper()}_TASKS", reply=reply)
                await connection.publish(f"{api}.DIRECT.GET.{OURS.upper()}_TASKS", get, reply=reply)
            else:
                await connection.publish(f"{OURS}.tasks.normal.large", b"{}", reply=reply)
        await connection.client.flush()
        # The server handles the requests of one connection in order, so this answer is the last.
        request = Request("{api}.INFO") if role == "observer" else Request("{ns}.tasks.normal.large", b"{}")
        assert not await refusal(connection, request.filled(OURS, api_of(role)))
    after = await contents(operator)
    assert json.loads(lock.data)["seq"] == after[f"KV_{OURS}_locks"]
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= ({f"{OURS.upper()}_TASKS"} if role == "producer" else set())
    assert after[f"{OURS.upper()}_TASKS"] == before[f"{OURS.upper()}_TASKS"] + (4 if role == "producer" else 0)


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_subscribes_to_its_own_inboxes_only(
    secured: EmbeddedServer, operator: Connection, role: str
) -> None:
    async with connected(secured, OURS, role) as connection:
        for whose in {*ROLES, "call", ""}:
            inbox = f"{Namespace(OURS).inbox_prefix(whose)}.>" if whose else "_INBOX.>"
            refused = await subscription_refusal(connection, inbox)
            assert (not refused) == (whose in INBOXES[role]), f"{inbox}: {refused or 'accepted'}"


async def test_the_inboxes_of_operators_and_observers_receive_no_reply_of_another_account(
    secured: EmbeddedServer, operator: Connection
) -> None:
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    async with (
        connected(secured, OURS, "observer") as observer,
        connected(secured, OURS, "producer") as producer,
        connected(secured, OURS, "operator") as another,
    ):
        for listener, inbox in ((observer, "operator"), (another, "producer")):
            await listener.client.subscribe(f"{Namespace(OURS).inbox_prefix(inbox)}.>", cb=hear)
            await listener.client.flush()
        assert await refusal(producer, OPERATIONS[0].requests[0].filled(OURS, API)) == ""
        await operator.api("INFO")
        for listener in (observer, another):
            await listener.client.flush()
    assert not heard


def test_the_table_in_the_readme_is_the_enforced_one() -> None:
    wanted = table("Operation", ((each.text, each.roles) for each in OPERATIONS))
    assert wanted in README.read_text(), f"put this into nats/README.md:\n{wanted}"
