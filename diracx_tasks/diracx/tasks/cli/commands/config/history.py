"""`diracx-task-run config history`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from diracx.tasks.cli.access import namespace_of
from diracx.tasks.cli.commands.config.proposal import same_text, subject
from diracx.tasks.cli.commands.config.revisions import read_revisions
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.tables import Prose, print_table
from diracx.tasks.plumbing.overrides.changes import Change, changes_between
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.follower import Revision, in_force
from diracx.tasks.plumbing.registry import TaskRegistry

MAX_CHANGES_SHOWN: Final = 3


class ListedRevision(msgspec.Struct, kw_only=True):
    """One revision. These fields, in this order, are those of `config history --json`."""

    revision: int
    written: datetime
    author: str | None
    """The user and the host, as the process that wrote it said; None: it did not."""
    in_force: bool
    same_as: int | None
    """The latest earlier revision with the same text; None: none is kept."""
    problem: str | None
    """Why it is not valid, or has no text; None: it is in order."""
    changes: list[Change] | None
    """The settings that it changed; None: it is not valid, or what it replaced is not kept."""


def command(*, as_json: bool, access: Access) -> None:
    listed = list_revisions(asyncio.run(read_revisions(access)), installed_tasks())
    if as_json:
        print_document(listed)
    elif listed:
        rows = [
            [each.revision, each.written, each.author, "yes" if each.in_force else "", _summary(each)]
            for each in listed
        ]
        print_table(["revision", "written", "author", "in force", Prose("changes")], rows)
    else:
        note(f"no configuration was ever set in namespace {namespace_of(access).name}")


def list_revisions(revisions: Sequence[Revision], registry: TaskRegistry) -> list[ListedRevision]:
    """Compare each revision with the one that was in force before it.

    Args:
        revisions: The revisions that are kept, the oldest first.
        registry: The installed tasks.
    """
    latest = in_force(revisions)
    found: list[ListedRevision] = []
    # Before revision 1 there was none.
    before = Configuration() if revisions and revisions[0].number == 1 else None
    for place, revision in enumerate(revisions):
        problem = None if revision.text is not None else "it was removed by hand"
        configuration: Configuration | None = None
        try:
            configuration = revision.parsed()
        except Exception as error:  # a text that was not checked may break the parser in any way
            problem = f"it is not valid: {error}"
        changes = None
        if before is not None and configuration is not None:
            changes = changes_between(before, configuration, registry)
        found.append(
            ListedRevision(
                revision=revision.number,
                written=revision.written,
                author=revision.author,
                in_force=latest is not None and latest[0] is revision,
                same_as=_same_as(revision, revisions[:place]),
                problem=problem,
                changes=changes,
            )
        )
        before = configuration or before
    return found


def _same_as(revision: Revision, earlier: Sequence[Revision]) -> int | None:
    text = revision.text
    same = (
        each.number for each in earlier if text is not None and each.text is not None and same_text(each.text, text)
    )
    return max(same, default=None)


def _summary(listed: ListedRevision) -> str:
    """One revision in one line."""
    if listed.problem is not None:
        return listed.problem
    same = "" if listed.same_as is None else f"as revision {listed.same_as}: "
    if listed.changes is None:
        return f"{same}the revision before is not kept"
    changes = [_short(each) for each in listed.changes[:MAX_CHANGES_SHOWN]]
    if (more := len(listed.changes) - len(changes)) > 0:
        changes.append(f"and {more} more")
    return same + ("; ".join(changes) or "no setting")


def _short(change: Change) -> str:
    vo = f" of {change.vo}" if change.vo else ""
    return f"{subject(change)} {change.setting}{vo}: {change.before or '-'} -> {change.after or '-'}"
