"""Workers that had tasks in flight and do not answer any more.

The server does not tell that a worker is gone: it only gives its tasks to others once their leases have lapsed. Until
then two things are evidence:

* A lock whose holder does not answer. It is seen by a single look, as long as the lock has not expired.
* A worker with tasks in flight at the last look, which was not stopping, and does not answer at this one. It needs two
  looks, so that only those who look again and again see it.

Neither is a proof: the worker may be cut off, or have ended in order between two looks. So it counts only while tasks
of its size are parked, and for no longer than the lease of a task.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.micro import endpoint_data
from diracx.tasks.plumbing.operations.locks import LockReader
from diracx.tasks.plumbing.operations.status_document import GoneWorker
from diracx.tasks.plumbing.wire.names import Namespace

MAX_KEYS_READ: Final = 500
"""Where locks have more keys than this, their holders are not read: a look takes one request for each."""
_WORKER: Final = re.compile(rf".*-\d+-({'|'.join(Size)})(-[a-z0-9]+)?")
"""The ids of workers, those of earlier versions too. `call` and schedulers hold locks as well."""
_ADMISSIONS: Final = "rate"
"""The kind of locks that outlast the execution of their holders."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A worker that had tasks in flight."""

    size: Size
    tasks: int
    at: datetime


class GoneWorkers:
    """Looks for workers that are gone; remembers those that it saw."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._locks = LockReader(connection, namespace)
        self._seen: dict[str, _Seen] = {}

    async def find(
        self,
        answers: Iterable[Mapping[str, Any]],
        parked: Mapping[Size, int],
        leases: Mapping[Size, timedelta],
        locks: int,
        now: datetime,
    ) -> list[GoneWorker]:
        """Compare with what was seen before.

        Args:
            answers: Of the workers, as `nats micro stats` shows them.
            parked: Tasks that no worker has in flight, by size.
            leases: The longest `ack_wait` of the queues of each size.
            locks: How many there are.
            now: By the server's clock.

        Returns:
            The workers, sorted by id.
        """
        there = {answer["metadata"]["id"]: answer for answer in answers}
        held = await self._held(there, parked) if any(parked.values()) and locks else {}
        lost = self._lost(there, parked, leases, now)
        self._remember(there, now)
        found = {}
        for worker, seen in lost.items():
            tasks = f"had {seen.tasks} task{'' if seen.tasks == 1 else 's'} in flight at {seen.at:%H:%M:%S} UTC"
            found[worker] = GoneWorker(worker, tasks, seen.at + leases[seen.size])
        for worker, (size, count) in held.items():
            back_by = found[worker].back_by if worker in found else now + leases[size]
            found[worker] = GoneWorker(worker, f"holds {count} lock{'' if count == 1 else 's'}", back_by)
        return [found[worker] for worker in sorted(found)]

    async def _held(
        self, there: Mapping[str, Mapping[str, Any]], parked: Mapping[Size, int]
    ) -> dict[str, tuple[Size, int]]:
        """The workers that hold locks and do not answer, with the number of their locks."""
        holders = Counter(
            worker
            for lock in await self._locks.all_but(_ADMISSIONS, MAX_KEYS_READ)
            for worker in {holder.worker for holder in lock.holders}
        )
        found = {}
        for worker, count in holders.items():
            if worker not in there and (match := _WORKER.fullmatch(worker)) and parked.get(Size(match[1])):
                found[worker] = Size(match[1]), count
        return found

    def _lost(
        self,
        there: Mapping[str, Mapping[str, Any]],
        parked: Mapping[Size, int],
        leases: Mapping[Size, timedelta],
        now: datetime,
    ) -> dict[str, _Seen]:
        return {
            worker: seen
            for worker, seen in self._seen.items()
            if worker not in there and parked.get(seen.size) and now < seen.at + leases[seen.size]
        }

    def _remember(self, there: Mapping[str, Mapping[str, Any]], now: datetime) -> None:
        for worker, answer in there.items():
            data = endpoint_data(answer)
            tasks = sum(data["in_hand"].values())
            self._seen.pop(worker, None)
            if tasks and not data.get("stopping"):
                self._seen[worker] = _Seen(Size(answer["metadata"]["size"]), tasks, now)
        latest = now - timedelta(hours=1)
        self._seen = {worker: seen for worker, seen in self._seen.items() if seen.at > latest}
