"""Putting dead tasks back into their queues, each exactly once.

A replayed task is a new message: the body byte for byte, the task's own headers, nothing of the server's (`Nats-*`)
nor of the story (`Dead-*`), and no `Task-Expires`, which would let the worker drop it at once. It keeps its
`Task-Id`, so whoever waits for that task finds its result, and one that had none gets the id under which it was known,
the sequence of its first message. Its `Nats-Msg-Id` is new: `replay-<sequence of the dead letter>-<when that was
stored, in microseconds>`. Since attempts are counted by the sequence of the message, the budget is fresh.

**Once.** The dead letter and the queue are in two streams, and no write spans both. The queue cannot remember what
passed through it either, so a third place does: the stream `later`. One atomic batch stores there

    <namespace>.state.replay.<sequence>.<microseconds>    a note, expected to be the first on its subject
    <namespace>.due.<priority>.<size>                     the task, which the work queue sources from there

so that either both are there or none. (A held schedule alone cannot do it: once it has fired its subject is free
again, and a run that was killed between the release and the removal of the dead letter would enqueue it once more.)
Then what is left of the dead task is removed, as `dead_letter_removal` says, and then the note. A run begins with
finishing what it finds notes of. Killed at each point:

- before the batch is committed: nothing has happened; the server drops the staged half after ten seconds;
- committed, the answer lost or not: the note stands, so a second batch is refused; the next run removes the rest;
- the dead letter removed, the note not: the next run finds the note without a dead letter and removes it;
- the note removed: nothing is left to do.

**Two at a time.** Both read the same dead letter, and the batch of the later one is refused by the note. If the first
has removed the note by then, the `Nats-Msg-Id` is what refuses it, for the two minutes of the stream's duplicate
window: that is how long a run may be stopped between reading a dead letter and its batch. Either way the later one
helps with the removal, where each step bears being done twice.

**Full queue.** What the queue has no room for waits in `later`, for a week at the most; so a replay into a full queue
is refused instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader, Remains
from diracx.tasks.plumbing.dead_letters.removal import remove
from diracx.tasks.plumbing.dead_letters.store import QUEUE
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
from diracx.tasks.plumbing.jetstream.stream_messages import (
    StoredMessage,
    purge_subject,
    read_message,
    read_messages,
)
from diracx.tasks.plumbing.wire.envelope import MSG_ID, TASK_EXPIRES, TASK_ID
from diracx.tasks.plumbing.wire.names import Namespace

WAITS_FOR_ROOM: Final = "168h"
"""How long a replayed task waits in the stream `later` for room in a queue that filled up meanwhile."""


class NotReplayableError(TaskError):
    """A dead task cannot be put back: its message is gone, or nobody knows into which queue.

    Args:
        seq: Of its dead letter or advisory.
        why: What is missing.
    """

    def __init__(self, seq: int, why: str) -> None:
        self.seq = seq
        super().__init__(f"dead letter {seq} cannot be replayed: {why}")


class Replayer:
    """Replays dead tasks.

    Every method raises `ServerUnavailableError` when no answer came; calling it again is safe then.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._namespace = namespace

    async def finish_earlier(self) -> list[int]:
        """Finish what runs that were killed left half done; call it before reading what there is to replay.

        Returns:
            The dead letters that those runs had put back into their queues.
        """
        later, every = self._namespace.later_stream, self._namespace.replay_subject("*", "*")
        notes = [message.subject async for message in read_messages(self._connection, later, every)]
        if not notes:
            return []
        finished = []
        remains = await DeadLetterReader(self._connection, self._namespace).remains()
        left = {self._namespace.replay_subject(each.seq, each.stored_us): each for each in remains}
        for note in notes:
            if note in left:
                await remove(self._connection, self._namespace, left[note])
                finished.append(left[note].seq)
            await self._remove_note(note)
        return finished

    async def replay(self, remains: Remains) -> None:
        """Put one dead task back into its queue and remove what is left of it.

        Raises:
            NotReplayableError: There is nothing to put back; nothing was changed.
            SendTaskError: The queue is full, or the server refused; nothing was changed.
        """
        message = await self._message(remains)
        note = self._namespace.replay_subject(remains.seq, remains.stored_us)
        batch = [
            BatchMessage(note, b"", {EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}),
            BatchMessage(self._due(remains, message), message.body, _headers(remains, message.headers)),
        ]
        await self._see_that_there_is_room(remains, message)
        try:
            await publish_batch(self._connection, batch)
        except ApiError as error:
            if error.err_code not in (WRONG_LAST_SEQUENCE, DUPLICATE_MESSAGE_ID):
                raise SendTaskError(
                    f"dead letter {remains.seq} was refused by {self._namespace.later_stream}: {error.description}; "
                    "it is still dead"
                ) from error
        await remove(self._connection, self._namespace, remains)
        await self._remove_note(note)

    async def _message(self, remains: Remains) -> StoredMessage:
        letters, tasks = self._namespace.dead_letters_stream, self._namespace.tasks_stream
        message = await read_message(self._connection, letters, seq=remains.seq)
        if message is None or message.stored_us != remains.stored_us:
            raise NotReplayableError(remains.seq, "it is gone, replayed or purged meanwhile")
        if remains.buried:
            return message
        message = await read_message(self._connection, tasks, seq=remains.sequence) if remains.sequence else None
        if message is None or not remains.are_of(message):
            raise NotReplayableError(remains.seq, "only the advisory of its end is left, the message is gone")
        return message

    def _due(self, remains: Remains, message: StoredMessage) -> str:
        subject = message.headers.get(QUEUE, "") if remains.buried else message.subject
        if (queue := self._namespace.queue_of(subject)) is None:
            raise NotReplayableError(remains.seq, f"{subject!r}, where it came from, is no queue")
        return self._namespace.due_subject(*queue)

    async def _see_that_there_is_room(self, remains: Remains, message: StoredMessage) -> None:
        stream = self._namespace.tasks_stream
        info = await self._connection.api(f"STREAM.INFO.{stream}")
        config, state = info["config"], info["state"]
        full = 0 < config.get("max_bytes", -1) < state["bytes"] + len(message.body)
        if full or 0 < config.get("max_msgs", -1) <= state["messages"]:
            raise SendTaskError(f"dead letter {remains.seq} finds no room: {stream_full_text(stream)}")

    async def _remove_note(self, note: str) -> None:
        await purge_subject(self._connection, self._namespace.later_stream, note)


def _headers(remains: Remains, stored: Mapping[str, str]) -> dict[str, str]:
    own = without_server_headers(stored, "dead-")
    own.pop(TASK_EXPIRES, None)
    own[TASK_ID] = own.get(TASK_ID) or str(remains.sequence)
    return own | {MSG_ID: f"replay-{remains.seq}-{remains.stored_us}", TTL: WAITS_FOR_ROOM}
