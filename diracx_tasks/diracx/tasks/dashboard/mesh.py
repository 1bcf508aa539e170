"""The facts of one mesh, read once for all who look at the same time.

A reading that is young enough serves everybody; while one is made, everybody waits for that one. So a hundred viewers
cost the mesh as much as one, and nobody costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from diracx.tasks.dashboard.recent import DAY, Recent
from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import ApiError, PermissionDeniedError
from diracx.tasks.plumbing.operations.history import History, HistoryReader
from diracx.tasks.plumbing.operations.in_flight import WorkerTasks, tasks_in_flight
from diracx.tasks.plumbing.operations.recent_failures import RecentFailure, recent_failures
from diracx.tasks.plumbing.operations.sampling import Sample, Sampler, load_of
from diracx.tasks.plumbing.operations.status import StatusReader, StatusSnapshot
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_lookup import TaskLookup
from diracx.tasks.plumbing.operations.task_search import SearchResult, TaskSearch, Wanted
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace

FRESH_SECONDS: Final = 1.0
"""A reading serves for so long."""
HISTORY_SECONDS: Final = 30.0
"""The history gets a sample a minute."""
ANSWER_SECONDS: Final = 4.0
"""How long a viewer waits for a server that does not answer at all. What the pages read has five seconds a request."""
MAX_FAILURES: Final = 30
MAX_PARKED: Final = 30
MAX_SEARCHES: Final = 2
"""At the same time."""

T = TypeVar("T")


class Shared(Generic[T]):
    """A reading that several share.

    Args:
        read: Makes it.
        fresh_seconds: How long it serves after it was made.
    """

    def __init__(
        self, read: Callable[[], Awaitable[T]], fresh_seconds: float = FRESH_SECONDS, clock: Clock = boottime
    ) -> None:
        self._read, self._fresh, self._clock = read, fresh_seconds, clock
        self._reading: asyncio.Task[T] | None = None
        self._forgotten: set[asyncio.Task[T]] = set()
        """Those that were being made when they were forgotten."""
        self._made = float("-inf")

    async def get(self) -> T:
        """The reading: that of a moment ago, the one that is being made, or a new one. It fails as `read` does."""
        reading = self._reading
        if reading is None or (reading.done() and (self._clock() - self._made > self._fresh or _failed(reading))):
            reading = self._reading = asyncio.create_task(self._make(), name="facts for the dashboard")
        # Whoever goes away meanwhile leaves the reading to the others.
        return await asyncio.shield(reading)

    def forget(self) -> None:
        """Let the next one who asks get a new reading, as after something was changed.

        One that is being made may have read what was there before: it goes to those who wait for it, and no others.
        """
        reading, self._reading = self._reading, None
        if reading is not None and not reading.done():
            self._forgotten.add(reading)
            reading.add_done_callback(self._forgotten.discard)

    async def end(self) -> None:
        """Give up the readings that are being made."""
        reading = {*self._forgotten, *({self._reading} if self._reading is not None else ())}
        going_on = [each for each in reading if not each.done()]
        for each in going_on:
            each.cancel()
        if going_on:
            await asyncio.wait(going_on)

    async def _make(self) -> T:
        try:
            return await self._read()
        finally:
            self._made = self._clock()


def _failed(reading: asyncio.Task[T]) -> bool:
    return reading.cancelled() or reading.exception() is not None


class Facts(Protocol):
    """The facts of some pages, which `Mesh.facts` keeps for all viewers. They are made of the mesh alone."""

    def __init__(self, mesh: Mesh) -> None: ...

    def forget(self) -> None:
        """Let the next one who asks get a new reading."""

    async def end(self) -> None:
        """Give up what is being read."""


F = TypeVar("F", bound=Facts)


@dataclass(frozen=True, slots=True)
class Reading:
    """What stands in a mesh, and what it did of late."""

    snapshot: StatusSnapshot
    load: Sample | None
    """The last half minute; None: it is not known what was done in it."""


class Mesh:
    """One mesh, for the pages and the actions.

    Args:
        registry: The tasks that are installed here: their classes tell which locks a task waits for.
        read_only: Whether this process must not or cannot change anything.
    """

    def __init__(
        self, connection: Connection, namespace: Namespace, registry: TaskRegistry, *, read_only: bool = False
    ) -> None:
        self.connection, self.namespace, self.registry = connection, namespace, registry
        # An observer reaches the API under a prefix of its own, where nothing can be changed.
        observes = connection.api_subject("INFO") == f"{namespace.imported_api}.INFO"
        self.read_only = read_only or observes
        self.lookup = TaskLookup(connection, namespace, registry)
        self._kept = HistoryReader(connection, namespace)
        self.recent = Recent(Sampler(connection, namespace))
        self._searches = asyncio.Semaphore(MAX_SEARCHES)
        self.answers = Shared[Any](partial(connection.api, "INFO", timeout=ANSWER_SECONDS))
        """Asked before all else, so that a server that hangs is told in seconds, whatever a page has to read."""
        self._status = StatusReader(connection, namespace)
        self.reading = Shared[Reading](self._read)
        self._search = TaskSearch(connection, namespace, registry, self._snapshot)
        self.history = Shared[History](self._history, HISTORY_SECONDS)
        self.in_flight = Shared[list[WorkerTasks]](partial(tasks_in_flight, connection, namespace, details=True))
        self.failures = Shared[list[RecentFailure]](partial(recent_failures, connection, namespace, limit=MAX_FAILURES))
        self.parked = Shared[SearchResult](partial(self.search, Wanted((State.PARKED,), limit=MAX_PARKED)), 3.0)
        self._shared: tuple[Shared[Any], ...] = (
            self.answers,
            self.reading,
            self.history,
            self.in_flight,
            self.failures,
            self.parked,
        )
        self._facts: dict[type[Facts], Facts] = {}

    async def _read(self) -> Reading:
        snapshot = await self._status.read()
        load = load_of(snapshot)
        return Reading(snapshot, None if load is None else self.recent.look(load))

    async def _snapshot(self) -> StatusSnapshot:
        return (await self.reading.get()).snapshot

    async def _history(self) -> History:
        try:
            return await self._kept.since(self.connection.clock.now() - DAY)
        except (ApiError, PermissionDeniedError):  # users of an earlier version may not read it
            return History(kept=False)

    async def search(self, wanted: Wanted) -> SearchResult:
        """Search for tasks. It reads messages, so only a few searches run at the same time.

        Raises:
            ServerError: As `TaskSearch.find`.
        """
        async with self._searches:
            return await self._search.find(wanted)

    def facts(self, kind: type[F]) -> F:
        """The facts of some pages: made when the first viewer asks, and the same for all."""
        if kind not in self._facts:
            self._facts[kind] = kind(self)
        return cast(F, self._facts[kind])

    def forget(self) -> None:
        """Let all pages read anew, as after something was changed."""
        for each in (*self._shared, *self._facts.values()):
            each.forget()

    async def end(self) -> None:
        """Give up what is being read."""
        for each in (*self._shared, *self._facts.values()):
            await each.end()
