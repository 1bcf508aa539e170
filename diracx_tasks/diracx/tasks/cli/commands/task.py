"""`diracx-task-run task`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.details import json_text, labels_text, print_details, time_text
from diracx.tasks.cli.terminal.output import print_document
from diracx.tasks.plumbing.operations.past_deliveries import past_events
from diracx.tasks.plumbing.operations.task_document import GroupState, State, TaskDocument
from diracx.tasks.plumbing.operations.task_lookup import TaskLookup
from diracx.tasks.plumbing.wire.times import readable_time


def command(*, id: str, as_json: bool, access: Access) -> int:  # noqa: A002 - the name that the help shows
    if not id:
        raise click.BadParameter("it is empty", param_hint=["ID"])
    document = asyncio.run(_find(access, id))
    if as_json:
        print_document(document)
    else:
        print_details({name: text for name, text in _fields(document).items() if text}, document.errors)
    return ExitCode.TASK_FAILED if document.state is State.UNKNOWN else ExitCode.DONE


async def _find(access: Access, task_id: str) -> TaskDocument:
    namespace = namespace_of(access)
    registry = installed_tasks()
    async with operator_connection(access, "task") as connection, mesh_expected(connection, namespace):
        return await TaskLookup(connection, namespace, registry).find(task_id)


def _fields(document: TaskDocument) -> dict[str, str | None]:
    """The fields that have a value, in the order in which an operator asks for them."""
    message = None if document.sequence is None else f"{document.queue}, message {document.sequence}"
    child = None if document.index is None else f"{document.group}, child {document.index}"
    return {
        "id": document.id,
        "state": str(document.state),
        "why": "\n".join(document.why),
        "task": document.task,
        "queue": message,
        "submitted": time_text(document.submitted),
        "due": time_text(document.due),
        "expires": time_text(document.expires),
        "replayed": time_text(document.replayed),
        "attempts": str(document.attempts) if document.attempts else None,
        "past": "\n".join(f"{readable_time(event.at)} {event.text}" for event in past_events(document)),
        "deliveries": str(document.deliveries) if document.deliveries > 1 else None,
        "parent": document.parent,
        "group": child,
        "runs after": document.callback_of,
        "groups": "\n".join(map(_group, document.groups)),
        "result": _result(document),
        "trace": document.trace_id,
        "labels": labels_text(document.labels),
        "args": json_text(document.args),
    }


def _group(group: GroupState) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in group.counts.items() if count)
    return f"{group.id}: {group.children} children ({counts or 'expired'}), then {group.callback} {group.callback_id}"


def _result(document: TaskDocument) -> str | None:
    result = document.result
    if result is None or result.status != "succeeded":
        return document.status
    return result.problem or json_text(result.value) or "null"
