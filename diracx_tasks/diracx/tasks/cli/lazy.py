"""A group of commands that does not load its commands.

A command imports NATS, injection and more, which takes most of a second. `--help` and shell completion need only names
and one line each, so the group holds those. It imports the module of a command when the command runs.
"""

from __future__ import annotations

import re
from collections import Counter
from importlib import import_module
from typing import Any, Final

import click

from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.terminal.help_page import help_page

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Stands for a byte of the command line that is not UTF-8."""


class LazyCommand(click.Command):
    """A placeholder for a command in a module that is not loaded yet.

    Args:
        name: The name that users type.
        location: `<module>:<attribute>` of the command.
        short_help: The line in the help of the group.
        panel: The frame in that help.
    """

    def __init__(self, name: str, location: str, short_help: str, panel: str) -> None:
        super().__init__(name=name, short_help=short_help)
        self.location = location
        self.panel = panel

    def load(self) -> click.Command:
        """Import the module and return the command."""
        module, _, attribute = self.location.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


class NotOfTheUserError(Exception):
    """Carries an error past click, which takes it for one of its own.

    click ends the process without a word at a broken pipe, that of a server too, and takes the end of any file for the
    end of what the user types.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class LazyGroup(click.Group):
    """Loads only the command that runs. Its help lists the commands in the order of their registration.

    Args:
        panel: The frame in the help of the group above.
    """

    def __init__(self, *args: Any, panel: str | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.panel = panel

    def get_help(self, ctx: click.Context) -> str:
        """Return the page that `--help` shows."""
        return help_page(self, ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options. Without any word, show the help and fail: versions of click do that in several ways."""
        if not args and not ctx.resilient_parsing:
            click.echo(self.get_help(ctx), color=ctx.color)
            ctx.exit(ExitCode.USAGE)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            NotOfTheUserError: An OSError or EOFError came out of it.
        """
        try:
            return super().invoke(ctx)
        except (OSError, EOFError) as error:
            raise NotOfTheUserError(error) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names unsorted; click would sort them."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as click does, and load it."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyCommand):
            command = command.load()
            if not ctx.resilient_parsing:  # as while a shell completes a word
                _check_words(click.Context(command, ctx, name), rest)
        return name, command, rest


def _check_words(ctx: click.Context, args: list[str]) -> None:
    """Refuse what click lets pass.

    * An option with one value that is given twice: the last one would win without a word.
    * A word that is not UTF-8: it would fail where it is sent. Names of files may be any bytes.

    Raises:
        click.UsageError: There is one, or the command does not take these arguments.
    """
    values, _, order = ctx.command.make_parser(ctx).parse_args(list(args))
    for parameter, count in Counter(order).items():
        if count > 1 and isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag):
            raise click.UsageError(f"{parameter.opts[0]} is given {count} times", ctx)
        if parameter.metavar not in _FILES and not _is_utf_8(values.get(str(parameter.name))):
            raise click.BadParameter("it is not UTF-8", ctx, parameter)


_FILES: Final = ("FILE", "DIR", "FOLDER")
"""What the help calls the name of a file or folder."""


def _is_utf_8(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_utf_8, value))
    return not isinstance(value, str) or not _SURROGATE.search(value)
