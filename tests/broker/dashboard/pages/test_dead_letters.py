"""The pages of dead letters, on a real dead letter stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest

from diracx.tasks.dashboard import letters as letters_module
from diracx.tasks.plumbing.dead_letters.selection import Filter
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from support.dashboard_client import HOSTILE, LONG, Client, visiting
from support.dead_letters import HEADERS, DeadLetterBox

AT = datetime(2026, 12, 1, tzinfo=UTC)
OTHER = {"Task-Name": "lollygag:Other"}


def failure(kind: str = "ValueError", message: str = "no mice") -> Failure:
    return Failure(type=kind, message=message, traceback=f"Traceback of {kind}", worker="node1-1", at=AT)


@pytest.fixture
async def client(connection: Connection, topology: Namespace) -> AsyncIterator[Client]:
    async with visiting(connection, topology) as client:
        yield client


async def test_letters_are_grouped_by_task_and_error_and_a_group_leads_to_its_letters(
    client: Client, box: DeadLetterBox
) -> None:
    for kind in ("ValueError", "ValueError", "KeyError"):
        await box.add(failures=(failure(kind),))
    await box.add(headers=OTHER, failures=(failure(),))
    page = await client.get("/dead-letters")
    assert "4 dead letters in" in page.text
    group = "/dead-letters?task=lollygag%3ASyncOwnersTask&error=ValueError"
    assert page.links.count(group) == 1
    assert [link for link in page.links if link.startswith("/dead-letter?")].count("/dead-letter?seq=4") == 2

    found = await client.get(group)
    listed = {link for link in found.links if link.startswith("/dead-letter?")}
    assert listed == {"/dead-letter?seq=1", "/dead-letter?seq=2"}
    everything = dict(found.forms[-2].values)
    assert everything == {"task": "lollygag:SyncOwnersTask", "error": "ValueError"}


async def test_the_list_is_paged_from_the_latest_on(
    client: Client, box: DeadLetterBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_module, "PAGE_ROWS", 2)
    await box.fill(5, advised=False)
    pages = [await client.get("/dead-letters")]
    while older := [link for link in pages[-1].links if "before=" in link]:
        pages.append(await client.get(older[0]))
    rows = [[values["id"] for tag, values in page.tags if tag == "tr" and "id" in values] for page in pages]
    assert rows == [["letter-5", "letter-4"], ["letter-3", "letter-2"], ["letter-1"]]


async def test_a_filter_that_lets_few_through_goes_on_page_by_page(
    client: Client, box: DeadLetterBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_module, "MAX_SEARCHED", 4)
    await box.add(headers=OTHER)
    await box.fill(9, advised=False)
    first = await client.get("/dead-letters", task="lollygag:Other")
    assert "No dead letters of lollygag:Other down to 7" in first.text
    (older,) = [link for link in first.links if "before=" in link]
    second = await client.get(older)
    (oldest,) = [link for link in second.links if "before=" in link]
    last = await client.get(oldest)
    assert "/dead-letter?seq=1" in last.links
    assert not [link for link in last.links if "before=" in link]


async def test_what_is_shown_follows_the_stream_and_is_read_again_only_if_it_changed(
    client: Client, box: DeadLetterBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.add()
    facts = client.dashboard.mesh.facts(letters_module.DeadLetterFacts)
    first = await facts.listing(Filter(), None)
    client.dashboard.mesh.forget()
    assert await facts.listing(Filter(), None) is first
    await box.add()
    client.dashboard.mesh.forget()
    assert [row.seq for row in (await facts.listing(Filter(), None)).rows] == [2, 1]
    monkeypatch.setattr(letters_module, "MAX_GROUPED", 1)
    grouping = await facts.grouping(Filter(task=HEADERS["Task-Name"]))
    assert (grouping.count, grouping.complete) == (1, False)


async def test_one_letter_has_its_arguments_labels_and_each_error(client: Client, box: DeadLetterBox) -> None:
    labels = {"Task-Labels": '{"vo":"lhcb"}'}
    await box.add(headers=HEADERS | labels, failures=(failure("KeyError", "first"), failure(message="second")))
    page = await client.get("/dead-letter", seq=1)
    for text in (
        '"owner_name": "alice"',
        '"vo": "lhcb"',
        "Traceback of ValueError",
        "Traceback of KeyError",
        "node1-1",
    ):
        assert text in page.text
    assert page.text.index("second") < page.text.index("first")
    assert "/task?id=abc" in page.links
    assert "/dead-letter?seq=1" in (await client.get("/task", id="abc")).links
    assert "There is no dead letter 7" in (await client.get("/dead-letter", seq=7)).text
    assert (await client.get("/dead-letter", seq="x")).status == 409


async def test_texts_of_others_are_harmless_wherever_they_stand(client: Client, box: DeadLetterBox) -> None:
    body = msgspec.json.encode({"owner": HOSTILE})
    # What a header can carry: no control characters, which the server would refuse.
    name = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    headers = {"Task-Name": f"a:{name}", "Task-Id": name, "Task-Labels": msgspec.json.encode({"x": HOSTILE}).decode()}
    await box.add(body, headers, failures=(failure(HOSTILE, HOSTILE),))
    await box.add(body, {"Task-Name": f"a:{LONG}", "Task-Id": LONG[:200]}, failures=(failure(LONG[:5_000], HOSTILE),))
    for path in (
        "/dead-letters",
        "/dead-letter?seq=1",
        "/dead-letter?seq=2",
        "/actions/purge?seq=1&seq=2",
        "/actions/replay?everything=1",
    ):
        page = await client.get(path)
        assert page.status == 200
        page.assert_harmless()
    typed = await client.get("/dead-letters", task=HOSTILE, reason=HOSTILE, error=HOSTILE)
    typed.assert_harmless()
    assert "<script>alert(1)</script>" in typed.text
    refused = await client.get("/dead-letters", since=HOSTILE)
    assert refused.status == 409
    refused.assert_harmless()


async def test_a_mesh_without_the_stream_says_what_creates_it(connection: Connection, names: Namespace) -> None:
    async with visiting(connection, names) as client:
        page = await client.get("/dead-letters")
    assert page.status == 200
    assert "diracx-task-run setup" in page.text


async def test_there_is_no_dead_letter_of_number_0(client: Client, box: DeadLetterBox) -> None:
    await box.add()
    assert (await client.get("/dead-letter", seq=0)).status == 409
    assert (await client.confirm("replay", seq=0)).status == 409
