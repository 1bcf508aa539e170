"""The extension `leaving_tasks`: its tasks leave threads and children behind, or raise what would end a program."""

from __future__ import annotations

from diracx.tasks.plumbing.enums import Size
from support.command_line import CommandLine
from support.distributions import install_extension, task_points

PACKAGE = "leaving_tasks"
CATEGORY = "unruly"
LOCK = "mutex.job.unruly"
TASKS = {Size.SMALL: "Unruly", Size.MEDIUM: "UnrulyMedium", Size.LARGE: "UnrulyLarge"}


def install(command_line: CommandLine) -> None:
    """Install the extension where processes of the command line find it."""
    names = (*TASKS.values(), "UnrulyTimed")
    install_extension(command_line.folder / "site", PACKAGE, task_points(CATEGORY, f"{PACKAGE}.tasks", names))
    command_line.environment["LEAVING_TASKS_FOLDER"] = str(command_line.folder)


def arguments(way: str, task: str = TASKS[Size.SMALL]) -> tuple[str, ...]:
    """The arguments of `call` and `submit` for a task that goes a way of the extension."""
    return f"{CATEGORY}:{task}", "--args", f'["{way}"]'
