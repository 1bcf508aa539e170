"""The locks of one task that others hold, as far as one can tell without taking them.

`execution_locks` is the code of the author: what it raises is said in a line, and is no error of the look-up.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, TypeAlias

from diracx.tasks.plumbing.exceptions import MalformedTaskError, ServerError, TaskDefinitionError, UnknownTaskError
from diracx.tasks.plumbing.execution.job import Job
from diracx.tasks.plumbing.locks import BaseLock, CountingLimiter, SharedRWLock, StoredKey
from diracx.tasks.plumbing.operations.locks import LockReader, held_lock
from diracx.tasks.plumbing.operations.task_document import BusyLock
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.worker.limits import with_limits

LockKeys: TypeAlias = dict[str, list[StoredKey]]
"""The stored keys of each lock, by the key of the lock."""

WRITER: Final = "./writer"
"""The end of the key of a writer, which alone keeps readers out."""


class LockLookup:
    """Finds the busy locks of a task.

    Args:
        registry: The tasks that are installed here.
        configuration: Has the limits that workers apply. Refreshed at each look-up.
    """

    def __init__(self, registry: TaskRegistry, reader: LockReader, configuration: ConfigurationFollower) -> None:
        self._registry = registry
        self._reader = reader
        self._configuration = configuration

    async def busy(self, envelope: Envelope, body: bytes) -> tuple[list[BusyLock], str | None]:
        """The locks of the task that others hold, and why they are not known; None: they are."""
        return self.busy_of(envelope, body, await self.read())

    async def read(self) -> LockKeys:
        """Read the configuration, and the keys of all locks, for any number of `busy_of`."""
        with suppress(ServerError):  # there is none, or this user may not read it
            await self._configuration.refresh()
        return await self._reader.stored_keys()

    def busy_of(self, envelope: Envelope, body: bytes, stored: LockKeys) -> tuple[list[BusyLock], str | None]:
        """As `busy`, by what was read before."""
        try:
            registered = self._registry.get(envelope.name)
            job = Job(registered, envelope, registered.codec.decode(body))
        except (UnknownTaskError, TaskDefinitionError):
            return [], f"its locks are not known: {envelope.name} is not installed here"
        except MalformedTaskError as error:
            return [], f"its locks are not known: {error}"
        try:
            declared: Any = job.task.execution_locks if registered.takes_locks else []
            locks = [lock for lock in declared if isinstance(lock, BaseLock)]
        except BaseException as error:  # the author's code
            said = " ".join(str(error).split())
            return [], f"its locks are not known: execution_locks raised {type(error).__name__}: {said}"
        locks = list(with_limits(self._configuration.current, job, locks))
        found = (_busy(lock, stored[lock.key], envelope.id) for lock in locks if lock.key in stored)
        return [busy for busy in found if busy is not None], None


def _busy(lock: BaseLock, keys: list[StoredKey], task_id: str) -> BusyLock | None:
    held = held_lock(lock.key, keys)
    limit = lock.limit if isinstance(lock, CountingLimiter) else None
    others = [holder for holder in held.holders if holder.id != task_id]
    if not others or (isinstance(lock, CountingLimiter) and (limit is None or len(held.holders) < limit)):
        return None
    if isinstance(lock, SharedRWLock) and not any(each.key.endswith(WRITER) for each in keys):
        return None
    return BusyLock(key=held.key, kind=held.kind, holders=others, limit=limit, expires_in=held.expires_in)
