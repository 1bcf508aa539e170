"""The extension `long_tasks`, whose tasks outlast their leases: installed, submitted and ended."""

from __future__ import annotations

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.publish import publish
from support.command_line import CommandLine, OnTheServer
from support.distributions import install_extension, task_points
from support.processes import LoggedProcess

PACKAGE = "long_tasks"
CATEGORY = "long"
TASKS = ("BlocksThread", "Long", "LongOnThread", "LongAndLarge", "BlocksLoop")


def install(command_line: CommandLine) -> None:
    """Install the extension where processes of the command line find it."""
    install_extension(command_line.folder / "site", PACKAGE, task_points(CATEGORY, f"{PACKAGE}.tasks", TASKS))
    command_line.environment["LONG_TASKS_FOLDER"] = str(command_line.folder)


async def submit(
    on_the_server: OnTheServer, task: str, size: Size, body: bytes = b"{}", identity: str = "an-id"
) -> None:
    """Publish a task of the extension."""
    subject = on_the_server.names.task_subject(Priority.NORMAL, size)
    await publish(on_the_server.connection, subject, body, {"Task-Name": f"{CATEGORY}:{task}", "Task-Id": identity})


def end_task(command_line: CommandLine, worker: LoggedProcess, error: str = "") -> None:
    """Let the task `Long` in that worker end: successfully, or with a ValueError of this text."""
    # The rename is atomic: a task that sees the file sees all of it.
    draft = command_line.folder / f"{worker.pid}.draft"
    draft.write_text(error)
    draft.rename(command_line.folder / str(worker.pid))
