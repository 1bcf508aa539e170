"""The schedules of a mesh as an operator sees them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from diracx.tasks.plumbing.overrides.overrides import Configuration
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import Instance, instances_of
from diracx.tasks.plumbing.scheduler.reconciler import StoredState
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, ScheduleState


class ListedSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule."""

    task: str
    vo: str | None
    schedule: str
    """In words."""
    enabled: bool
    last: datetime | None
    """The latest occurrence that has fallen due."""
    next: datetime | None
    """The next one that the server holds."""
    why_not: str | None
    """Why there is no next one; None: there is."""


def list_schedules(
    registry: TaskRegistry,
    configuration: Configuration,
    vos: tuple[str, ...],
    states: dict[ScheduleKey, StoredState],
    unreadable: Callable[[ScheduleKey], bool],
    now: datetime,
) -> list[ListedSchedule]:
    """The schedules of the tasks that are installed here, by task and VO.

    Args:
        vos: Those that should be there; those that have been scheduled are listed, too.
        states: As they are stored.
        unreadable: Whether a state is stored that cannot be read.
    """
    scheduled = (key.vo for key, stored in states.items() if key.vo and stored.state.enabled)
    instances = instances_of(registry, configuration, {*vos, *scheduled})
    return [_listed(instances[key], states.get(key), unreadable(key), now) for key in sorted(instances)]


def _listed(instance: Instance, stored: StoredState | None, unreadable: bool, now: datetime) -> ListedSchedule:
    state = None if stored is None else stored.state
    following = None if state is None else state.next_after(now)
    return ListedSchedule(
        task=instance.key.task,
        vo=instance.key.vo or None,
        schedule=instance.words,
        enabled=instance.rule.enabled,
        last=None if state is None else state.latest_before(now),
        next=following,
        why_not=None if following is not None else _why_not(instance, state, unreadable),
    )


def _why_not(instance: Instance, state: ScheduleState | None, unreadable: bool) -> str:
    if unreadable:
        return "its state cannot be read"
    if instance.why_not is not None:
        return instance.why_not
    if state is None:
        return "no scheduler has taken it up yet"
    if state.ended:
        return "it has ended"
    return "no scheduler is running" if state.enabled else "no scheduler has enabled it yet"
