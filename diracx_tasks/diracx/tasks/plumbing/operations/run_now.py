"""One more run of a periodic task, now: an ordinary task with the arguments of one of its schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError, ServerError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.operations.schedules import NoSuchScheduleError, hint
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import RegisteredTask
from diracx.tasks.plumbing.scheduler.instances import instances_of
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.wire.names import Namespace


class Started(NamedTuple):
    """A task that was submitted."""

    id: str
    unchecked: str | None
    """Why the VO or the entry was not checked; None: it was."""


async def run_now(broker: JetStreamBroker, registered: RegisteredTask, vo: str | None, entry: str | None) -> Started:
    """Submit a periodic task as its schedule would, save that it never expires.

    Args:
        vo: The VO of a VO-aware task; None of any other.
        entry: The name of one of its entries; None if it has none.

    Raises:
        NoSuchScheduleError: There is no such schedule, or one has to be chosen.
        MalformedTaskError: The arguments of the entry do not fit the fields of the task.
        SendTaskError: The server did not store it.
        ServerError: The entry is given, and the configuration cannot be read.
    """
    check_choice(registered, vo)
    follower = ConfigurationFollower(broker.connection, broker.namespace)
    unchecked: str | None = None
    try:
        await follower.refresh()
    except ServerError as error:
        # Whoever may only submit cannot read it.
        if entry is not None:
            raise
        unchecked = f"VO and entries were not checked, the configuration cannot be read: {error}"
    else:
        known = await _known_vos(broker.connection, broker.namespace, follower.current) if vo else ()
        if known is None:
            unchecked = f"{vo!r} was not checked, this mesh knows no VO; name them by `vos:` in the configuration"
        elif vo:
            _check_vo(registered, vo, known)
    task = _task(registered, follower.current, vo or "", entry)
    return Started(await broker.submit(task, name=registered.name), unchecked)


def check_choice(registered: RegisteredTask, vo: str | None) -> None:
    """Check what can be known without a server.

    Raises:
        NoSuchScheduleError: The task has no schedule, or it needs a VO or has none.
    """
    per_vo = issubclass(registered.task_class, PeriodicVoAwareBaseTask)
    if not registered.periodic:
        raise NoSuchScheduleError(f"{registered.name} has no schedule; hand it to the workers with `submit`")
    if per_vo and not vo:
        raise NoSuchScheduleError(f"{registered.name} runs per VO; say for which with --vo")
    if vo is not None and not vo.isprintable():
        raise NoSuchScheduleError(f"'--vo': the name {vo!r} has a character that cannot be printed")
    if vo is not None and not per_vo:
        raise NoSuchScheduleError(f"{registered.name} does not run per VO; leave --vo out")


async def _known_vos(
    connection: Connection, namespace: Namespace, configuration: Configuration
) -> Sequence[str] | None:
    """The VOs in force, or else those that have schedules; None: not known."""
    virtual_organisations = VirtualOrganisations()
    await virtual_organisations.read(configuration)
    known = virtual_organisations.current(configuration)
    if known or configuration.vos is not None:
        return known
    try:
        states = await JetStreamScheduleStore(connection, namespace).read_all()
    except ServerError:
        return None
    return sorted({key.vo for key in states if key.vo}) or None


def _check_vo(registered: RegisteredTask, vo: str, known: Sequence[str]) -> None:
    if vo not in known:
        raise NoSuchScheduleError(f"{registered.name} does not run for the VO {vo!r}; {hint(vo, known)}")


def _task(registered: RegisteredTask, configuration: Configuration, vo: str, entry: str | None) -> BaseTask:
    """The task of one schedule.

    Raises:
        NoSuchScheduleError: There is no such entry, or one has to be chosen.
        MalformedTaskError: Its arguments do not fit its fields.
    """
    instances = instances_of([registered], configuration, [vo] if vo else [])
    entries = {key.entry: instance for key, instance in instances.items()}
    instance = entries.get(entry or "")
    if instance is None:
        names = [name for name in entries if name]
        if entry:
            raise NoSuchScheduleError(f"{registered.name} has no entry {entry!r}; {hint(entry, names)}")
        raise NoSuchScheduleError(f"{registered.name} has entries; say which with --entry: {', '.join(names)}")
    if not instance.body:
        raise MalformedTaskError(f"{registered.name}: {instance.disabled_reason}")
    return registered.codec.decode(instance.body)
