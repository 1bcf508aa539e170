"""`diracx-task-run config rollback`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.commands.config.proposal import Proposal, author, checked
from diracx.tasks.cli.commands.config.revisions import find, origin
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import print_document, say
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket, Revision, in_force
from diracx.tasks.plumbing.overrides.history import same_text
from diracx.tasks.plumbing.registry import TaskRegistry


def command(*, number: int | None, as_json: bool, access: Access) -> None:
    restored, proposal, revision = asyncio.run(_roll_back(access, number, installed_tasks()))
    if as_json:
        print_document({"revision": revision, "restored": restored.number, "changes": proposal.changes})
        return
    say(f"back to revision {restored.number}, written {origin(restored)}")
    proposal.print_changes()
    say(f"revision {revision} is in force in namespace {namespace_of(access).name}")


async def _roll_back(access: Access, number: int | None, registry: TaskRegistry) -> tuple[Revision, Proposal, int]:
    """Write the earlier text. Returns the revision that is restored, what changes, and the new revision."""
    namespace = namespace_of(access)
    async with operator_connection(access, "config") as connection:
        bucket = ConfigurationBucket(connection, namespace, author=author())
        async with mesh_expected(connection, namespace):
            revisions = await bucket.revisions()
        restored = _before_the_last(revisions) if number is None else find(revisions, number)
        if restored.text is None:
            raise click.UsageError(f"revision {restored.number} has no text: it was removed by hand")
        configuration = checked(restored.text, f"revision {restored.number}", registry)
        proposal = Proposal(restored.text, configuration, revisions, registry)
        if proposal.changes_nothing:
            return restored, proposal, proposal.revision
        try:
            return restored, proposal, await bucket.write(restored.text, replacing=proposal.latest)
        except RevisionConflictError:
            raise ServerError(
                "somebody wrote another configuration at the same moment, and nothing was rolled back: look at "
                "`diracx-task-run config history`, and roll back again"
            ) from None


def _before_the_last(revisions: Sequence[Revision]) -> Revision:
    if not revisions:
        raise click.UsageError("no configuration is set, so there is none to go back to")
    last = revisions[-1].text
    earlier = [each for each in revisions if each.text is not None and (last is None or not same_text(each.text, last))]
    if (found := in_force(earlier)) is None:
        raise click.UsageError("no earlier revision with another text is kept; see `diracx-task-run config history`")
    return found[0]
