"""`diracx-task-run config set`."""

from __future__ import annotations

import asyncio
from typing import TextIO

from diracx.tasks.cli.access import connection_name, namespace_of, settings_of
from diracx.tasks.cli.commands.config.proposal import Proposal, author, checked, file_argument, read_text
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access, declared, json_option, log_option, server_options
from diracx.tasks.cli.terminal.output import print_document, say
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.registry import TaskRegistry


@declared("set")
@file_argument
@json_option
@log_option("warning")
@server_options
def command(*, file: TextIO, as_json: bool, access: Access) -> None:
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

    A schedule is one of cron, interval (seconds) and rrule. A file with an unknown key or a bad value, or that does not
    fit an installed task, is refused, and the current configuration stays in force. {} removes all settings.

    Prints the settings that change, as `config diff` does, then the revision. A file with the text that is in force
    makes no new revision. --json: {"revision", "changes"}.

    \b
    diracx-task-run config set mesh.yaml
    diracx-task-run config show | sed 's/limit: 5/limit: 6/' | diracx-task-run config set -
    """
    registry, text = installed_tasks(), read_text(file)
    configuration = checked(text, file.name, registry)
    proposal, revision = asyncio.run(_set(access, text, configuration, registry))
    if as_json:
        print_document({"revision": revision, "changes": proposal.changes})
        return
    proposal.print_changes()
    say(f"revision {revision} is in force in namespace {namespace_of(access).name}")


async def _set(access: Access, text: str, configuration: Configuration, registry: TaskRegistry) -> tuple[Proposal, int]:
    """Store the text, and return it beside what it replaced, and its revision."""
    async with JetStreamBroker.connect(
        settings=settings_of(access),
        namespace=namespace_of(access).name,
        registry=TaskRegistry(),
        name=connection_name("operator", "config"),
        role="operator",
        bind=False,
    ) as broker:
        bucket = ConfigurationBucket(broker.connection, broker.namespace, author=author())
        while True:
            proposal = Proposal(text, configuration, await bucket.revisions(), registry)
            if proposal.changes_nothing:
                return proposal, proposal.revision
            try:
                return proposal, await bucket.write(text, replacing=proposal.latest)
            except RevisionConflictError:
                continue  # somebody else has just written: the later text counts, and replaces that one
