"""The page of one task, on real streams."""

from __future__ import annotations

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from support.dashboard_client import visiting
from support.dead_letters import HEADERS, DeadLetterBox


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
