"""Results read, and waited for.

a read through the leader of the bucket             finds what is there already
what the bucket republishes, heard at once          is stored, and so decides as well
a poll through the leader each second               is right where the subscription is dead, refused or cut off
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

from diracx.tasks.plumbing.exceptions import ResultIsMissingError, ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.hearing import Heard, hearing
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.results.record import ResultRecord
from diracx.tasks.plumbing.wire.names import Namespace, escape

POLL_SECONDS: Final = 1.0
FIRST_LOOK_SECONDS: Final = 0.002
"""The first look comes after this time. The result of a brief task is heard before, and the look is saved; one that was
there already is found this much later."""
ANSWER_SECONDS: Final = 5.0
"""How long one of several reads waits for its answer."""


class ResultReader:
    """Reads the results of one mesh."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._bucket = namespace.results_bucket
        self._stream = f"KV_{self._bucket}"
        self._namespace = namespace

    async def read(self, task_id: str, *, timeout: float | None = None) -> ResultRecord | None:
        """The result of a task; None if none is there.

        Args:
            timeout: Seconds for the answer, as for `Connection.api`.

        Raises:
            ResultIsMissingError: What is there is no result.
            ServerError: It cannot be read.
        """
        message = await read_message(
            self._connection,
            self._stream,
            timeout=timeout,
            strict=True,
            last_by_subj=f"$KV.{self._bucket}.{escape(task_id)}",
        )
        return None if message is None else self._parse(task_id, message.body)

    def _parse(self, task_id: str, body: bytes) -> ResultRecord | None:
        if not body:  # nothing; or `nats kv del` has left a marker
            return None
        try:
            return ResultRecord.parse(body)
        except ValueError as error:
            raise ResultIsMissingError(task_id, f"what {self._bucket} has there is no result: {error}") from None

    async def wait(self, task_id: str, timeout: float | None) -> ResultRecord:
        """Wait for the result of a task.

        While no server answers it waits on: the connection is being re-established.

        Args:
            timeout: In seconds; 0: look once; None: without a limit.

        Raises:
            ResultIsMissingError: None was there in time, or what is there is no result.
            ServerUnavailableError: The time is over, and the last look got no answer.
            ServerError: The server refused.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout is {timeout}; give seconds, 0 to look once, or None to wait without a limit")
        if timeout == 0:
            record = await self.read(task_id)
        else:
            async with hearing(self._connection, self._stream, self._namespace.kept_subject(task_id)) as heard:
                record = await self._wait(task_id, math.inf if timeout is None else timeout, heard)
        if record is None:
            raise ResultIsMissingError(task_id, _why_missing(timeout))
        return record

    async def _wait(self, task_id: str, timeout: float, heard: Heard) -> ResultRecord | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if (record := self._parse(task_id, await heard.next(min(FIRST_LOOK_SECONDS, timeout)))) is not None:
            return record
        while True:
            remaining = deadline - loop.time()
            try:
                record = await self.read(task_id, timeout=min(ANSWER_SECONDS, max(remaining, POLL_SECONDS)))
            except ServerUnavailableError:
                if remaining <= 0:
                    raise
            else:
                if record is not None or remaining <= 0:
                    return record
            body = await heard.next(min(POLL_SECONDS, max(deadline - loop.time(), 0)))
            if (record := self._parse(task_id, body)) is not None:
                return record


def _why_missing(timeout: float | None) -> str:
    within = f"within {timeout:g} s" if timeout else "now"
    return (
        f"nothing is there {within}: it has not ended, or its result was not kept (keep_result=, "
        "result_ttl_seconds), or no longer is"
    )
