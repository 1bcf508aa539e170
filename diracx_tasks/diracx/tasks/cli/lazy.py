"""A group that names its commands without loading them.

A command brings NATS, injection and more, which takes the better part of a second. `--help` and shell completion need
names and one line each, so those stand in the group; the module with the command is imported when the command is run.
"""

from __future__ import annotations

from importlib import import_module

import rich_click as click


class LazyCommand(click.RichCommand):
    """Stands for the object `command` of a module.

    Args:
        name: As it is typed.
        module: Where the command is.
        short_help: Its line in the help of the group.
        panel: The frame in that help where it stands.
    """

    def __init__(self, name: str, module: str, short_help: str, panel: str) -> None:
        super().__init__(name=name, short_help=short_help, panel=panel)
        self.module = module

    def load(self) -> click.Command:
        """Import the module and return its command."""
        command: click.Command = import_module(self.module).command
        return command


class LazyGroup(click.RichGroup):
    """Loads the command that is run, and no other; its help keeps the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names; click would sort them."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to run, as click does, and load it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest
