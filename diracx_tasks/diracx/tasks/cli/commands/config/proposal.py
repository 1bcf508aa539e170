"""A text that may become the configuration: read from a file, checked, and compared with the one in force."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence
from typing import Final, TextIO

import rich_click as click

from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.cli.terminal.printable import printable
from diracx.tasks.cli.terminal.tables import Prose, print_table
from diracx.tasks.plumbing.exceptions import TaskDefinitionError, UnknownTaskError
from diracx.tasks.plumbing.overrides.changes import Change, changes_between
from diracx.tasks.plumbing.overrides.checks import problems
from diracx.tasks.plumbing.overrides.configuration import Configuration, ConfigurationError
from diracx.tasks.plumbing.overrides.follower import Revision, in_force
from diracx.tasks.plumbing.overrides.history import diff_of_texts, same_text, subject
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.registry import TaskRegistry

NOTES: Final = "# --- From `config show`; `config set` and `config diff` leave out the rest."
"""The first line of the comments that `config show` adds to a text."""


def read_text(file: TextIO) -> str:
    """Return the text of a file without the comments of `config show`.

    Raises:
        click.UsageError: The file is not UTF-8.
    """
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file.name}: {error}") from None
    kept, notes, rest = f"\n{text}".rpartition(f"\n{NOTES}")
    # What somebody wrote below them counts.
    only_comments = all(not line or line.startswith("#") for line in rest.splitlines()[1:])
    return f"{kept}\n"[1:] if notes and only_comments else text


def checked(text: str, name: str, registry: TaskRegistry) -> Configuration:
    """Return the configuration of a text that fits the installed tasks. Print a warning for what is not installed here.

    Args:
        name: The file or revision, for the error.

    Raises:
        click.UsageError: The text is invalid, or does not fit the tasks. Of several problems the last is raised, and
            the others are printed.
    """
    try:
        configuration = parse(text)
    except ConfigurationError as error:
        raise click.UsageError(f"{name}: {error}") from None
    found = problems(configuration, registry)
    for warning in found.warnings:
        note(f"warning: {warning}")
    for task in configuration.paths_of_tasks:
        try:
            registry.get(task)
        except TaskDefinitionError as error:
            note(f"warning: {error}")
        except UnknownTaskError:
            pass  # see above
    if found.errors:
        *others, last = found.errors
        for each in others:
            note(f"error: {name}: {each}")
        raise click.UsageError(f"{name}: {last}")
    return configuration


class Proposal:
    """A checked text beside the revisions that are kept.

    Args:
        revisions: The revisions that are kept, the oldest first.
    """

    def __init__(
        self, text: str, configuration: Configuration, revisions: Sequence[Revision], registry: TaskRegistry
    ) -> None:
        found = in_force(revisions)
        before, old_configuration = found or (None, Configuration())
        self.revision = 0 if before is None or before.text is None else before.number
        """The revision in force; 0 if no configuration is set."""
        self.latest = revisions[-1].number if revisions else 0
        """The revision that the text would replace; not the one in force if it is invalid."""
        self._old_text = "" if before is None or before.text is None else before.text
        self._text = text
        self.changes: list[Change] = changes_between(old_configuration, configuration, registry)

    @property
    def changes_nothing(self) -> bool:
        """Whether the same text is in force, and was written last."""
        return 0 < self.revision == self.latest and same_text(self._old_text, self._text)

    def diff(self, name: str) -> str:
        """A unified diff of the texts; empty if they are the same."""
        old_name = f"revision {self.revision}" if self.revision else "no configuration"
        return diff_of_texts(self._old_text, self._text, old_name, name)

    def print_changes(self) -> None:
        """Print the settings that change; a dash stands for a setting that is not made."""
        if not self.changes:
            say("nothing changes" if self.changes_nothing else "no setting changes")
            return
        rows = [
            [subject(each), each.vo or "-", each.setting, each.before or "-", each.after or "-"]
            for each in self.changes
        ]
        print_table(["of", "vo", "setting", Prose("before"), Prose("after")], rows)


def author() -> str:
    """The user and the host of this process, e.g. `alice@node1`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number without a name
        user = str(os.getuid())
    return printable(f"{user}@{socket.gethostname()}").replace("\n", " ")
