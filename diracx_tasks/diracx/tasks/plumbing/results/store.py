"""The results of tasks, in the bucket `results`: each for the time that its submitter or its class says.

The bucket stays bounded: each key has a time to live, and the bucket a limit of bytes. A full bucket refuses a result.
The message of the task then stays unsettled, so that no result is lost without a word: the task runs again, and its
worker says why.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.exceptions import ServerError, shown
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import MESSAGE_TOO_LARGE, STORE_FAILED, ApiError, bucket_full_text
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.results.record import RETURN_LESS, ResultRecord
from diracx.tasks.plumbing.wire.ending import MAX_KEEP_SECONDS, Ending
from diracx.tasks.plumbing.wire.names import Namespace, escape
from diracx.tasks.plumbing.wire.occurrence import RunRecord, run_key

logger = logging.getLogger("diracx.tasks.worker")

SMALL_BYTES: Final = 4_096
"""A record of this size is not the reason why a bucket refuses it as too large."""


class ResultStore:
    """Keeps results.

    Args:
        worker: The id of the worker that keeps them.
    """

    def __init__(self, connection: Connection, namespace: Namespace, worker: str) -> None:
        self._connection, self._worker = connection, worker
        self._bucket = Bucket(connection, namespace.results_bucket)

    async def keep(self, ending: Ending, seconds: float) -> None:
        """Store the result of a task, for so many seconds. An earlier result of the same task is replaced.

        A value that cannot be stored is left out, and the log says why: the task has succeeded all the same.

        Raises:
            ServerError: It was not stored.
        """
        record = ResultRecord.of(ending, self._worker, self._connection.clock.now())
        body, most = record.encoded(), self._bucket.max_value_bytes
        if len(body) > most:
            record = record.without_value(f"its record has {len(body)} bytes, over the {most} that fit; {RETURN_LESS}")
            body = record.encoded()
        try:
            await self._put(ending, body, seconds)
        except ApiError as error:
            if error.err_code != MESSAGE_TOO_LARGE or len(body) <= SMALL_BYTES:
                raise
            why = f"its record has {len(body)} bytes, over the largest value of the bucket {self._bucket.name}"
            record = record.without_value(f"{why}; {RETURN_LESS}")
            await self._put(ending, record.encoded(), seconds)
        if record.problem is not None:
            text = "%s (%s) has succeeded, but its result is not kept: %s"
            logger.warning(text, shown(ending.task), shown(ending.id), record.problem)

    async def keep_run(self, schedule: str, run: RunRecord) -> None:
        """Store how the latest run of a schedule has ended, for a year.

        Raises:
            ServerError: It was not stored.
        """
        await self._bucket.put(run_key(schedule), msgspec.json.encode(run), timedelta(seconds=MAX_KEEP_SECONDS))

    async def _put(self, ending: Ending, body: bytes, seconds: float) -> None:
        try:
            await self._bucket.put(escape(ending.id), body, timedelta(seconds=min(seconds, MAX_KEEP_SECONDS)))
        except ApiError as error:
            if error.err_code != STORE_FAILED:
                raise
            raise ServerError(bucket_full_text(self._bucket.name, error.description)) from error
