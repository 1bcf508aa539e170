"""What to publish next: a pure decision from what is remembered, the rule in force and the time.

The plan for one schedule keeps these promises, whatever clock steps, crashes and changes of the rule come between:

* Once. An occurrence is published only if it lies after everything that was decided before (`after`), and what is
  decided is stored together with what is published, or not at all. What was taken back may be published again, but
  not if it was about to fall due (`CLOSE`): by the server's clock it may have happened. Whoever decides has taken back
  what the state says, before.
* None missed. Everything up to `horizon` from now is with the server, and at least one occurrence beyond. So nothing
  is missed while no scheduler is there for less than the horizon, and the next one even then.
* Made up once. If more than one occurrence has passed unpublished, the latest of them is published, and no other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.exceptions import ScheduleEndedError
from diracx.tasks.plumbing.scheduler.state import Occurrence, ScheduleKey, ScheduleState
from diracx.tasks.plumbing.schedules import TaskScheduleBase

CLOSE: Final = timedelta(seconds=10)
"""How far the clocks of schedulers and server may be apart without an occurrence being doubled by a change."""

SHORTEST_LIFE: Final = timedelta(seconds=5)
"""How long an occurrence waits for a worker at least, however soon the next one is due."""

MOST_AT_ONCE: Final = 200
"""Occurrences of one schedule in one plan; the rest follows at once."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one schedule is to run."""

    schedule: TaskScheduleBase
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """The next state, and what is published together with it."""

    state: ScheduleState
    occurrences: tuple[Occurrence, ...] = ()
    made_up: datetime | None = None
    """The occurrence among them that stands for all that were missed."""


def decide(
    key: ScheduleKey, state: ScheduleState | None, rule: Rule, now: datetime, horizon: timedelta, scheduler: str = ""
) -> Plan | None:
    """Decide what to do about one schedule.

    Args:
        state: What is remembered; None: nothing, the schedule is new and begins now.
        horizon: How far into the future the server is to be supplied.
        scheduler: Who decides, for the record.

    Returns:
        The plan; None: nothing is to be done before `next_look`.

    Raises:
        Exception: Whatever an author's own schedule raises; `ValueError` if it stands still.
    """
    old = _swept(state or ScheduleState(task=key.task, vo=key.vo, schedule="", enabled=False, after=now), now)
    old = msgspec.structs.replace(old, scheduler=scheduler)
    words = str(rule.schedule)
    changed = old.schedule != words or old.enabled != rule.enabled
    if not rule.enabled:
        return _disabled(old, words, now) if changed and state is not None else None
    if not changed and (old.ended or old.after > now + horizon):
        return None
    overdue = old.enabled and not old.ended and old.after < now
    # Under a new rule it begins now; but if the old one is overdue, one occurrence is made up all the same.
    filled = _fill(rule.schedule, old.after if overdue or not changed else now, now, horizon)
    known = {*old.pending, *old.cancelled}
    occurrences = tuple(each for each in filled.occurrences if each.due not in known)
    taken_back = [due for due in old.pending if changed and due > now and due not in filled.dues]
    next_state = msgspec.structs.replace(
        old,
        schedule=words,
        enabled=True,
        after=filled.after,
        pending=_rising({*old.pending, *(each.due for each in occurrences)}.difference(taken_back)),
        cancelled=_rising({*old.cancelled, *taken_back}),
        ended=filled.ended,
    )
    return Plan(next_state, occurrences, next((each.due for each in occurrences if each.due <= now), None))


def next_look(state: ScheduleState | None, rule: Rule, horizon: timedelta) -> datetime | None:
    """When `decide` has something to do about this state again; None: not before the rule changes."""
    if state is None or state.ended or not rule.enabled:
        return None
    return state.after - horizon


@dataclass(slots=True)
class _Filled:
    after: datetime
    occurrences: list[Occurrence] = field(default_factory=list)
    ended: bool = False

    @property
    def dues(self) -> set[datetime]:
        return {each.due for each in self.occurrences}


def _swept(state: ScheduleState, now: datetime) -> ScheduleState:
    """Without what need not be remembered any more.

    By the server's clock, what falls due within `CLOSE` of now may have happened or not. What lies further back did
    happen; what was taken back and lies further ahead did not, since by now its schedule is purged.
    """
    return msgspec.structs.replace(
        state,
        last=state.latest_before(now),
        pending=tuple(due for due in state.pending if due > now - CLOSE),
        cancelled=tuple(due for due in state.cancelled if now - CLOSE < due <= now + CLOSE),
    )


def _disabled(old: ScheduleState, words: str, now: datetime) -> Plan:
    return Plan(
        msgspec.structs.replace(
            old,
            schedule=words,
            enabled=False,
            after=now,
            pending=(),
            cancelled=_rising({*old.pending, *old.cancelled}),
            ended=False,
        )
    )


def _rising(dues: set[datetime]) -> tuple[datetime, ...]:
    return tuple(sorted(dues))


def _fill(schedule: TaskScheduleBase, after: datetime, now: datetime, horizon: timedelta) -> _Filled:
    """Collect occurrences until one lies beyond the horizon.

    Half a horizon further, so that a fast schedule is not written anew at each of its occurrences.
    """
    filled = _Filled(after)
    limit = now + horizon * 1.5
    due = _latest_missed(schedule, after, now) or _next(schedule, after)
    while due is not None:
        following = _next(schedule, due)
        expires = None if following is None else max(following, due + SHORTEST_LIFE)
        filled.occurrences.append(Occurrence(due, expires))
        filled.after = due
        if following is not None and (due > limit or len(filled.occurrences) >= MOST_AT_ONCE):
            return filled
        due = following
    filled.ended = True
    return filled


def _next(schedule: TaskScheduleBase, after: datetime) -> datetime | None:
    try:
        following = schedule.next_occurrence(after)
    except ScheduleEndedError:
        return None
    # A schedule of an author's own that stands still would be followed for ever.
    if following <= after:
        raise ValueError(f"{schedule} says that {following} comes after {after}")
    return following


def _latest_missed(schedule: TaskScheduleBase, after: datetime, now: datetime) -> datetime | None:
    """The latest occurrence after `after` and not after `now`, found without a walk through all of them."""
    first = _next(schedule, after) if after < now else None
    if first is None or first > now:
        return None
    window = timedelta(seconds=1)
    missed = first
    while now - window > after:
        near = _next(schedule, now - window)
        if near is not None and near <= now:
            missed = near
            break
        window *= 2
    while (following := _next(schedule, missed)) is not None and following <= now:
        missed = following
    return missed
