"""Which occurrences of one schedule to publish next: a pure function of its state, its rule and the time.

The plan keeps these invariants through clock steps, crashes and changes of the rule:

* Once. An occurrence is published only if it lies after every decided one (`ScheduleState.after`). The decision and the
  publication are stored together, or not at all. A withdrawn occurrence may be published again, unless it was about to
  fall due (`CLOCK_TOLERANCE`): by the server's clock it may have happened. Before `decide` is called, the occurrences
  that the state has cancelled are withdrawn from the server.
* None missed. The server holds every occurrence up to `horizon` from now, and at least one beyond. So no occurrence is
  missed while all schedulers are away for less than the horizon, and the next one is not missed even then.
* Caught up once. If several occurrences have passed unpublished, only the latest of them is published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.exceptions import ScheduleEndedError
from diracx.tasks.plumbing.scheduler.state import Occurrence, ScheduleKey, ScheduleState
from diracx.tasks.plumbing.schedules import TaskScheduleBase

CLOCK_TOLERANCE: Final = timedelta(seconds=10)
"""How far apart the clocks of schedulers and server may be before a changed rule could publish an occurrence twice."""

MIN_LIFETIME: Final = timedelta(seconds=5)
"""How long an occurrence waits for a worker at least, however soon the next one is due."""

MAX_OCCURRENCES_PER_PLAN: Final = 200
"""The next plan, made immediately, holds the rest."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When one schedule runs, and whether it does."""

    schedule: TaskScheduleBase
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """The next state, and the occurrences to publish together with it."""

    state: ScheduleState
    occurrences: tuple[Occurrence, ...] = ()
    catch_up: datetime | None = None
    """The one of `occurrences` that stands for all missed ones; None if none was missed."""


def decide(
    key: ScheduleKey, state: ScheduleState | None, rule: Rule, now: datetime, horizon: timedelta, scheduler: str = ""
) -> Plan | None:
    """Decide what to do about one schedule.

    Args:
        state: The stored state; None if the schedule is new and begins now.
        horizon: How far into the future the server holds every occurrence.
        scheduler: The id of this scheduler, recorded in the state.

    Returns:
        The plan; None if there is nothing to do before `next_decision`.

    Raises:
        Exception: Any error of an author's own schedule; `ValueError` if it does not advance.
    """
    old = _pruned(state or ScheduleState(task=key.task, vo=key.vo, schedule="", enabled=False, after=now), now)
    old = msgspec.structs.replace(old, scheduler=scheduler)
    words = str(rule.schedule)
    changed = old.schedule != words or old.enabled != rule.enabled
    if not rule.enabled:
        return _disabled(old, words, now) if changed and state is not None else None
    if not changed and (old.ended or old.after > now + horizon):
        return None
    overdue = old.enabled and not old.ended and old.after < now
    # A new rule begins now. But if an occurrence of the old rule is overdue, one occurrence is caught up.
    filled = _fill(rule.schedule, old.after if overdue or not changed else now, now, horizon)
    known = {*old.pending, *old.cancelled}
    occurrences = tuple(each for each in filled.occurrences if each.due not in known)
    withdrawn = [due for due in old.pending if changed and due > now and due not in filled.dues]
    next_state = msgspec.structs.replace(
        old,
        schedule=words,
        enabled=True,
        after=filled.after,
        pending=_sorted({*old.pending, *(each.due for each in occurrences)}.difference(withdrawn)),
        cancelled=_sorted({*old.cancelled, *withdrawn}),
        ended=filled.ended,
    )
    return Plan(next_state, occurrences, next((each.due for each in occurrences if each.due <= now), None))


def next_decision(state: ScheduleState | None, rule: Rule, horizon: timedelta) -> datetime | None:
    """When `decide` has something to do for this state again; None: not before the rule changes."""
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


def _pruned(state: ScheduleState, now: datetime) -> ScheduleState:
    """The state without the occurrences that no later decision needs.

    By the server's clock, an occurrence due within `CLOCK_TOLERANCE` of now may have happened or not. An earlier one
    has happened. A later one that was withdrawn will not happen, since its schedule is purged by now.
    """
    return msgspec.structs.replace(
        state,
        last=state.latest_before(now),
        pending=tuple(due for due in state.pending if due > now - CLOCK_TOLERANCE),
        cancelled=tuple(due for due in state.cancelled if now - CLOCK_TOLERANCE < due <= now + CLOCK_TOLERANCE),
    )


def _disabled(old: ScheduleState, words: str, now: datetime) -> Plan:
    return Plan(
        msgspec.structs.replace(
            old,
            schedule=words,
            enabled=False,
            after=now,
            pending=(),
            cancelled=_sorted({*old.pending, *old.cancelled}),
            ended=False,
        )
    )


def _sorted(dues: set[datetime]) -> tuple[datetime, ...]:
    return tuple(sorted(dues))


def _fill(schedule: TaskScheduleBase, after: datetime, now: datetime, horizon: timedelta) -> _Filled:
    """Collect occurrences until one lies beyond one and a half horizons.

    The extra half keeps a fast schedule from writing its state at each of its occurrences.
    """
    filled = _Filled(after)
    limit = now + horizon * 1.5
    due = _latest_missed(schedule, after, now) or _next(schedule, after)
    while due is not None:
        following = _next(schedule, due)
        expires = None if following is None else max(following, due + MIN_LIFETIME)
        filled.occurrences.append(Occurrence(due, expires))
        filled.after = due
        if following is not None and (due > limit or len(filled.occurrences) >= MAX_OCCURRENCES_PER_PLAN):
            return filled
        due = following
    filled.ended = True
    return filled


def _next(schedule: TaskScheduleBase, after: datetime) -> datetime | None:
    try:
        following = schedule.next_occurrence(after)
    except ScheduleEndedError:
        return None
    # An author's own schedule that does not advance would make an endless loop.
    if following <= after:
        raise ValueError(f"{schedule} does not advance: its next occurrence after {after} is {following}")
    return following


def _latest_missed(schedule: TaskScheduleBase, after: datetime, now: datetime) -> datetime | None:
    """The latest occurrence in (`after`, `now`], found without walking through all of them; None if there is none."""
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
