"""`diracx-task-run config diff`."""

from __future__ import annotations

import asyncio
from typing import TextIO

from diracx.tasks.cli.commands.config.proposal import Proposal, checked, read_text
from diracx.tasks.cli.commands.config.revisions import read_revisions
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import print_document, print_text


def command(*, file: TextIO, as_json: bool, access: Access) -> None:
    registry, text = installed_tasks(), read_text(file)
    configuration = checked(text, file.name, registry)
    proposal = Proposal(text, configuration, asyncio.run(read_revisions(access)), registry)
    diff = proposal.diff(file.name)
    if as_json:
        print_document({"revision": proposal.revision, "diff": diff, "changes": proposal.changes})
        return
    if diff:
        print_text(diff)
    proposal.print_changes()
