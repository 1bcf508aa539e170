"""The schedules of a mesh as an operator sees them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import Instance, instances_of, removed_instances
from diracx.tasks.plumbing.scheduler.reconciler import StoredState
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, ScheduleState


class ListedSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule. These fields, in this order, are those of `schedule list --json`."""

    task: str
    vo: str | None
    schedule: str
    """The schedule in words."""
    enabled: bool
    last: datetime | None
    """The latest occurrence that has fallen due; None if there was none."""
    next: datetime | None
    """The next occurrence that the server holds; None if it holds none."""
    why_not: str | None
    """Why there is no next occurrence; None if there is one."""
    entry: str | None
    """The name of the entry; None if it has none, or if there are no entries."""
    args: dict[str, Any]
    """The arguments of the entry; empty if it has none."""


def list_schedules(
    registry: TaskRegistry,
    configuration: Configuration,
    vos: tuple[str, ...],
    states: dict[ScheduleKey, StoredState],
    unreadable: Callable[[ScheduleKey], bool],
    now: datetime,
) -> list[ListedSchedule]:
    """The schedules of the installed tasks, sorted by task, VO and entry.

    An entry that the configuration has no more is listed until a scheduler has ended its schedule.

    Args:
        registry: The installed tasks.
        configuration: The configuration in force.
        vos: The VOs in force. VOs whose schedules are enabled in a stored state are listed, too.
        states: The stored states.
        unreadable: Whether the stored state of a schedule cannot be read.
        now: The current time, aware.
    """
    scheduled = (key.vo for key, stored in states.items() if key.vo and stored.state.enabled)
    instances = instances_of(registry, configuration, {*vos, *scheduled})
    enabled = (key for key, stored in states.items() if stored.state.enabled)
    for removed in removed_instances(registry, enabled, instances, vos_known=True):
        instances[removed.key] = removed
    return [_listed(instances[key], states.get(key), unreadable(key), now) for key in sorted(instances)]


def _listed(instance: Instance, stored: StoredState | None, unreadable: bool, now: datetime) -> ListedSchedule:
    state = None if stored is None else stored.state
    following = None if state is None else state.next_after(now)
    return ListedSchedule(
        task=instance.key.task,
        vo=instance.key.vo or None,
        schedule=instance.rule.words,
        enabled=instance.rule.enabled,
        last=None if state is None else state.latest_before(now),
        next=following,
        why_not=None if following is not None else _why_not(instance, state, unreadable),
        entry=instance.key.entry or None,
        args=instance.arguments,
    )


def _why_not(instance: Instance, state: ScheduleState | None, unreadable: bool) -> str:
    if unreadable:
        return "its state cannot be read"
    if instance.disabled_reason is not None:
        return instance.disabled_reason
    if state is None:
        return "no scheduler has taken it up yet"
    if state.ended:
        return "it has ended"
    return "no scheduler is running" if state.enabled else "no scheduler has enabled it yet"
