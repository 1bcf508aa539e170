"""`diracx-task-run config show`."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator, Sequence

import msgspec
import rich_click as click

from diracx.tasks.cli.access import namespace_of
from diracx.tasks.cli.commands.config.proposal import NOTES
from diracx.tasks.cli.commands.config.revisions import find, origin, read_revisions
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document, print_file
from diracx.tasks.cli.terminal.tables import aligned
from diracx.tasks.plumbing.overrides.changes import SetLimit, limit_in_words, limits_of
from diracx.tasks.plumbing.overrides.configuration import Configuration, RateLimit
from diracx.tasks.plumbing.overrides.follower import Revision, in_force
from diracx.tasks.plumbing.overrides.history import object_in_words


class ShownConfiguration(msgspec.Struct, kw_only=True):
    """These fields, in this order, are those of `config show --json`."""

    revision: int
    text: str
    limits: list[SetLimit] | None
    """None: the text is not valid."""


def command(*, number: int | None, text_only: bool, as_json: bool, access: Access) -> None:
    revisions = asyncio.run(read_revisions(access))
    revision = find(revisions, number) if number is not None else revisions[-1] if revisions else None
    if revision is None or revision.text is None:
        if number is not None:
            raise click.UsageError(f"revision {number} has no text: it was removed by hand")
        if as_json:
            print_document(ShownConfiguration(revision=0, text="", limits=[]))
        else:
            note(f"no configuration is set in namespace {namespace_of(access).name}")
        return
    configuration = _parsed(revision, revisions)
    limits = None if configuration is None else limits_of(configuration, installed_tasks())
    if as_json:
        print_document(ShownConfiguration(revision=revision.number, text=revision.text, limits=limits))
        return
    text = revision.text if revision.text.endswith("\n") else f"{revision.text}\n"
    notes = [] if text_only else _notes(revision, revisions, limits)
    print_file(text + "".join(f"{line}\n" for line in notes))


def _parsed(revision: Revision, revisions: Sequence[Revision]) -> Configuration | None:
    """The configuration of a revision; None, with a warning, if its text is not valid."""
    try:
        return revision.parsed()
    except Exception as error:  # a text that was not checked may break the parser in any way
        todo = ""
        if revision is revisions[-1]:
            todo = "; an earlier one stays in force, and `diracx-task-run config rollback` writes it anew"
            if in_force(revisions) is None:
                todo = "; none that is kept is valid, so put a valid one with `diracx-task-run config set`"
        note(f"warning: revision {revision.number} is not valid: {error}{todo}")
        return None


def _notes(revision: Revision, revisions: Sequence[Revision], limits: Sequence[SetLimit] | None) -> Iterator[str]:
    """The comments on a text, a line each."""
    latest = in_force(revisions)
    state = "in force" if latest is not None and latest[0].number == revision.number else "not in force"
    yield NOTES
    yield f"# revision {revision.number}, {state}, written {origin(revision)}"
    if not limits:
        yield "# it is not valid" if limits is None else "# it sets no limits"
        return
    heads = ["limit on", "vo", "kind", "limit", "set at"]
    # The keys of a valid text are printable, so each limit is one line.
    cells = [_cells(limit) for limit in limits]
    lines = aligned([heads, *cells])
    # A pipe has no width.
    if sys.stdout.isatty() and max(map(len, lines)) + 2 > shutil.get_terminal_size().columns:
        lines = [line for on, vo, kind, limit, path in cells for line in (on, f"  {vo}: {kind} {limit}", f"  {path}")]
    yield from (f"# {line}" for line in lines)


def _cells(limit: SetLimit) -> list[str]:
    value = limit.limit if limit.window_seconds is None else RateLimit(limit.limit, limit.window_seconds)
    on = limit.task or object_in_words(limit.object)
    return [on, limit.vo or "all VOs", limit.kind, limit_in_words(value), limit.path]
