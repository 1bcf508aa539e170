"""Keeping schedules supplied: read, decide, write, take back.

What each crash point leaves behind:

    read -> decide      nothing happened
    -> write            all of it or nothing (an atomic batch); a write whose answer was lost is found by reading anew
    -> take back        the state names what is to be taken back; whoever reads it next does it before anything else

Taking back is fenced by the sequence of the state that decided it: what was published after that state stays. So a
scheduler that was stopped in between, and goes on long after another took over, changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError
from diracx.tasks.plumbing.locks import RevisionConflictError
from diracx.tasks.plumbing.scheduler.instances import Instance
from diracx.tasks.plumbing.scheduler.planning import Plan, decide, next_look
from diracx.tasks.plumbing.scheduler.state import Occurrence, ScheduleKey, ScheduleState

logger = logging.getLogger("diracx.tasks.scheduler")

MESSAGES_TOGETHER: Final = 400
"""In one write: a batch costs the server some milliseconds, whatever its size up to 1,000."""

_LOOK_AGAIN: Final = timedelta(seconds=30)
"""After which a state that could not be read is looked at again."""

Now = Callable[[], datetime]
"""The time, aware."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """A state and its revision."""

    state: ScheduleState
    revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """One schedule's part of a write."""

    instance: Instance
    plan: Plan
    revision: int
    """Of the state that the plan was made from; 0: there was none."""

    @property
    def occurrences(self) -> tuple[Occurrence, ...]:
        """What is published."""
        return self.plan.occurrences


class ScheduleStore(Protocol):
    """Where states are kept and occurrences published.

    Every method raises `ServerUnavailableError` when no answer came, and `ServerError` when the server refused.
    """

    async def read(self, keys: Sequence[ScheduleKey]) -> dict[ScheduleKey, StoredState]:
        """The latest states; those without one, or with one that cannot be read, are left out."""

    async def read_all(self) -> dict[ScheduleKey, StoredState]:
        """The latest states of all schedules that have one that can be read."""

    def unreadable(self, key: ScheduleKey) -> bool:
        """Whether there is a state that could not be read when it was last looked at."""

    async def write(self, changes: Sequence[Change]) -> list[int]:
        """Store all states with their occurrences, or nothing; return the new revisions.

        `RevisionConflictError` if one of the states has another revision.
        """

    async def take_back(self, key: ScheduleKey, dues: Sequence[datetime], before: int) -> None:
        """Remove occurrences that were published before the revision `before` and have not fallen due."""


def utc_now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


class ScheduleKeeper:
    """Keeps schedules supplied, with what it knows of their states; `load` comes first.

    Args:
        horizon: How far ahead.
        name: Of this scheduler, for the record.
    """

    def __init__(self, store: ScheduleStore, horizon: timedelta, name: str, now: Now = utc_now) -> None:
        self._store = store
        self._horizon = horizon
        self._name = name
        self._now = now
        self._known: dict[ScheduleKey, StoredState] = {}
        self._unsure: set[ScheduleKey] = set()
        self._undecidable: dict[ScheduleKey, str] = {}
        """Schedules, in words, that an error of their own keeps from being followed."""
        self._look_again = now()

    async def load(self) -> None:
        """Read every state anew: somebody else may have written meanwhile.

        Raises:
            ServerError: The server did not give them.
        """
        found = await self._store.read_all()
        for stored in found.values():
            await self._take_back(stored)
        self._known, self._unsure = found, set()

    @property
    def known(self) -> dict[ScheduleKey, ScheduleState]:
        """The states as of the last read or write."""
        return {key: stored.state for key, stored in self._known.items()}

    def due(self, instances: Iterable[Instance]) -> list[Instance]:
        """Those that `advance` may have something to do about now."""
        now = self._now()
        if again := now >= self._look_again:
            self._look_again = now + _LOOK_AGAIN
        return [instance for instance in instances if self._is_due(instance, now, again)]

    def _is_due(self, instance: Instance, now: datetime, again: bool) -> bool:
        if self._store.unreadable(instance.key):
            # Somebody may have removed it, or mended it.
            if again:
                self._unsure.add(instance.key)
            return again
        if self._undecidable.get(instance.key) == instance.words and instance.rule.enabled:
            return False
        if instance.key in self._unsure:
            return True
        if (stored := self._known.get(instance.key)) is None:
            return instance.rule.enabled
        state = stored.state
        if state.enabled != instance.rule.enabled or state.schedule != instance.words:
            return True
        look = next_look(state, instance.rule, self._horizon)
        return look is not None and look <= now

    async def advance(self, instances: Sequence[Instance]) -> int:
        """Supply these schedules; return how many occurrences were published.

        Raises:
            RevisionConflictError: Somebody else wrote; what they wrote is read the next time.
            ServerError: Some were not supplied; they are the next time.
        """
        await self._read([instance.key for instance in instances if instance.key in self._unsure])
        published = 0
        for changes in _together(self._changes(instances)):
            await self._write(changes)
            published += sum(len(change.occurrences) for change in changes)
        return published

    async def _read(self, keys: Sequence[ScheduleKey]) -> None:
        if not keys:
            return
        found = await self._store.read(keys)
        for key in keys:
            if (stored := found.get(key)) is None:
                self._known.pop(key, None)
            else:
                await self._take_back(stored)
                self._known[key] = stored
            self._unsure.discard(key)

    def _changes(self, instances: Iterable[Instance]) -> Iterator[Change]:
        for instance in instances:
            if self._store.unreadable(instance.key):
                continue  # a newer version may have written it: it is not to be overwritten
            known = self._known.get(instance.key)
            state, revision = (None, 0) if known is None else (known.state, known.revision)
            try:
                plan = decide(instance.key, state, instance.rule, self._now(), self._horizon, self._name)
            except Exception:  # an author's own schedule may raise anything, and must not stop the others
                self._undecidable[instance.key] = instance.words
                logger.exception("%s is not scheduled until its schedule is changed: %s", instance.key, instance.words)
                continue
            if plan is not None:
                yield Change(instance, plan, revision)

    async def _write(self, changes: Sequence[Change]) -> None:
        keys = {change.instance.key for change in changes}
        # From here on it is not known what is stored: on any failure it is read anew.
        self._unsure |= keys
        try:
            revisions = await self._store.write(changes)
        except (RevisionConflictError, ServerUnavailableError):
            raise
        except ServerError:
            if len(changes) == 1:
                raise
            # One that the server does not take must not keep the others back.
            return await self._write_one_by_one(changes)
        for change, revision in zip(changes, revisions, strict=True):
            key, stored = change.instance.key, StoredState(change.plan.state, revision)
            await self._take_back(stored)
            _tell(change, self._known.get(key))
            self._known[key] = stored
            self._unsure.discard(key)
        return None

    async def _write_one_by_one(self, changes: Sequence[Change]) -> None:
        failure: ServerError | None = None
        for change in changes:
            try:
                await self._write([change])
            except ServerUnavailableError:
                raise
            except ServerError as error:
                logger.error("%s is not scheduled: %s", change.instance.key, error)
                failure = error
        if failure is not None:
            raise failure

    async def _take_back(self, stored: StoredState) -> None:
        if stored.state.cancelled:
            await self._store.take_back(stored.state.key, stored.state.cancelled, stored.revision)


def _together(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """Changes in groups for one write each."""
    group: list[Change] = []
    size = 0
    for change in changes:
        messages = 1 + len(change.occurrences)
        if group and size + messages > MESSAGES_TOGETHER:
            yield group
            group, size = [], 0
        group.append(change)
        size += messages
    if group:
        yield group


def _tell(change: Change, before: StoredState | None) -> None:
    state, key = change.plan.state, change.instance.key
    old = None if before is None else before.state
    if state.ended:
        if old is None or not old.ended or old.schedule != state.schedule:
            last = max(state.pending, default=state.last)
            logger.warning("%s: %s ends; its last occurrence is %s", key, state.schedule, last or "long past")
    elif old is None or (not old.enabled and state.enabled) or (old.schedule != state.schedule and state.enabled):
        logger.info("%s: %s, next at %s", key, state.schedule, state.pending[0] if state.pending else None)
    if old is not None and old.enabled and not state.enabled:
        logger.info("%s is not scheduled any more: %s", key, change.instance.why_not or "disabled")
    if change.plan.made_up is not None:
        since = None if old is None else old.after
        logger.warning("%s: made up for %s; what else was missed since %s is left out", key, change.plan.made_up, since)
