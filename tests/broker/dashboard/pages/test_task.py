"""The page of one task, on real streams."""

from __future__ import annotations

import pytest

from diracx.tasks.dashboard.pages import task as task_module
from diracx.tasks.plumbing.callbacks import spawn_with_callback
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from support.dashboard_client import visiting
from support.dead_letters import HEADERS, DeadLetterBox
from support.group_tasks import After, Child
from support.mesh import TaskMesh


async def test_a_dead_task_is_called_dead_and_leads_to_its_dead_letter(
    connection: Connection, topology: Namespace, box: DeadLetterBox
) -> None:
    failure = Failure.of(ValueError("no mice"), "node1-1")
    await box.add(headers=HEADERS | {"Task-Id": "an-id"}, failures=(failure,))
    async with visiting(connection, topology) as client:
        page = await client.get("/task?id=an-id")
        assert "dead lollygag:SyncOwnersTask" in page.text
        assert "became dead letter 1" in page.text
        (link,) = [each for each in page.links if each.startswith("/dead-letter?")]
        letter = await client.get(link)
    assert "Dead letter 1" in letter.text
    assert "ValueError" in letter.text


async def test_a_task_of_which_nothing_is_stored_says_so(connection: Connection, topology: Namespace) -> None:
    async with visiting(connection, topology) as client:
        page = await client.get("/task?id=nobody")
    assert "Nothing more is stored of it" in page.text
    assert not [values for tag, values in page.tags if tag == "dl"], "a list of facts without a fact"


async def test_a_large_group_links_to_its_first_children_and_the_last(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_module, "MAX_CHILDREN", 2)
    mesh.allows_residue = True
    mesh.register(Child, After)
    group = await spawn_with_callback([Child() for _ in range(5)], After(), ttl_seconds=3600)
    async with visiting(mesh.connection, mesh.namespace) as client:
        links = (await client.get(f"/task?id={group}")).links
    children = dict.fromkeys(each.removeprefix(f"/task?id={group}-") for each in links if f"id={group}-" in each)
    assert list(children) == ["callback", "0", "1", "4"]
