"""`diracx-task-run config set`."""

from __future__ import annotations

import asyncio
import sys
from typing import TextIO

import rich_click as click

from diracx.tasks.cli.access import connection_name, namespace_of, settings_of
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access, log_option, server_options
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.overrides.configuration import ConfigurationError
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.overrides.overrides import parse
from diracx.tasks.plumbing.registry import TaskRegistry


@click.command("set")
@click.argument(
    "file",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    envvar="DIRACX_TASKS_CONFIG",
    help="The YAML file; `-` reads standard input.",
)
@log_option("warning")
@server_options
def command(*, file: TextIO, access: Access) -> None:
    """Put a YAML file in force. Workers and schedulers follow it within 2 seconds.

    \b
    vos: [lhcb, atlas]
    tasks:
      lollygag:OwnerReportTask:
        schedule: {cron: "0 7 * * *", timezone: Europe/Zurich}
        rate_limit: {limit: 10, window_seconds: 60}
        concurrency_limit: 5
        vos:
          atlas: {enabled: false}

    A schedule is one of cron, interval (seconds) and rrule. A file with an unknown key or a bad value is refused, and
    the current configuration stays in force.
    """
    try:
        text = file.read()
        known = {task.name for task in installed_tasks()}
        for name in sorted(parse(text).tasks.keys() - known):
            print(f"warning: tasks.{name}: no task of that name is installed here", file=sys.stderr)
    except (ConfigurationError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file.name}: {error}") from None
    revision = asyncio.run(_set(access, text))
    print(f"revision {revision} is in force in namespace {namespace_of(access).name}")


async def _set(access: Access, text: str) -> int:
    async with JetStreamBroker.connect(
        settings=settings_of(access),
        namespace=namespace_of(access).name,
        registry=TaskRegistry(),
        name=connection_name("operator", "config"),
        role="operator",
        bind=False,
    ) as broker:
        return await ConfigurationBucket(broker.connection, broker.namespace).write(text)
