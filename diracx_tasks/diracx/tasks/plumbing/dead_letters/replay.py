"""Putting dead tasks back into their queues, each exactly once.

# The replayed message

It is a new message with the body byte for byte and the headers of the task. Left out are the server's headers
(`Nats-*`), those of the dead letter (`Dead-*`), and `Task-Expires`, which would make the worker drop the task.

* `Task-Id` stays, so a caller that waits for the task finds its result. A task without one gets the id it was known
  by: the sequence of its first message.
* `Nats-Msg-Id` is new: `replay-<sequence of the dead letter>-<when it was stored, in microseconds>`.
* The retry budget is fresh, since attempts are counted by the sequence of the message.

# Exactly once

The dead letter and the queue are in two streams, and no write spans both. The queue does not remember the messages that
passed through it. So a marker in the stream `later` does. One atomic batch stores both there, or none:

    <namespace>.state.replay.<sequence>.<microseconds>    the marker, expected to be the first on its subject
    <namespace>.due.<priority>.<size>                     the task, which the work queue sources from there

A held schedule cannot replace the marker: its subject is free again once it has fired, so a run that was killed between
the release of the task and the removal of the dead letter would enqueue the task a second time.

    read -> store the batch -> remove the dead task (see `remove_dead_task`) -> remove the marker

Every run first finishes the replays whose markers it finds. Crash points:

| Killed | Left behind |
|---|---|
| before the batch is committed | nothing; the server drops the staged part after ten seconds |
| after the commit, with or without its answer | the marker refuses a second batch; the next run removes the rest |
| after the dead letter is removed | a marker without a dead letter; the next run removes it |
| after the marker is removed | nothing |

# Two runs at a time

Both read the same dead letter, and the marker refuses the batch of the later one. If the earlier run has already
removed the marker, the `Nats-Msg-Id` refuses the batch, for the two minutes of the stream's duplicate window. So a run
may be stopped for two minutes at most between reading a dead letter and storing its batch. In each case the later run
goes on with the removal, where every step may be repeated, and tells that another run has put the task back.

# Full queue

A task that the queue has no room for waits in `later` for a week at most. So a replay into a full queue is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from diracx.tasks.plumbing.dead_letters.dead_tasks import DeadTask, dead_tasks, remove_dead_task
from diracx.tasks.plumbing.dead_letters.store import DEAD_QUEUE
from diracx.tasks.plumbing.exceptions import SendTaskError, TaskError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import (
    DUPLICATE_MESSAGE_ID,
    WRONG_LAST_SEQUENCE,
    ApiError,
    stream_full_text,
)
from diracx.tasks.plumbing.jetstream.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, TTL, without_server_headers
from diracx.tasks.plumbing.jetstream.publish import BatchMessage, publish_batch
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, purge_subject, read_message, read_messages
from diracx.tasks.plumbing.wire.envelope import MSG_ID, TASK_EXPIRES, TASK_ID
from diracx.tasks.plumbing.wire.names import Namespace

REPLAY_TTL: Final = "168h"
"""How long a replayed task waits in the stream `later` for room in a queue that filled up in the meantime."""
GONE_MEANWHILE: Final = "it was replayed or purged in the meantime"
_REPLAY: Final = "replay-"
"""How the `Nats-Msg-Id` of a replayed task begins."""


class NotReplayableError(TaskError):
    """A dead task cannot be put back: its message is gone, or its queue is not known.

    Args:
        seq: The sequence of its dead letter or advisory.
        reason: Why it cannot be put back.
    """

    def __init__(self, seq: int, reason: str) -> None:
        self.seq = seq
        super().__init__(f"dead letter {seq} cannot be replayed: {reason}")


class Replayer:
    """Replays dead tasks of one namespace.

    Every method raises `ServerUnavailableError` if no answer arrives; it is then safe to call it again.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace

    async def finish_earlier(self) -> list[int]:
        """Finish the replays that killed runs left behind. Call it before reading the dead tasks to replay.

        Returns:
            The sequences of the dead letters whose tasks those runs had put back.
        """
        later, all_markers = self._namespace.later_stream, self._namespace.replay_subject("*", "*")
        # The state of a periodic task in a category `replay` may stand among them, and is no marker.
        seqs = {
            message.subject: seq
            async for message in read_messages(self._connection, later, all_markers)
            if (seq := self._namespace.replayed(message.subject)) is not None
        }
        if not seqs:
            return []
        finished = []
        async for task in dead_tasks(self._connection, self._namespace, lambda letter: letter.seq in seqs.values()):
            if self._namespace.replay_subject(task.seq, task.stored_us) in seqs:
                await remove_dead_task(self._connection, self._namespace, task)
                finished.append(task.seq)
        for marker in seqs:
            await self._remove_marker(marker)
        return finished

    async def replay(self, task: DeadTask) -> bool:
        """Put one dead task back into its queue, and remove what the dead letter stream holds of it.

        Returns:
            Whether this call put it back. False: another run had, and may have been cut off since.

        Raises:
            NotReplayableError: There is no message to put back; nothing was changed.
            SendTaskError: The queue is full, or the server refused; nothing was changed.
        """
        message = await self._read_task_message(task)
        marker = self._namespace.replay_subject(task.seq, task.stored_us)
        batch = [
            BatchMessage(marker, b"", {EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}),
            BatchMessage(self._due_subject(task, message), message.body, _headers(task, message.headers)),
        ]
        await self._check_room(task, message)
        put_back = True
        try:
            await publish_batch(self._connection, batch)
        except ApiError as error:
            if error.err_code not in (WRONG_LAST_SEQUENCE, DUPLICATE_MESSAGE_ID):
                raise SendTaskError(
                    f"dead letter {task.seq} was refused by {self._namespace.later_stream}: {error.description}; "
                    "nothing was changed"
                ) from error
            put_back = False
        await remove_dead_task(self._connection, self._namespace, task)
        await self._remove_marker(marker)
        return put_back

    async def _read_task_message(self, task: DeadTask) -> StoredMessage:
        """The dead letter, or the message in the task stream if there is no dead letter."""
        letters, tasks = self._namespace.dead_letters_stream, self._namespace.tasks_stream
        message = await read_message(self._connection, letters, seq=task.seq)
        if message is None or message.stored_us != task.stored_us:
            raise NotReplayableError(task.seq, GONE_MEANWHILE)
        if task.has_dead_letter:
            return message
        message = await read_message(self._connection, tasks, seq=task.sequence) if task.sequence else None
        if message is None or not task.matches(message):
            raise NotReplayableError(task.seq, "only the advisory of its end is left, the message is gone")
        return message

    def _due_subject(self, task: DeadTask, message: StoredMessage) -> str:
        subject = message.headers.get(DEAD_QUEUE, "") if task.has_dead_letter else message.subject
        if (queue := self._namespace.queue_of(subject)) is None:
            raise NotReplayableError(task.seq, f"it came from {subject!r}, which is not a queue")
        return self._namespace.due_subject(*queue)

    async def _check_room(self, task: DeadTask, message: StoredMessage) -> None:
        stream = self._namespace.tasks_stream
        info = await self._connection.api(f"STREAM.INFO.{stream}")
        config, state = info["config"], info["state"]
        exceeded = ""
        if 0 < config.get("max_msgs", -1) <= state["messages"]:
            exceeded = "maximum messages exceeded"
        elif 0 < config.get("max_bytes", -1) < state["bytes"] + len(message.body):
            exceeded = "maximum bytes exceeded"
        if exceeded:
            raise SendTaskError(f"dead letter {task.seq} was not replayed: {stream_full_text(stream, exceeded)}")

    async def _remove_marker(self, marker: str) -> None:
        await purge_subject(self._connection, self._namespace.later_stream, marker)


def _headers(task: DeadTask, stored: Mapping[str, str]) -> dict[str, str]:
    own = without_server_headers(stored, "dead-")
    own.pop(TASK_EXPIRES, None)
    own[TASK_ID] = own.get(TASK_ID) or str(task.sequence)
    return own | {MSG_ID: f"{_REPLAY}{task.seq}-{task.stored_us}", TTL: REPLAY_TTL}


def is_replay(headers: Mapping[str, str]) -> bool:
    """Whether a message of a queue was put there by a replay."""
    message_id = headers.get(MSG_ID, "")
    return message_id.startswith(_REPLAY) and message_id != headers.get(TASK_ID)
