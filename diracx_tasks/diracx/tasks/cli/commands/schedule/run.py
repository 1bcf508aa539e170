"""`diracx-task-run schedule run`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import rich_click as click

from diracx.tasks.cli.access import namespace_of, producer
from diracx.tasks.cli.installed import installed_task
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.plumbing.base_task import BaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError, ServerError, near_names
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import instances_of
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.wire.names import Namespace


def command(*, task: str, vo: str | None, entry: str | None, access: Access) -> None:
    registry, registered = installed_task(task)
    _check(registered, vo)
    say(asyncio.run(_submit(access, registry, registered, vo or "", entry)))


def _check(registered: RegisteredTask, vo: str | None) -> None:
    if not registered.periodic:
        raise click.UsageError(f"{registered.name} has no schedule; hand it to the workers with `submit`")
    per_vo = issubclass(registered.task_class, PeriodicVoAwareBaseTask)
    if per_vo and not vo:
        raise click.UsageError(f"{registered.name} runs per VO; say for which with --vo")
    if vo is not None and not vo.isprintable():
        raise click.BadParameter(f"the name {vo!r} has a character that cannot be printed", param_hint=["--vo"])
    if vo is not None and not per_vo:
        raise click.UsageError(f"{registered.name} does not run per VO; leave --vo out")


async def _submit(
    access: Access, registry: TaskRegistry, registered: RegisteredTask, vo: str, entry: str | None
) -> str:
    namespace = namespace_of(access)
    async with producer(access, registry, "schedule") as broker:
        follower = ConfigurationFollower(broker.connection, namespace)
        unchecked: str | None = None
        try:
            await follower.refresh()
        except ServerError as error:
            # Whoever may only submit cannot read it.
            if entry is not None:
                raise
            unchecked = f"VO and entries were not checked, the configuration cannot be read: {error}"
        else:
            known = await _known_vos(broker.connection, namespace, follower.current) if vo else ()
            if known is None:
                unchecked = f"{vo!r} was not checked, this mesh knows no VO; name them by `vos:` in the configuration"
            elif vo:
                _check_vo(registered, vo, known)
        identity = await broker.submit(_task(registered, follower.current, vo, entry), name=registered.name)
    if unchecked is not None:
        note(f"warning: {unchecked}")
    return identity


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
        raise click.UsageError(f"{registered.name} does not run for the VO {vo!r}; {hint(vo, known)}")


def _task(registered: RegisteredTask, configuration: Configuration, vo: str, entry: str | None) -> BaseTask:
    """The task of one schedule.

    Raises:
        click.UsageError: There is no such entry, or one has to be chosen.
        MalformedTaskError: Its arguments do not fit its fields.
    """
    instances = instances_of([registered], configuration, [vo] if vo else [])
    entries = {key.entry: instance for key, instance in instances.items()}
    instance = entries.get(entry or "")
    if instance is None:
        names = [name for name in entries if name]
        if entry:
            raise click.UsageError(f"{registered.name} has no entry {entry!r}; {hint(entry, names)}")
        raise click.UsageError(f"{registered.name} has entries; say which with --entry: {', '.join(names)}")
    if not instance.body:
        raise MalformedTaskError(f"{registered.name}: {instance.disabled_reason}")
    return registered.codec.decode(instance.body)


def hint(name: str, known: Sequence[str]) -> str:
    """Name the known one that a mistyped name may mean, or else all."""
    if near := near_names(name, known):
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(known)}" if known else "there is none"
