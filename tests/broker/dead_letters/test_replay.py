"""Dead tasks that are put back into their queues."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.dead_letters.dead_tasks import remove_dead_task
from diracx.tasks.plumbing.dead_letters.replay import NotReplayableError, Replayer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.testing import wait_until
from support.dead_letters import BODY, HEADERS, DeadLetterBox
from support.mesh import TaskMesh
from support.queues import edit_stream

FAILURE = Failure("ValueError", "no such owner", "Traceback...", "host-1-small", datetime(2026, 12, 1, 6, tzinfo=UTC))


async def test_a_replayed_task_is_the_message_without_its_errors_under_a_new_message_id(box: DeadLetterBox) -> None:
    headers = HEADERS | {"Task-Labels": '{"vo":"lhcb"}', "Task-Parent": "p", "traceparent": "00-1-2-01", "X-Own": "1"}
    await box.add(headers=headers | {"Nats-Stream-Source": "X 1"}, queue="realtime.large", failures=(FAILURE,))
    (dead_task,) = await box.dead_tasks()
    await box.replay_all()
    (task,) = await box.put_back(1)
    own = dict(task.headers)
    assert own.pop("Nats-Stream-Source").startswith(box.names.later_stream)
    assert own.pop("Nats-TTL") == "168h"
    assert own == headers | {"Nats-Msg-Id": f"replay-{dead_task.seq}-{dead_task.stored_us}"}
    assert (task.subject, task.body) == (f"{box.names.name}.tasks.realtime.large", BODY)
    assert (await box.letters(), await box.markers()) == (0, 0)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", HEADERS),
        (b"\xff\xfe\x00\r\n\r\nNATS/1.0", HEADERS),
        (b'{"owner_name":"x"} ' * 50_000, HEADERS),
        (BODY, HEADERS | {"Task-Labels": '{"größe":"大きさ 😀"}'}),
        (BODY, HEADERS | {"Task-Labels": "[", "Task-Version": "no number"}),
        (BODY, {"Task-Id": "abc", "Other": ""}),
    ],
    ids=["empty", "binary", "900 kB", "not ASCII", "malformed headers", "no name"],
)
async def test_a_message_that_no_worker_could_read_is_put_back_byte_for_byte(
    box: DeadLetterBox, body: bytes, headers: dict[str, str]
) -> None:
    await box.add(body, headers)
    await box.replay_all()
    (task,) = await box.put_back(1)
    assert task.body == body
    kept = {name: value for name, value in task.headers.items() if not name.startswith("Nats-")}
    assert kept == {name: value for name, value in headers.items() if not name.startswith("Nats-")}


async def test_a_task_without_an_id_gets_the_sequence_of_its_first_message(box: DeadLetterBox) -> None:
    await box.add(headers={"Task-Name": "a:B"}, sequence=42)
    await box.add(headers=None, sequence=43)
    await box.replay_all()
    assert [task.headers["Task-Id"] for task in await box.put_back(2)] == ["42", "43"]


async def test_a_replayed_task_does_not_expire(box: DeadLetterBox) -> None:
    await box.add(headers=HEADERS | {"Task-Expires": "2020-01-01T00:00:00Z", "Task-Due": "2020-01-01T00:00:00Z"})
    await box.replay_all()
    (task,) = await box.put_back(1)
    assert "Task-Expires" not in task.headers
    assert task.headers["Task-Due"] == "2020-01-01T00:00:00Z"


async def test_the_time_to_live_in_the_later_stream_does_not_hold_in_the_queue(box: DeadLetterBox) -> None:
    await publish(box.connection, f"{box.names.name}.due.normal.small", BODY, {"Nats-TTL": "1s"})
    await box.put_back(1)

    async def expired_in_later() -> bool:
        info = await box.connection.api(f"STREAM.INFO.{box.names.later_stream}")
        return int(info["state"]["messages"]) == 0

    await wait_until(expired_in_later, description="it is gone from the stream that it waited in")
    assert await box.task(1) is not None


async def test_a_message_that_its_worker_has_not_terminated_yet_is_removed_from_the_queue(box: DeadLetterBox) -> None:
    sequence = await box.put()
    stored = await box.task(sequence)
    assert stored is not None
    await box.add(sequence=sequence, stored_ns=stored.stored_us * 1000)
    await box.replay_all()
    await box.put_back(1)
    assert await box.task(sequence) is None


async def test_a_message_of_the_same_sequence_in_a_stream_created_anew_is_left_alone(box: DeadLetterBox) -> None:
    sequence = await box.put()
    await box.add(sequence=sequence, stored_ns=1_790_000_000_000_000_000)
    await box.replay_all()
    await box.put_back(1)
    assert await box.task(sequence) is not None


async def test_an_advisory_is_not_taken_for_one_of_a_later_message_of_its_sequence(box: DeadLetterBox) -> None:
    sequence = await box.put()
    await box.advise(sequence, at="2020-01-01T00:00:00Z")
    (dead_task,) = await box.dead_tasks()
    with pytest.raises(NotReplayableError, match=r"dead letter 1 cannot be replayed: .* the message is gone"):
        await Replayer(box.connection, box.names).replay(dead_task)
    await remove_dead_task(box.connection, box.names, dead_task)
    assert await box.task(sequence) is not None
    assert await box.letters() == 0


async def test_a_dead_letter_without_a_known_queue_stays(box: DeadLetterBox) -> None:
    await box.add(queue="normal.tiny")
    (dead_task,) = await box.dead_tasks()
    with pytest.raises(NotReplayableError, match="tiny', which is not a queue"):
        await Replayer(box.connection, box.names).replay(dead_task)
    await box.put_back(0)
    assert await box.letters() == 1


@pytest.mark.parametrize("limit", [{"max_bytes": 100}, {"max_msgs": 1}])
async def test_a_full_queue_refuses_a_replay_and_nothing_changes(box: DeadLetterBox, limit: dict[str, int]) -> None:
    await box.put(b"")
    await edit_stream(box.connection, box.names.tasks_stream, **limit)
    await box.add()
    with pytest.raises(SendTaskError, match=f"1 was not replayed: the stream {box.names.tasks_stream} is full"):
        await box.replay_all()
    await box.put_back(0)
    assert (await box.letters(), await box.markers()) == (1, 0)


async def test_a_batch_that_is_refused_names_the_stream_and_the_reason(box: DeadLetterBox) -> None:
    await edit_stream(box.connection, box.names.later_stream, max_msg_size=10)
    await box.add()
    with pytest.raises(SendTaskError, match=f"1 was refused by {box.names.later_stream}: .*; nothing was changed"):
        await box.replay_all()
    await edit_stream(box.connection, box.names.later_stream, max_msg_size=-1)
    await box.replay_all()
    await box.put_back(1)


seen: list[int] = []


class Twice(RetryPolicyBase):
    """One retry at once; notes the attempts that it is asked about."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        seen.append(attempt)
        return datetime.now(UTC) if attempt == 0 else None


@dataclasses.dataclass
class Fails(BaseTask):
    why: str
    priority = Priority.BACKGROUND
    size = Size.SMALL
    retry_policy: ClassVar[RetryPolicyBase] = Twice()
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError(self.why)


async def dead(mesh: TaskMesh, count: int) -> None:
    async def is_dead() -> bool:
        return len(await mesh.dead_letters()) == count and await mesh.waiting() == 0

    await wait_until(is_dead, description="it is dead")


async def test_a_replayed_task_has_all_its_retries_and_dies_with_its_old_id(mesh: TaskMesh) -> None:
    seen.clear()
    mesh.register(Fails)
    box = DeadLetterBox(mesh.connection, mesh.namespace)
    task_id = await Fails("mice").schedule(labels={"vo": "lhcb", "n": [1]})
    async with mesh.working():
        await dead(mesh, 1)
        await box.replay_all()
        await dead(mesh, 1)
    assert seen == [0, 1, 0, 1]
    (letter,) = await mesh.dead_letters()
    assert (letter.headers["Task-Id"], letter.headers["Task-Labels"]) == (task_id, '{"vo":"lhcb","n":[1]}')
    assert letter.headers["Dead-Executions"] == "2"
    assert letter.headers["Dead-Queue"].endswith(".tasks.background.small")


async def test_a_message_with_header_names_that_nats_py_refuses_dies_and_is_replayed_without_them(
    mesh: TaskMesh,
) -> None:
    box = DeadLetterBox(mesh.connection, mesh.namespace)
    await mesh.publish_raw(b"Task-Name: nobody:Knows\r\nX-Kept: 1\r\na/b: 2\r\n(c): 3")
    async with mesh.working(unknown_tries=1):
        await dead(mesh, 1)
        await box.replay_all()
        await dead(mesh, 1)
    (letter,) = await mesh.dead_letters()
    assert letter.headers["X-Kept"] == "1"
    assert not {"a/b", "(c)"} & letter.headers.keys()


async def test_the_marker_of_an_earlier_stream_of_the_same_name_removes_nothing(box: DeadLetterBox) -> None:
    await box.add()
    (dead_task,) = await box.dead_tasks()
    await publish(box.connection, box.names.replay_subject(dead_task.seq, dead_task.stored_us - 1), b"", {})
    assert await Replayer(box.connection, box.names).finish_earlier() == []
    assert (await box.letters(), await box.markers()) == (1, 0)


async def test_the_state_of_a_task_in_a_category_replay_is_no_marker_of_a_replay(box: DeadLetterBox) -> None:
    await publish(box.connection, box.names.state_subject("replay:Visits", "lhcb"), b"{}", {})
    await box.add()
    (dead_task,) = await box.dead_tasks()
    await publish(box.connection, box.names.replay_subject(dead_task.seq, dead_task.stored_us), b"", {})
    assert await Replayer(box.connection, box.names).finish_earlier() == [dead_task.seq]
    assert (await box.letters(), await box.markers()) == (0, 1), "the state is left"
