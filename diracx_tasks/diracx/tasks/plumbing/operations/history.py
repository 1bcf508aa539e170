"""The history of a mesh: the leading scheduler stores a sample each minute, and whoever may read sees the last days.

* One message a minute, however many workers there are. Only the leader writes; the next leader goes on with a sample of
  its own, so the minute of a takeover is told in part.
* A mesh works without the stream, as one does that an earlier version has set up. The leader then says once that no
  history is kept, and what to do. Nothing else depends on it: samples are taken beside the schedules and the
  leadership, and no failure of theirs ends the scheduler.
* The latest sample is what telemetry reports of the mesh, also where no history is kept, and for a minute after the
  last one that could be taken: one failed try makes no gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.background import in_background
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError, NotConnectedError, PermissionDeniedError
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.jetstream.topology import missing
from diracx.tasks.plumbing.observability import telemetry
from diracx.tasks.plumbing.observability.telemetry import Gauge
from diracx.tasks.plumbing.operations.sampling import Sample, Sampler, merged
from diracx.tasks.plumbing.scheduler.scheduler import Scheduler
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import to_rfc3339

logger = logging.getLogger("diracx.tasks.scheduler")

SAMPLE_SECONDS: Final = 10.0
STORE_SECONDS: Final = 60.0
DENIED_SECONDS: Final = 300.0
"""The time between two tries while this user lacks a permission: the server logs each."""
_CLOCK_SKEW: Final = timedelta(minutes=1)
"""A sample that is later than now by more tells of a time that has not been."""
_LOOK_SECONDS: Final = 1.0
"""How often a scheduler that stands by looks whether it leads."""

_decoder: Final = msgspec.json.Decoder(Sample)


class HistoryKeeper:
    """Takes samples while its scheduler leads, and stores one for each minute.

    Args:
        leads: Whether the scheduler leads now.
        sample_seconds: The time between two samples.
        store_seconds: The time that a stored one stands for.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        leads: Callable[[], bool],
        *,
        sample_seconds: float = SAMPLE_SECONDS,
        store_seconds: float = STORE_SECONDS,
    ) -> None:
        self.latest: Sample | None = None
        """None: the scheduler does not lead, or no sample could be taken for `store_seconds`."""
        self._taken = 0.0
        """When the latest sample was taken, on the clock `boottime`."""
        self._stores_after = 0.0
        """When the next sample may be stored, on the same clock: the server has denied it."""
        self._connection = connection
        self._namespace = namespace
        self._leads = leads
        self._sample_seconds = sample_seconds
        self._store_seconds = store_seconds
        self._sampler: Sampler | None = None
        self._minute: Sample | None = None
        """What was sampled and is not stored."""
        self._told: str | None = None
        """Why no history is kept, as it was logged."""

    async def run(self) -> None:
        """Sample and store until cancelled. Nothing else is raised."""
        while True:
            pause = min(_LOOK_SECONDS, self._sample_seconds)
            if self._leads():
                pause = await self._step()
            else:
                self.latest = self._sampler = self._minute = self._told = None
                self._stores_after = 0.0
            await asyncio.sleep(pause)

    async def _step(self) -> float:
        """Take a sample, and store the minute if it is over. Returns the seconds until the next step."""
        try:
            minute = await self._take()
        except PermissionDeniedError as error:
            self.latest = None
            self._deny(error)
            return DENIED_SECONDS
        except (ServerUnavailableError, ApiError) as error:
            self._drop_old()
            logger.debug("no sample: %s", error)  # the parts of the scheduler that cannot do without tell of it
        except Exception as error:
            self._drop_old()
            self._fail(error)
        else:
            if minute is not None:
                await self._try_to_store(minute)
        return self._sample_seconds

    async def _take(self) -> Sample | None:
        """Take a sample. Returns the minute that it ends, to be stored; None: the minute goes on."""
        self._sampler = self._sampler or Sampler(self._connection, self._namespace, leads=True)
        sample = self.latest = await self._sampler.sample()
        self._taken = boottime()
        begun = sample if self._minute is None else self._minute
        minute = self._minute = sample if self._minute is None else merged([self._minute, sample])
        if self._number(sample.at) <= self._number(begun.at) or not self._leads():
            return None
        # One that gets no answer may be stored all the same: it is not told twice.
        self._minute = None
        return minute

    def _drop_old(self) -> None:
        if boottime() - self._taken >= self._store_seconds:
            self.latest = None

    async def _try_to_store(self, minute: Sample) -> None:
        """Store a minute. What the server refuses is told, and takes nothing from the samples."""
        if boottime() < self._stores_after:
            return
        try:
            await self._store(minute)
        except PermissionDeniedError as error:
            self._deny(error)
            self._stores_after = boottime() + DENIED_SECONDS
        except NotConnectedError as error:
            logger.debug("no sample is stored: %s", error)  # the connection tells of it
        except (ServerUnavailableError, ApiError) as error:
            self._tell(str(error))
        except Exception as error:
            self._fail(error)

    def _number(self, moment: datetime) -> int:
        """The number of a minute."""
        return int(moment.timestamp() // self._store_seconds)

    async def _store(self, sample: Sample) -> None:
        asset = [each for each in assets(self._namespace) if each.is_one_of(self._namespace.history_stream)]
        if (lack := await missing(self._connection, asset)) is not None:
            return self._tell(lack)
        await publish(self._connection, self._namespace.history_subject, msgspec.json.encode(sample), {})
        if self._told is not None:
            logger.info("the history of the mesh is kept again")
        self._told = None
        return None

    def _deny(self, error: PermissionDeniedError) -> None:
        self._tell(f"{error}; write the users of the server anew (`diracx-task-run setup --export`), and reload it")

    def _fail(self, error: Exception) -> None:
        """Tell of an error in the scheduler itself; for an `except` block."""
        if self._told is None:
            logger.exception("no history of the mesh is kept, and all else goes on: an error in the scheduler")
        self._told = str(error)

    def _tell(self, reason: str) -> None:
        if self._told is None:
            logger.warning("no history of the mesh is kept, and all else goes on: %s", reason)
        self._told = reason

    def gauges(self) -> Iterator[Gauge]:
        """What stands in the mesh, for telemetry: from the leader only. For any thread."""
        yield Gauge("diracx.tasks.scheduler.leader", int(self._leads()), {})
        if (sample := self.latest) is None:
            return
        for name, queue in sample.queues.items():
            priority, size = name.split("-")
            labels = {"diracx.tasks.priority": priority, "diracx.tasks.size": size}
            yield Gauge("diracx.tasks.queue.waiting", queue.waiting, labels)
            yield Gauge("diracx.tasks.queue.in_flight", queue.in_flight, labels)
            yield Gauge("diracx.tasks.queue.parked", queue.parked, labels)
            yield Gauge("diracx.tasks.queue.oldest", queue.oldest_seconds or 0.0, labels)
        yield Gauge("diracx.tasks.dead_letters", sample.dead_letters, {})
        yield Gauge("diracx.tasks.delayed", sample.delayed, {})


@asynccontextmanager
async def keeping_history(scheduler: Scheduler, connection: Connection, namespace: Namespace) -> AsyncIterator[None]:
    """Keep the history of the mesh within the block, while the scheduler leads, and tell telemetry of the mesh."""
    keeper = HistoryKeeper(connection, namespace, lambda: scheduler.leads)
    with telemetry.observing(keeper.gauges):
        async with in_background(history=keeper.run()):
            yield


@dataclass(frozen=True, slots=True)
class History:
    """The samples of the last days."""

    samples: list[Sample] = field(default_factory=list)
    """The oldest first; each stands for the time since the one before, at most about a minute."""
    kept: bool = True
    """Whether this mesh keeps a history. False: the stream is missing; `diracx-task-run setup` creates it."""


class HistoryReader:
    """Reads the history of one mesh, any number of times."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection = connection
        self._stream, self._subject = namespace.history_stream, namespace.history_subject

    async def since(self, at: datetime) -> History:
        """The samples that were taken later than `at`, which is aware. What is no sample is left out.

        Raises:
            ServerUnavailableError: No answer.
            PermissionDeniedError: This user may not read the stream.
            ApiError: The server refused.
        """
        try:
            first = await read_message(
                self._connection, self._stream, strict=True, start_time=to_rfc3339(at), next_by_subj=self._subject
            )
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return History(kept=False)
            raise
        if first is None:
            return History()
        samples = []
        async for message in read_batches(self._connection, self._stream, self._subject, first=first.sequence):
            try:
                samples.append(_decoder.decode(message.body))
            except (msgspec.MsgspecError, RecursionError):  # somebody wrote it by hand
                logger.debug("message %d of %s is no sample", message.sequence, self._stream)
        latest = self._connection.clock.now() + _CLOCK_SKEW  # the clock of the server may have been set back
        return History([sample for sample in samples if at < sample.at < latest])
