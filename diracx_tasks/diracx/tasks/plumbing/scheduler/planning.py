"""Which occurrences of one schedule to publish next: a pure function of its state, its rule and the time.

The plan keeps these invariants through clock steps, crashes and changes of the rule:

* Once. An occurrence is published only if it lies after every decided one (`ScheduleState.after`). The decision and the
  publication are stored together, or not at all. A withdrawn occurrence may be published again, unless it was about to
  fall due (`CLOCK_TOLERANCE`): by the server's clock it may have happened. Before `decide` is called, the occurrences
  that the state has cancelled are withdrawn from the server.
* None missed. The server holds every occurrence up to `horizon` from now, and at least one beyond. So no occurrence is
  missed while all schedulers are away for less than the horizon, and the next one is not missed even then.
* Caught up once. If several occurrences have passed unpublished, only the latest of them is published.
* New arguments. If the arguments change, each held occurrence is replaced by one with the new arguments, on condition
  that the server still holds it: if it falls due first, the whole write is refused, and decided again without it.

A schedule that answers from now (see `TaskScheduleBase`) is asked for its next occurrence once the known one has
passed. It has no horizon: one occurrence is known at a time, and the server holds it. The others are neither missed nor
caught up, since nobody knows when they would have been.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

import msgspec

from diracx.tasks.plumbing.clock import LATEST_TIME
from diracx.tasks.plumbing.exceptions import ScheduleEndedError
from diracx.tasks.plumbing.scheduler.state import Occurrence, ScheduleKey, ScheduleState
from diracx.tasks.plumbing.schedules import TaskScheduleBase
from diracx.tasks.plumbing.schedules.base import answers_from_now
from diracx.tasks.plumbing.wire.times import in_utc

CLOCK_TOLERANCE: Final = timedelta(seconds=10)
"""How far apart the clocks of schedulers and server may be before a changed rule could publish an occurrence twice."""

MIN_LIFETIME: Final = timedelta(seconds=5)
"""How long an occurrence waits for a worker at least, however soon the next one is due."""

MAX_OCCURRENCES_PER_PLAN: Final = 200
"""The next plan, made immediately, holds the rest. A plan may replace as many besides."""

MIN_INTERVAL: Final = timedelta(seconds=1)
"""The shortest time between two occurrences of a schedule that answers from now: it cannot flood the queue."""

_NONE_HELD: Final[Mapping[datetime, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Rule:
    """When one schedule runs, whether it does, and with which arguments.

    Raises:
        TaskDefinitionError: The scheduler cannot call `next_occurrence`.
    """

    schedule: TaskScheduleBase
    enabled: bool = True
    arguments: bytes = b""
    """As JSON; empty: none."""
    from_now: bool = field(init=False)
    """Whether the schedule answers from now."""
    words: str = field(init=False)
    """The schedule in words, e.g. `every 3600 s`; stays the same though an author's own schedule changes itself."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "from_now", answers_from_now(self.schedule))
        object.__setattr__(self, "words", str(self.schedule))


@dataclass(frozen=True, slots=True)
class Plan:
    """The next state, and the occurrences to publish together with it."""

    state: ScheduleState
    occurrences: tuple[Occurrence, ...] = ()
    catch_up: datetime | None = None
    """The one of `occurrences` that stands for all missed ones; None if none was missed."""


def decide(
    key: ScheduleKey,
    state: ScheduleState | None,
    rule: Rule,
    now: datetime,
    horizon: timedelta,
    scheduler: str = "",
    held: Mapping[datetime, int] = _NONE_HELD,
    corrected: Callable[[datetime], datetime] = lambda answer: answer,
) -> Plan | None:
    """Decide what to do about one schedule.

    Args:
        state: The stored state; None if the schedule is new and begins now.
        horizon: How far into the future the server holds every occurrence.
        scheduler: The id of this scheduler, recorded in the state.
        held: The sequences of the pending occurrences that the server still holds. Needed if `arguments_changed`.
        corrected: Gives the server's time for the answer of a schedule that answers from now, by this machine's clock.

    Returns:
        The plan; None if there is nothing to do before `next_decision`.

    Raises:
        Exception: Any error of an author's own schedule; `ValueError` if it does not advance, or answers without a time
            zone.
    """
    old = msgspec.structs.replace(_pruned(state or _new_state(key, now), now), scheduler=scheduler)
    changed = old.schedule != rule.words or old.enabled != rule.enabled
    if not rule.enabled:
        return _disabled(old, rule.words, now) if changed and state is not None else None
    supplied = not changed and (old.ended or old.after > now + _lead(rule, horizon))
    if supplied and old.arguments == rule.arguments:
        return None
    filled = _Filled(old.after, ended=old.ended)
    if not supplied:
        asked = rule.from_now
        filled = _asked(old, rule.schedule, now, corrected) if asked else _filled(old, rule, now, horizon, changed)
    return _plan(old, rule, filled, now, held, changed)


def next_decision(state: ScheduleState | None, rule: Rule, horizon: timedelta) -> datetime | None:
    """When `decide` has something to do for this state again; None: not before the rule changes."""
    if state is None or state.ended or not rule.enabled:
        return None
    return state.after - _lead(rule, horizon)


def arguments_changed(state: ScheduleState, rule: Rule) -> bool:
    """Whether the occurrences that the server holds have other arguments than those of the rule."""
    return rule.enabled and state.enabled and state.arguments != rule.arguments


def _plan(
    old: ScheduleState, rule: Rule, filled: _Filled, now: datetime, held: Mapping[datetime, int], changed: bool
) -> Plan:
    withdrawn = {due for due in old.pending if changed and due > now and due not in filled.dues}
    replaced = [_replacement(old, rule, due, held[due]) for due in old.pending if due in held and due not in withdrawn]
    if rest := replaced[MAX_OCCURRENCES_PER_PLAN:]:
        # They do not fit into one write: the next plan publishes them again, and those beyond.
        replaced = replaced[:MAX_OCCURRENCES_PER_PLAN]
        withdrawn |= {each.due for each in rest}
        filled = _Filled(replaced[-1].due)
    known = {*old.pending, *old.cancelled}
    occurrences = (*replaced, *(each for each in filled.occurrences if each.due not in known))
    next_state = msgspec.structs.replace(
        old,
        schedule=rule.words,
        enabled=True,
        args=msgspec.Raw(rule.arguments) if rule.arguments else msgspec.UNSET,
        after=filled.after,
        pending=_sorted({*old.pending, *(each.due for each in occurrences)} - withdrawn),
        cancelled=_sorted({*old.cancelled, *withdrawn}),
        ended=filled.ended,
    )
    overdue = (each.due for each in occurrences if each.due <= now and each.replaces is None)
    return Plan(next_state, occurrences, next(overdue, None))


def _lead(rule: Rule, horizon: timedelta) -> timedelta:
    """How long before the last known occurrence further ones are decided."""
    return timedelta(0) if rule.from_now else horizon


def _new_state(key: ScheduleKey, now: datetime) -> ScheduleState:
    entry = key.entry or msgspec.UNSET
    return ScheduleState(task=key.task, vo=key.vo, entry=entry, schedule="", enabled=False, after=now)


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


def _filled(old: ScheduleState, rule: Rule, now: datetime, horizon: timedelta, changed: bool) -> _Filled:
    overdue = old.enabled and not old.ended and old.after < now
    # A new rule begins now. But if an occurrence of the old rule is overdue, one occurrence is caught up.
    return _fill(rule.schedule, old.after if overdue or not changed else now, now, horizon)


def _asked(
    old: ScheduleState, schedule: TaskScheduleBase, now: datetime, corrected: Callable[[datetime], datetime]
) -> _Filled:
    """The next occurrence of a schedule that answers from now."""
    try:
        answer = _checked(schedule, schedule.next_occurrence(), now, corrected)
    except ScheduleEndedError:
        return _Filled(now, ended=True)
    due = answer if old.last is None else max(answer, old.last + MIN_INTERVAL)
    return _Filled(due, [Occurrence(due, _expiry_from_now(old, due))])


def _expiry_from_now(old: ScheduleState, due: datetime) -> datetime | None:
    """When an occurrence expires whose next one is not known: as long after it as the one before it was due.

    The first one, which has none before it, does not expire.
    """
    return None if old.last is None else due + max(due - old.last, MIN_LIFETIME)


def _replacement(old: ScheduleState, rule: Rule, due: datetime, sequence: int) -> Occurrence:
    expires = _expiry_from_now(old, due) if rule.from_now else _expiry(due, next_after(rule.schedule, due))
    return Occurrence(due, expires, replaces=sequence)


def _expiry(due: datetime, following: datetime | None) -> datetime | None:
    return None if following is None else max(following, due + MIN_LIFETIME)


def _fill(schedule: TaskScheduleBase, after: datetime, now: datetime, horizon: timedelta) -> _Filled:
    """Collect occurrences until one lies beyond one and a half horizons.

    The extra half keeps a fast schedule from writing its state at each of its occurrences.
    """
    filled = _Filled(after)
    limit = now + horizon * 1.5
    due = _latest_missed(schedule, after, now) or next_after(schedule, after)
    while due is not None:
        following = next_after(schedule, due)
        filled.occurrences.append(Occurrence(due, _expiry(due, following)))
        filled.after = due
        if following is not None and (due > limit or len(filled.occurrences) >= MAX_OCCURRENCES_PER_PLAN):
            return filled
        due = following
    filled.ended = True
    return filled


def next_after(schedule: TaskScheduleBase, after: datetime) -> datetime | None:
    """The next occurrence of a schedule that answers from any time, in UTC; None if it has ended.

    Raises:
        ValueError: The answer is naive, or not later than `after`.
    """
    try:
        return _checked(schedule, schedule.next_occurrence(after), after)
    except ScheduleEndedError:
        return None


def _checked(
    schedule: TaskScheduleBase,
    following: datetime,
    after: datetime,
    corrected: Callable[[datetime], datetime] = lambda answer: answer,
) -> datetime:
    """The answer of an author's own schedule, in UTC; the schedule has ended if the server cannot hold that time."""
    if not isinstance(following, datetime) or following.utcoffset() is None:
        raise ValueError(f"{schedule}: next_occurrence gave {following!r}; return an aware datetime")
    following = corrected(following)
    # Otherwise it would make an endless loop.
    if following <= after:
        raise ValueError(f"{schedule} does not advance: its next occurrence after {after} is {following}")
    if following > LATEST_TIME:
        raise ScheduleEndedError(str(schedule), after)
    return in_utc(following)


def _latest_missed(schedule: TaskScheduleBase, after: datetime, now: datetime) -> datetime | None:
    """The latest occurrence in (`after`, `now`], found without walking through all of them; None if there is none."""
    first = next_after(schedule, after) if after < now else None
    if first is None or first > now:
        return None
    window = timedelta(seconds=1)
    missed = first
    while now - window > after:
        near = next_after(schedule, now - window)
        if near is not None and near <= now:
            missed = near
            break
        window *= 2
    while (following := next_after(schedule, missed)) is not None and following <= now:
        missed = following
    return missed
