"""The revisions of the configuration that are kept, for the commands that show or restore one."""

from __future__ import annotations

from collections.abc import Sequence

import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.printable import one_line
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket, Revision
from diracx.tasks.plumbing.wire.times import readable_time


async def read_revisions(access: Access) -> list[Revision]:
    """Return the revisions that are kept, the oldest first.

    Raises:
        ServerError: They cannot be read.
    """
    namespace = namespace_of(access)
    async with operator_connection(access, "config") as connection, mesh_expected(connection, namespace):
        return await ConfigurationBucket(connection, namespace).revisions()


def find(revisions: Sequence[Revision], number: int) -> Revision:
    """Return one revision.

    Raises:
        click.UsageError: It is not kept.
    """
    for revision in revisions:
        if revision.number == number:
            return revision
    kept = f"{revisions[0].number} to {revisions[-1].number}" if revisions else "none"
    raise click.UsageError(f"revision {number} is not kept; kept: {kept}")


def origin(revision: Revision) -> str:
    """When a revision was written, and by whom if that is known."""
    return f"{readable_time(revision.written)}{f' by {one_line(revision.author)}' if revision.author else ''}"
