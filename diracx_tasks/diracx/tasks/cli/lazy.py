"""A group of commands that does not load its commands.

A command imports NATS, injection and more, which takes most of a second. `--help` and shell completion need only names
and one line each, so the group holds those. It imports the module of a command when the command runs.
"""

from __future__ import annotations

from importlib import import_module

import rich_click as click


class LazyCommand(click.RichCommand):
    """A placeholder for a command in a module that is not loaded yet.

    Args:
        name: The name that users type.
        location: `<module>:<attribute>` of the command.
        short_help: The line in the help of the group.
        panel: The frame in that help.
    """

    def __init__(self, name: str, location: str, short_help: str, panel: str) -> None:
        super().__init__(name=name, short_help=short_help, panel=panel)
        self.location = location

    def load(self) -> click.Command:
        """Import the module and return the command."""
        module, _, attribute = self.location.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


class LazyGroup(click.RichGroup):
    """Loads only the command that runs. Its help lists the commands in the order of their registration."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names unsorted; click would sort them."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as click does, and load it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest
