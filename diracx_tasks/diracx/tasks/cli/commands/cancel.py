"""`diracx-task-run cancel`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.commands.config.proposal import author
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document, say
from diracx.tasks.cli.terminal.printable import one_line
from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.operations.cancellation import Answer, Canceller, RunningTask, Target
from diracx.tasks.plumbing.wire.names import check_task_name
from diracx.tasks.plumbing.wire.times import readable_time


def command(
    *, ids: tuple[str, ...], tasks: tuple[str, ...], groups: tuple[str, ...], as_json: bool, access: Access
) -> int:
    answers = asyncio.run(_cancel(access, _targets(ids, tasks, groups)))
    if as_json:
        print_document(answers)
    else:
        for answer in answers:
            for line in lines(answer):
                (say if answer.done else note)(line)
    return ExitCode.DONE if all(answer.done for answer in answers) else ExitCode.TASK_FAILED


def _targets(ids: tuple[str, ...], tasks: tuple[str, ...], groups: tuple[str, ...]) -> list[Target]:
    for hint, keys in (("ID", ids), ("--group", groups)):
        if "" in keys:
            raise click.BadParameter("it is empty", param_hint=[hint])
    for name in tasks:
        try:
            check_task_name(name)
        except ValueError as error:
            raise click.BadParameter(f"{name!r}: {error}", param_hint=["--task"]) from None
    named = ((Kind.ID, ids), (Kind.TASK, tasks), (Kind.GROUP, groups))
    if not (targets := [Target(kind, key) for kind, keys in named for key in keys]):
        raise click.UsageError("nothing is named; give ids of tasks, --task or --group")
    return targets


async def _cancel(access: Access, targets: list[Target]) -> list[Answer]:
    namespace = namespace_of(access)
    async with operator_connection(access, "cancel") as connection, mesh_expected(connection, namespace):
        return await Canceller(connection, namespace, by=author()).cancel(targets)


def lines(answer: Answer) -> list[str]:
    """What the operator reads of one target: ids may contain line breaks."""
    return [one_line(line) for line in (_of_one(answer) if answer.kind is Kind.ID else _of_many(answer))]


def _of_one(answer: Answer) -> list[str]:
    key = shown(answer.key)
    said = [_of_running(each) for each in answer.running]
    if answer.waiting and answer.until is not None:
        said.append(f"cancelled {key}: it waits for its retry, and is dropped at {readable_time(answer.until)}")
    elif answer.waiting:
        said.append(f"cancelled {key}: it waits in its queue, and is dropped when its turn comes{_unless(answer)}")
    elif answer.withdrawn:
        said.append(f"cancelled {key}: it was to run later, and is withdrawn")
    elif answer.cancelled:
        said.append(f"cancelled {key}: it has ended")
    elif answer.finished:
        said.append(f"{key} was not cancelled: it was running, and has finished all the same")
    for seq in answer.dead_letters:
        said.append(
            f"{key} was not cancelled: it is dead letter {seq}, which stays; see `diracx-task-run dlq show {seq}`"
        )
    if not said:
        said.append(
            f"no message of {key} is in a queue or runs: it has ended, was never submitted, or waits for its group to "
            "store it. If it comes yet, it is dropped. A group and its children are cancelled by --group"
        )
    return said


def _of_many(answer: Answer) -> list[str]:
    name = f"{answer.kind} {shown(answer.key)}"
    if not answer.found:
        return [f"{name}: nothing waits or runs that was submitted until {readable_time(answer.at)}"]
    parts = (
        (answer.withdrawn, "withdrawn, which were to run later"),
        (answer.waiting, f"waiting, and dropped when their turn comes{_unless(answer)}"),
        (answer.cancelled, "cancelled by their workers"),
        (answer.finished, "finished all the same"),
        (len(answer.running), "asked, and still running"),
    )
    summary = f"{name}: " + "; ".join(f"{count} {text}" for count, text in parts if count)
    return [summary, *(_of_running(each) for each in answer.running)]


def _of_running(task: RunningTask) -> str:
    since = f"runs on {task.worker} since {readable_time(task.since)}"
    if task.blocked_at is not None:
        return f"{task.task} {task.id} {since}: asked; it does not yield, {task.blocked_at}"
    return f"{task.task} {task.id} {since}: asked; it has not ended yet"


def _unless(answer: Answer) -> str:
    return f", unless it runs on {' or '.join(answer.silent)}, which does not answer" if answer.silent else ""
