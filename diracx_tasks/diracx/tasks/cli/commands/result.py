"""`diracx-task-run result`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.access import connection_name, mesh_expected, namespace_of, settings_of
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.results import report
from diracx.tasks.plumbing.exceptions import ResultIsMissingError, shown
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.results.record import ResultRecord
from diracx.tasks.plumbing.results.waiting import ResultReader


def command(*, id: str, as_json: bool, access: Access) -> int:  # noqa: A002 - the name that the help shows
    if not id:
        raise click.BadParameter("it is empty", param_hint=["ID"])
    try:
        record = asyncio.run(_read(access, id))
    except ResultIsMissingError as error:
        note(f"error: {error}; see `diracx-task-run task {shown(id)}`")
        return ExitCode.TASK_FAILED
    if as_json:
        print_document(record)
    code = report(record, silent=as_json)
    return ExitCode.TASK_FAILED if record.problem is not None else code


async def _read(access: Access, task_id: str) -> ResultRecord:
    namespace = namespace_of(access)
    # The inbox of producers, since these read results, too; operators and observers may hear it.
    connecting = Connection.open(
        settings_of(access),
        name=connection_name("producer", "result"),
        inbox_prefix=namespace.inbox_prefix("producer"),
        other_api_prefixes=(namespace.imported_api,),
    )
    async with connecting as connection, mesh_expected(connection, namespace):
        return await ResultReader(connection, namespace).wait(task_id, timeout=0)
