"""`diracx-task-run config history`."""

from __future__ import annotations

import asyncio
from typing import Final

from diracx.tasks.cli.access import namespace_of
from diracx.tasks.cli.commands.config.revisions import read_revisions
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.tables import Prose, print_table
from diracx.tasks.plumbing.overrides.changes import Change
from diracx.tasks.plumbing.overrides.history import ListedRevision, list_revisions, subject

MAX_CHANGES_SHOWN: Final = 3


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
