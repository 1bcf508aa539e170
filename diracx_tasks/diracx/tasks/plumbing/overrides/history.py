"""The kept revisions of the configuration: what each of them changed, which one is in force, how two of them differ."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import datetime

import msgspec

from diracx.tasks.plumbing.overrides.changes import Change, changes_between
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.follower import Revision, in_force
from diracx.tasks.plumbing.registry import TaskRegistry


class ListedRevision(msgspec.Struct, kw_only=True):
    """One revision. These fields, in this order, are those of `config history --json`."""

    revision: int
    written: datetime
    author: str | None
    """The user and the host, as the process that wrote it said; None: it did not."""
    in_force: bool
    same_as: int | None
    """The latest earlier revision with the same text; None: none is kept."""
    problem: str | None
    """Why it is not valid, or has no text; None: it is in order."""
    changes: list[Change] | None
    """The settings that it changed; None: it is not valid, or what it replaced is not kept."""


def list_revisions(revisions: Sequence[Revision], registry: TaskRegistry) -> list[ListedRevision]:
    """Compare each revision with the one that was in force before it.

    Args:
        revisions: The revisions that are kept, the oldest first.
        registry: The installed tasks.
    """
    latest = in_force(revisions)
    found: list[ListedRevision] = []
    # Before revision 1 there was none.
    before = Configuration() if revisions and revisions[0].number == 1 else None
    for place, revision in enumerate(revisions):
        problem = None if revision.text is not None else "it was removed by hand"
        configuration: Configuration | None = None
        try:
            configuration = revision.parsed()
        except Exception as error:  # a text that was not checked may break the parser in any way
            problem = f"it is not valid: {error}"
        changes = None
        if before is not None and configuration is not None:
            changes = changes_between(before, configuration, registry)
        found.append(
            ListedRevision(
                revision=revision.number,
                written=revision.written,
                author=revision.author,
                in_force=latest is not None and latest[0] is revision,
                same_as=_same_as(revision, revisions[:place]),
                problem=problem,
                changes=changes,
            )
        )
        before = configuration or before
    return found


def _same_as(revision: Revision, earlier: Sequence[Revision]) -> int | None:
    text = revision.text
    same = (
        each.number for each in earlier if text is not None and each.text is not None and same_text(each.text, text)
    )
    return max(same, default=None)


def same_text(one: str, other: str) -> bool:
    """Whether two texts are the same, but for line breaks at the end."""
    return one.rstrip("\n") == other.rstrip("\n")


def diff_of_texts(before: str, after: str, name_before: str, name_after: str) -> str:
    """A unified diff of two texts; empty if they are the same."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name_before, name_after, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def subject(change: Change) -> str:
    """The task or the object that a change is about."""
    return change.task or object_in_words(change.object) or "the mesh"


def object_in_words(place: tuple[str, ...] | None) -> str:
    """E.g. `transformation 12345`."""
    return " ".join(place or ())
