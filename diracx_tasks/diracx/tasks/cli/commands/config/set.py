"""`diracx-task-run config set`."""

from __future__ import annotations

import asyncio
from typing import TextIO

from diracx.tasks.cli.access import connection_name, namespace_of, settings_of
from diracx.tasks.cli.commands.config.proposal import Proposal, author, checked, read_text
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import print_document, say
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.registry import TaskRegistry


def command(*, file: TextIO, as_json: bool, access: Access) -> None:
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
