"""`diracx-task-run config show`."""

from __future__ import annotations

import asyncio
import sys

import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.options import Access, json_option, log_option, server_options
from diracx.tasks.cli.terminal.output import print_document
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket


@click.command("show")
@json_option
@log_option("warning")
@server_options
def command(*, as_json: bool, access: Access) -> None:
    """Show the text of the configuration that is in force.

    --json adds the revision: {"revision", "text"}. Revision 0 means that no configuration is set.
    """
    text, revision = asyncio.run(_read(access))
    if as_json:
        print_document({"revision": revision, "text": text})
    elif not revision:
        print(f"no configuration is set in namespace {namespace_of(access).name}", file=sys.stderr)
    else:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


async def _read(access: Access) -> tuple[str, int]:
    namespace = namespace_of(access)
    async with operator_connection(access, "config") as connection:
        with mesh_expected(namespace):
            return await ConfigurationBucket(connection, namespace).read()
