"""`diracx-task-run config diff`."""

from __future__ import annotations

import asyncio
from typing import TextIO

from diracx.tasks.cli.commands.config.proposal import Proposal, checked, file_argument, read_text
from diracx.tasks.cli.commands.config.revisions import read_revisions
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access, declared, json_option, log_option, server_options
from diracx.tasks.cli.terminal.output import print_document, print_text


@declared("diff")
@file_argument
@json_option
@log_option("warning")
@server_options
def command(*, file: TextIO, as_json: bool, access: Access) -> None:
    """Show what a YAML file would change, and for which tasks. Nothing is stored.

    First come the lines of the text that differ, then the settings that change in effect: of installed tasks, of VOs
    with settings of their own, and of locked objects. The exit code is 0 with changes and without, and 2 if the file
    would be refused. --json: {"revision", "diff", "changes"}, with the revision in force.

    \b
    diracx-task-run config diff mesh.yaml
    diracx-task-run config show --revision 5 | diracx-task-run config diff -
    """
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
