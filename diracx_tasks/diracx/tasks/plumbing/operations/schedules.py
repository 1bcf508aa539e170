"""The schedules of a mesh as an operator sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.exceptions import ServerError, TaskError, near_names
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.stream_messages import read_message
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import Instance, instances_of, removed_instances
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.reconciler import StoredState
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, ScheduleState
from diracx.tasks.plumbing.scheduler.store import MAX_PARALLEL_REQUESTS, JetStreamScheduleStore
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.occurrence import RunRecord, run_key
from diracx.tasks.plumbing.wire.times import in_utc

NO_VO: Final = "no VO is known: give --vo NAME, or `vos:` in the configuration"

_NOT_KNOWN: Final[Mapping[ScheduleKey, RunRecord]] = MappingProxyType({})
_run_record: Final = msgspec.json.Decoder(RunRecord)


class NoSuchScheduleError(TaskError):
    """A task has no schedule, or none for that VO or with that entry, or one of several has to be chosen."""


class ListedSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule. These fields, in this order, are those of `schedule list --json`."""

    task: str
    vo: str | None
    schedule: str
    """The schedule in words."""
    enabled: bool
    last: datetime | None
    """The latest occurrence that has fallen due, and was handed over to the workers, run or not; None if there was
    none."""
    next: datetime | None
    """The next occurrence that the server holds; None if it holds none."""
    why_not: str | None
    """Why there is no next occurrence; None if there is one."""
    entry: str | None
    """The name of the entry; None if it has none, or if there are no entries."""
    args: dict[str, Any]
    """The arguments of the entry; empty if it has none."""
    ran: RunRecord | None = None
    """How the latest run has ended; None if that is not known: none has ended within a year, or its worker knows no
    such record."""


class Schedules(NamedTuple):
    """The schedules of a mesh."""

    listed: list[ListedSchedule]
    without_vo: list[ListedSchedule]
    """The tasks that run once for each VO, where no VO is known: a row each that says so."""
    rules: list[Rule]
    """When each of the listed runs."""
    runs_problem: str | None = None
    """Why it is not known how the latest runs have ended; None: that was read."""


class ScheduleReader:
    """Reads the schedules of the tasks that are installed here, any number of times.

    Args:
        registry: The installed tasks.
    """

    def __init__(self, connection: Connection, namespace: Namespace, registry: TaskRegistry) -> None:
        self._connection = connection
        self._namespace = namespace
        self._registry = registry
        self._configuration = ConfigurationFollower(connection, namespace)
        self._store = JetStreamScheduleStore(connection, namespace)
        self._vos = VirtualOrganisations()

    async def read(self, named: Sequence[str] = ()) -> Schedules:
        """Read them once.

        Args:
            named: The VOs that are meant; empty: those in force.

        Raises:
            NoSuchScheduleError: A named VO is neither one of those in force nor one that has schedules.
            ApiError: The namespace does not exist, or the server refused.
            ServerUnavailableError: No answer.
        """
        await self._configuration.refresh()
        states = await self._store.read_all()
        configuration = self._configuration.current
        await self._vos.read(configuration)
        vos = self._vos.current(configuration) or ()
        if named:
            # The scheduler may have been given others than those in force; it has written states of them.
            check_vos(named, {*vos, *(key.vo for key in states if key.vo)})
            vos = tuple(named)
        now = self._connection.clock.now()
        runs: Mapping[ScheduleKey, RunRecord] = _NOT_KNOWN
        problem: str | None = None
        try:
            runs = await read_runs(self._connection, self._namespace, list(states))
        except ServerError as error:  # the rest is known all the same
            problem = str(error)
        instances = _instances(self._registry, configuration, vos, states)
        unreadable = self._store.unreadable
        listed = [
            _listed(each, states.get(each.key), unreadable(each.key), now, runs.get(each.key)) for each in instances
        ]
        without_vo = [] if vos else _without_vo(self._registry, {each.task for each in listed})
        return Schedules(listed, without_vo, [each.rule for each in instances], problem)


def check_vos(named: Sequence[str], known: Collection[str]) -> None:
    """Check VOs against those that are known; if none is, any may be meant.

    Raises:
        NoSuchScheduleError: One of them is not known.
    """
    for vo in named:
        if known and vo not in known:
            raise NoSuchScheduleError(f"no VO {vo!r} is known here; {hint(vo, sorted(known))}")


def hint(name: str, known: Sequence[str]) -> str:
    """Name the known one that a mistyped name may mean, or else all."""
    if near := near_names(name, known):
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(known)}" if known else "there is none"


def list_schedules(
    registry: TaskRegistry,
    configuration: Configuration,
    vos: tuple[str, ...],
    states: dict[ScheduleKey, StoredState],
    unreadable: Callable[[ScheduleKey], bool],
    now: datetime,
    ran: Mapping[ScheduleKey, RunRecord] = _NOT_KNOWN,
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
        ran: How the latest runs have ended, as `read_runs` gives it.
    """
    instances = _instances(registry, configuration, vos, states)
    found = [_listed(each, states.get(each.key), unreadable(each.key), now, ran.get(each.key)) for each in instances]
    if not vos:
        found += _without_vo(registry, {each.task for each in found})
    return sorted(found, key=lambda each: each.task)


def _instances(
    registry: TaskRegistry, configuration: Configuration, vos: tuple[str, ...], states: dict[ScheduleKey, StoredState]
) -> list[Instance]:
    scheduled = (key.vo for key, stored in states.items() if key.vo and stored.state.enabled)
    instances = instances_of(registry, configuration, {*vos, *scheduled})
    enabled = (key for key, stored in states.items() if stored.state.enabled)
    for removed in removed_instances(registry, enabled, instances, vos_known=True):
        instances[removed.key] = removed
    return [instances[key] for key in sorted(instances)]


async def read_runs(
    connection: Connection, namespace: Namespace, keys: Sequence[ScheduleKey]
) -> dict[ScheduleKey, RunRecord]:
    """How the latest runs of these schedules have ended. One that is not known, or cannot be read, is left out.

    Raises:
        ServerError: They cannot be read at all.
    """
    found: dict[ScheduleKey, RunRecord] = {}
    bucket = namespace.results_bucket
    for start in range(0, len(keys), MAX_PARALLEL_REQUESTS):
        page = keys[start : start + MAX_PARALLEL_REQUESTS]
        subjects = [f"$KV.{bucket}.{run_key(str(key))}" for key in page]
        reads = (read_message(connection, f"KV_{bucket}", last_by_subj=subject) for subject in subjects)
        for key, message in zip(page, await asyncio.gather(*reads), strict=True):
            if message is not None and message.body:
                with suppress(msgspec.MsgspecError):  # of a later version, or written by hand
                    found[key] = _run_record.decode(message.body)
    return found


def _without_vo(registry: TaskRegistry, listed: Collection[str]) -> list[ListedSchedule]:
    """The tasks that run once for each VO, where no VO is known."""
    return [
        ListedSchedule(
            task=task.name,
            vo=None,
            schedule=str(task.task_class.default_schedule),
            enabled=task.task_class._enabled,
            last=None,
            next=None,
            why_not=NO_VO,
            entry=None,
            args={},
        )
        for task in registry
        if issubclass(task.task_class, PeriodicVoAwareBaseTask) and task.name not in listed
    ]


def _listed(
    instance: Instance, stored: StoredState | None, unreadable: bool, now: datetime, ran: RunRecord | None
) -> ListedSchedule:
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
        ran=ran,
    )


def occurrences(rule: Rule, following: datetime, until: datetime, most: int) -> list[datetime]:
    """The occurrences of a schedule up to a time, ascending. It calls the author's code.

    Args:
        following: The next occurrence that the server holds, which is the first of them.
        most: How many at the most: one with so many may have more.
    """
    found = [following] if following <= until else []
    # One that answers from now cannot be asked about the future.
    while found and len(found) < most and not rule.from_now:
        try:
            later = in_utc(rule.schedule.next_occurrence(found[-1]))
        except Exception:  # it has ended, or the author's code raises anything
            break
        if not found[-1] < later <= until:
            break
        found.append(later)
    return found


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
