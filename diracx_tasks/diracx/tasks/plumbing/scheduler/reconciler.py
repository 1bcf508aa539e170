"""Keeping the schedules of a mesh supplied with occurrences.

One round for one schedule:

    read the state -> decide (pure, see `planning`) -> write state and occurrences -> withdraw cancelled occurrences
         ^                                                |
         +---- another scheduler wrote the state ---------+

Crash points:

| Killed | Left behind |
|---|---|
| before the write | nothing |
| during the write | all of it or nothing: one atomic batch, with compare-and-set on the state of each schedule |
| after the write, its answer lost | the new state; the next round reads it anew |
| before the withdrawal ends | a state that names the cancelled occurrences; its next reader withdraws them first |
| after a schedule was ended for good | a disabled state; it is removed once it is `REMOVAL_AGE` old |
| (never again: the task was uninstalled) | the state; it is removed once nothing was supplied for `ORPHAN_AGE` |

An occurrence whose arguments changed is replaced on condition that the server still holds it. If it falls due in
between, the whole batch is refused as after the write of another scheduler.

A withdrawal is fenced by the sequence of the state that decided it: it leaves alone whatever was published after that
state. So a scheduler that was suspended in between, and continues long after another one took over, changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from diracx.tasks.plumbing.clock import Now, utc_now
from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError
from diracx.tasks.plumbing.locks import RevisionConflictError
from diracx.tasks.plumbing.scheduler.instances import Instance
from diracx.tasks.plumbing.scheduler.planning import Plan, arguments_changed, decide, next_decision
from diracx.tasks.plumbing.scheduler.state import Occurrence, ScheduleKey, ScheduleState
from diracx.tasks.plumbing.wire.times import readable_time

logger = logging.getLogger("diracx.tasks.scheduler")

MAX_MESSAGES_PER_WRITE: Final = 400
"""A batch costs the server a few milliseconds, whatever its size up to 1,000."""

UNREADABLE_RETRY: Final = timedelta(seconds=30)
"""How often a state that could not be read is read again."""

REMOVAL_AGE: Final = timedelta(minutes=10)
"""How long the state of a schedule that was removed stays.

A state refuses the writes of a scheduler that was suspended before it. So it stays until the server has closed the
connection of such a scheduler: after three pings without an answer, one every two minutes by default.
"""

ORPHAN_AGE: Final = timedelta(days=7)
"""How long the state of a schedule stays that no leader has supplied since: none of them has its task installed.

During an upgrade, or where schedulers have different tasks, the next leader may have it. It then begins anew, if it
comes later than this; what was missed before is not caught up.
"""

FORGET_INTERVAL: Final = timedelta(minutes=1)

ASK_AGAIN: Final = timedelta(seconds=60)
"""How often a schedule that answers from now, and raised an error, is asked again."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """A state and its revision: the sequence of its message."""

    state: ScheduleState
    revision: int


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error that a schedule raised."""

    words: str
    error: str
    ask_again: datetime

    def lasts(self, instance: Instance, now: datetime) -> bool:
        """Whether it is useless to ask the schedule now: with the same `after`, it gives the same answer."""
        if not instance.rule.enabled or instance.rule.words != self.words:
            return False
        return not instance.rule.from_now or now < self.ask_again


@dataclass(frozen=True, slots=True)
class Change:
    """The part of a write that belongs to one schedule."""

    instance: Instance
    plan: Plan
    revision: int
    """The revision of the state that the plan was made from; 0 if there was none."""

    @property
    def occurrences(self) -> tuple[Occurrence, ...]:
        """The occurrences to publish."""
        return self.plan.occurrences


class ScheduleStore(Protocol):
    """Stores states and publishes occurrences.

    Every method raises `ServerUnavailableError` if no answer arrives, and `ServerError` if the server refuses.
    """

    async def read(self, keys: Sequence[ScheduleKey]) -> dict[ScheduleKey, StoredState]:
        """The latest states. A schedule without a state, or with one that cannot be read, is left out."""

    async def read_all(self) -> dict[ScheduleKey, StoredState]:
        """The latest states of all schedules, without those that cannot be read."""

    def unreadable(self, key: ScheduleKey) -> bool:
        """Whether the state of this schedule could not be decoded when it was last read."""

    async def write(self, changes: Sequence[Change]) -> list[int]:
        """Store all states with their occurrences, or nothing, and return the new revisions.

        Raises:
            RevisionConflictError: One of the states has another revision by now, or an occurrence to be replaced is
                not held any more.
        """

    async def withdraw(self, key: ScheduleKey, dues: Sequence[datetime], before: int) -> None:
        """Remove these occurrences if they were published before the revision `before` and have not fallen due."""

    async def held(self, key: ScheduleKey, dues: Sequence[datetime]) -> dict[datetime, int]:
        """The sequences of those of these occurrences that have not fallen due and were not withdrawn."""

    async def remove(self, key: ScheduleKey, revision: int) -> None:
        """Remove a state if it still has this revision."""


class ScheduleReconciler:
    """Keeps schedules supplied. It caches their states; call `load` first.

    Args:
        horizon: How far into the future the server holds every occurrence.
        name: The id of this scheduler, recorded in the states.
        now: The time by which occurrences are planned.
        corrected: See `planning.decide`.
    """

    def __init__(
        self,
        store: ScheduleStore,
        horizon: timedelta,
        name: str,
        now: Now = utc_now,
        corrected: Callable[[datetime], datetime] = lambda answer: answer,
    ) -> None:
        self._store = store
        self._horizon = horizon
        self._name = name
        self._now = now
        self._corrected = corrected
        self._known: dict[ScheduleKey, StoredState] = {}
        self._stale: set[ScheduleKey] = set()
        """Schedules whose cached state may differ from the stored one, and is read before the next decision."""
        self._failed: dict[ScheduleKey, _Failure] = {}
        """Schedules that raised an error."""
        self._retry_unreadable_at = now()
        self._forget_at = now()

    async def load(self) -> None:
        """Read every state: another scheduler may have written them.

        Raises:
            ServerError: The states could not be read.
        """
        found = await self._store.read_all()
        for stored in found.values():
            await self._withdraw(stored)
        self._known, self._stale = found, set()

    @property
    def known(self) -> dict[ScheduleKey, ScheduleState]:
        """The states as of the last read or write."""
        return {key: stored.state for key, stored in self._known.items()}

    def due(self, instances: Iterable[Instance]) -> list[Instance]:
        """The instances that `advance` may have something to do for now."""
        now = self._now()
        if retry_unreadable := now >= self._retry_unreadable_at:
            self._retry_unreadable_at = now + UNREADABLE_RETRY
        return [instance for instance in instances if self._is_due(instance, now, retry_unreadable)]

    def _is_due(self, instance: Instance, now: datetime, retry_unreadable: bool) -> bool:
        if self._store.unreadable(instance.key):
            # An operator may have removed or repaired the state.
            if retry_unreadable:
                self._stale.add(instance.key)
            return retry_unreadable
        failure = self._failed.get(instance.key)
        if failure is not None and failure.lasts(instance, now):
            return False
        if instance.key in self._stale:
            return True
        if (stored := self._known.get(instance.key)) is None:
            return instance.rule.enabled
        state = stored.state
        if _is_removable(instance, state, now):
            return True
        if state.enabled != instance.rule.enabled or state.schedule != instance.rule.words:
            return True
        if arguments_changed(state, instance.rule):
            return True
        at = next_decision(state, instance.rule, self._horizon)
        return at is not None and at <= now

    async def advance(self, instances: Sequence[Instance]) -> int:
        """Supply these schedules, and return the number of published occurrences.

        Raises:
            RevisionConflictError: Another scheduler wrote a state, or an occurrence fell due before it was replaced;
                the next call reads the states concerned.
            ServerError: Some schedules were not supplied; the next call tries again.
        """
        await self._read([instance.key for instance in instances if instance.key in self._stale])
        published = 0
        held: dict[ScheduleKey, dict[datetime, int]] = {}
        for instance in instances:
            if (stored := self._known.get(instance.key)) is None:
                continue
            if _is_removable(instance, stored.state, self._now()):
                await self._store.remove(instance.key, stored.revision)
                del self._known[instance.key]
            elif arguments_changed(stored.state, instance.rule):
                held[instance.key] = await self._store.held(instance.key, stored.state.pending)
        for changes in _batches(self._changes(instances, held)):
            await self._write(changes)
            published += sum(len(change.occurrences) for change in changes)
        return published

    async def forget_gone(self, instances: Iterable[Instance], has_task: Callable[[ScheduleKey], bool]) -> None:
        """Remove the states of schedules whose task is not installed, once they are `ORPHAN_AGE` old, and what is
        remembered of schedules that there are no more. Does nothing for a minute after the last time.

        Args:
            has_task: Whether the task of a schedule is installed here, for a VO or not, as the key has it.

        Raises:
            ServerError: Some were not removed; a later call tries again.
        """
        now = self._now()
        if now < self._forget_at:
            return
        self._forget_at = now + FORGET_INTERVAL
        there = {instance.key for instance in instances}
        self._stale &= there | self._known.keys()
        self._failed = {key: failure for key, failure in self._failed.items() if key in there}
        for key, stored in list(self._known.items()):
            if stored.state.after <= now - ORPHAN_AGE and not has_task(key):
                await self._store.remove(key, stored.revision)
                del self._known[key]
                logger.info("%s is forgotten: its task is not installed, and nothing was due for %s", key, ORPHAN_AGE)

    async def _read(self, keys: Sequence[ScheduleKey]) -> None:
        if not keys:
            return
        found = await self._store.read(keys)
        for key in keys:
            if (stored := found.get(key)) is None:
                self._known.pop(key, None)
            else:
                await self._withdraw(stored)
                self._known[key] = stored
            self._stale.discard(key)

    def _changes(
        self, instances: Iterable[Instance], held: Mapping[ScheduleKey, Mapping[datetime, int]]
    ) -> Iterator[Change]:
        for instance in instances:
            if self._store.unreadable(instance.key):
                continue  # a newer version may have written this state: never overwrite it
            known = self._known.get(instance.key)
            state, revision = (None, 0) if known is None else (known.state, known.revision)
            try:
                known_held, now = held.get(instance.key, {}), self._now()
                plan = decide(
                    instance.key, state, instance.rule, now, self._horizon, self._name, known_held, self._corrected
                )
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # an author's own schedule may raise anything, and must not stop the others
                self._schedule_failed(instance, error)
                continue
            self._failed.pop(instance.key, None)
            if plan is not None:
                yield Change(instance, plan, revision)

    def _schedule_failed(self, instance: Instance, error: BaseException) -> None:
        failure = _Failure(instance.rule.words, repr(error), self._now() + ASK_AGAIN)
        before = self._failed.get(instance.key)
        self._failed[instance.key] = failure
        if before is not None and (before.words, before.error) == (failure.words, failure.error):
            return
        if instance.rule.from_now:
            logger.error(
                "%s is not scheduled for now; its schedule is asked again every %d s: %s (%s)",
                *(instance.key, ASK_AGAIN.total_seconds(), failure.words, failure.error),
                exc_info=error,
            )
        else:
            logger.error(
                "%s is not scheduled until its schedule is changed: %s (%s)",
                *(instance.key, failure.words, failure.error),
                exc_info=error,
            )

    async def _write(self, changes: Sequence[Change]) -> None:
        keys = {change.instance.key for change in changes}
        # If the write fails, it is not known which states are stored: they are read again.
        self._stale |= keys
        try:
            revisions = await self._store.write(changes)
        except (RevisionConflictError, ServerUnavailableError):
            raise
        except ServerError:
            if len(changes) == 1:
                raise
            # A change that the server refuses must not block the others.
            return await self._write_one_by_one(changes)
        for change, revision in zip(changes, revisions, strict=True):
            key, stored = change.instance.key, StoredState(change.plan.state, revision)
            await self._withdraw(stored)
            _log_change(change, self._known.get(key), self._now())
            self._known[key] = stored
            self._stale.discard(key)
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

    async def _withdraw(self, stored: StoredState) -> None:
        if stored.state.cancelled:
            await self._store.withdraw(stored.state.key, stored.state.cancelled, stored.revision)


def _is_removable(instance: Instance, state: ScheduleState, now: datetime) -> bool:
    return instance.removed and not state.enabled and state.after <= now - REMOVAL_AGE


def _batches(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """Group changes so that each group is one write."""
    group: list[Change] = []
    size = 0
    for change in changes:
        messages = 1 + len(change.occurrences)
        if group and size + messages > MAX_MESSAGES_PER_WRITE:
            yield group
            group, size = [], 0
        group.append(change)
        size += messages
    if group:
        yield group


def _log_change(change: Change, before: StoredState | None, now: datetime) -> None:
    state, key = change.plan.state, change.instance.key
    old = None if before is None else before.state
    if state.ended:
        if old is None or not old.ended or old.schedule != state.schedule:
            last = _told(max(state.pending, default=state.last), "long past")
            logger.warning("%s: %s ends; its last occurrence is %s", key, state.schedule, last)
    elif old is None or (not old.enabled and state.enabled) or (old.schedule != state.schedule and state.enabled):
        logger.info("%s: %s, next: %s", key, state.schedule, _told(state.next_after(now), "not known yet"))
    elif old.arguments != state.arguments:
        logger.info("%s: its arguments are %s from now on", key, state.arguments.decode() or "{}")
    if old is not None and old.enabled and not state.enabled:
        logger.info("%s is no longer scheduled: %s", key, change.instance.disabled_reason or "disabled")
    if change.plan.catch_up is not None:
        since = _told(None if old is None else old.after, "the start")
        logger.warning(
            "%s: caught up with the occurrence of %s; other occurrences missed since %s are skipped",
            *(key, readable_time(change.plan.catch_up), since),
        )


def _told(moment: datetime | None, otherwise: str) -> str:
    return otherwise if moment is None else readable_time(moment)
