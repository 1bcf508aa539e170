"""Replay and purge of dead letters, from the button to the result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from diracx.tasks.dashboard import actions, letter_actions
from diracx.tasks.dashboard.letters import DeadLetterFacts
from diracx.tasks.plumbing.dead_letters.bulk import OnDone, purge_selected
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.dashboard_client import Client, assert_only_operators_act, visiting
from support.dead_letters import DeadLetterBox

OTHER = {"Task-Name": "lollygag:Other"}


@pytest.fixture
async def client(connection: Connection, topology: Namespace) -> AsyncIterator[Client]:
    async with visiting(connection, topology) as client:
        yield client


async def seqs(client: Client) -> list[int]:
    reader = client.dashboard.mesh.facts(DeadLetterFacts).reader
    return [letter.seq for letter in await reader.all()]


async def test_ticked_letters_are_replayed_after_a_page_that_says_how_many(client: Client, box: DeadLetterBox) -> None:
    await box.fill(3, advised=False)
    chosen = [("seq", 1), ("seq", 3), ("seq", 9)]
    confirmation = await client.confirm("replay", *chosen)
    assert "2 dead tasks go back into the queue" in confirmation.text
    assert "2 of lollygag:SyncOwnersTask" in confirmation.text
    assert "gone meanwhile (9)" in confirmation.text
    assert await seqs(client) == [1, 2, 3]
    page = await client.do("replay", *chosen)
    assert "replayed 2 dead letters" in page.text
    assert await seqs(client) == [2]
    await box.put_back(2)


async def test_all_of_a_filter_are_purged_but_not_those_that_die_after_the_question(
    client: Client, box: DeadLetterBox
) -> None:
    await box.fill(2)
    await box.add(headers=OTHER, sequence=50)
    await box.add(sequence=60)
    confirmation = await client.confirm("purge", task="lollygag:SyncOwnersTask")
    assert "3 dead letters are removed for good" in confirmation.text
    await box.add(sequence=70)
    page = await client.post("purge", confirmation.form("/actions/purge").values)
    assert "purged 3 dead letters" in page.text
    assert str(page.url).startswith("http://localhost/dead-letters?task=lollygag%3ASyncOwnersTask&told=")
    assert await seqs(client) == [5, 7]


async def test_a_link_cannot_say_what_was_counted(client: Client, box: DeadLetterBox) -> None:
    await box.fill(2)
    confirmation = await client.confirm("purge", everything="1", total="1", last="999999999")
    assert "2 dead letters are removed for good" in confirmation.text
    values = dict(confirmation.form("/actions/purge").values)
    assert (values["total"], int(values["last"]) < 100) == ("2", True)


async def test_what_cannot_be_replayed_is_named_and_stays(client: Client, box: DeadLetterBox) -> None:
    await box.add()
    await box.advise(12_345)
    page = await client.do("replay", everything="1")
    assert "replayed 1 dead letter; 1 was left out" in page.text
    assert "dead letter 2 cannot be replayed: only the advisory of its end is left" in page.text
    assert await seqs(client) == [2]


async def test_a_long_run_shows_its_progress_to_everybody_and_goes_on_after_it_was_broken_off(
    client: Client, box: DeadLetterBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.fill(30, advised=False)
    gate = asyncio.Event()

    async def held(*args: object, on_done: OnDone, **kwargs: object) -> None:
        def count(*error: object) -> None:
            on_done()
            if len(done) < 9:
                done.append(1)
            elif not gate.is_set():
                raise asyncio.CancelledError

        done: list[int] = []
        await purge_selected(*args, on_done=count, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(letter_actions, "purge_selected", held)
    monkeypatch.setattr(actions, "AT_ONCE_SECONDS", 0.0)
    confirmation = await client.confirm("purge", everything="1")
    await client.post("purge", confirmation.form("/actions/purge").values)
    await wait_until(lambda: not client.dashboard.jobs.running(), description="the run is broken off")
    left = len(await seqs(client))
    assert 0 < left < 30
    gate.set()
    assert f"urged {left} dead letters" in (await client.do("purge", everything="1")).text
    assert await seqs(client) == []


async def test_two_operators_who_replay_the_same_letters_put_back_each_once(
    connection: Connection, topology: Namespace, client: Client, box: DeadLetterBox
) -> None:
    count = 200
    await box.fill(count, advised=False)
    # Each with a dashboard of its own: neither knows of the job of the other.
    async with visiting(connection, topology) as other:
        asked = [await each.confirm("replay", everything="1") for each in (client, other)]
        forms = [each.form("/actions/replay").values for each in asked]
        await asyncio.gather(client.post("replay", forms[0]), other.post("replay", forms[1]))
        for each in (client, other):
            await wait_until(lambda each=each: not each.dashboard.jobs.running(), description="it ends")  # type: ignore[misc]
        told = [job for each in (client, other) for job in each.dashboard.jobs._jobs.values()]
    assert await seqs(client) == []
    assert len({task.headers["Nats-Msg-Id"] for task in await box.put_back(count)}) == count
    assert sum(job.done for job in told) == count, [job.result for job in told]


async def test_a_run_is_shown_on_the_list_while_it_goes_on(
    client: Client, box: DeadLetterBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.fill(2, advised=False)
    go = asyncio.Event()

    async def held(*args: object, on_done: OnDone, **kwargs: object) -> None:
        on_done()
        await go.wait()

    monkeypatch.setattr(letter_actions, "purge_selected", held)
    monkeypatch.setattr(actions, "AT_ONCE_SECONDS", 0.0)
    confirmation = await client.confirm("purge", everything="1")
    page = await client.post("purge", confirmation.form("/actions/purge").values)
    assert page.url.path == "/job"
    assert "Going on: 1 of 2" in page.text
    async with visiting(client.dashboard.mesh.connection, client.dashboard.mesh.namespace):
        assert "1 of 2 so far, by the holder of the token" in (await client.get("/dead-letters")).text
    go.set()
    await wait_until(lambda: not client.dashboard.jobs.running(), description="the run has ended")
    assert "of 2 so far" not in (await client.get("/dead-letters")).text


@pytest.mark.parametrize("action", ["replay", "purge"])
async def test_what_names_no_letter_is_refused(client: Client, box: DeadLetterBox, action: str) -> None:
    await box.add()
    for query, why in (
        ({}, "No dead letter is chosen"),
        ({"seq": "x"}, "named by its sequence"),
        ({"seq": "7"}, "There is no such dead letter"),
        ({"task": "a:Nowhere"}, "There is no such dead letter of a:Nowhere"),
        ({"everything": "1", "since": "noon"}, "'noon' is no time"),
    ):
        page = await client.confirm(action, **query)
        assert page.status == 409
        assert why in page.text
    many = await client.confirm(action, *(("seq", number) for number in range(1_001)))
    assert "more than 1,000" in many.text
    assert await seqs(client) == [1]


@pytest.mark.parametrize("action", ["replay", "purge"])
async def test_only_who_may_act_acts(
    client: Client, box: DeadLetterBox, connection: Connection, topology: Namespace, action: str
) -> None:
    await box.add()
    values = [("everything", "1"), ("total", "1"), ("last", "1")]
    await assert_only_operators_act(client, action, values)
    async with visiting(connection, topology, acts=False) as observer:
        page = await observer.get("/dead-letters")
        assert not [values for tag, values in page.tags if values.get("type") == "checkbox"]
        assert not [form for form in page.forms if form.action.startswith("/actions/")]
        assert (await observer.confirm(action, everything="1")).status == 403
        assert (await observer.post(action, values)).status == 403
    assert await seqs(client) == [1]
