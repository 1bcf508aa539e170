"""The configuration: the text in force, its history, and how two revisions differ. It is not changed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import QueryParams

from diracx.tasks.dashboard.mesh import Mesh, Shared
from diracx.tasks.dashboard.pages import Page, View
from diracx.tasks.dashboard.pages.dead_letters import sequence_of
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.overrides.changes import Change, limit_in_words, limits_of
from diracx.tasks.plumbing.overrides.configuration import RateLimit
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket, Revision, in_force
from diracx.tasks.plumbing.overrides.history import (
    ListedRevision,
    diff_of_texts,
    list_revisions,
    object_in_words,
    subject,
)

MAX_CHANGES: Final = 5
"""So many changes of a revision are named in the list."""
MAX_TEXT_CHARS: Final = 200_000
_LINE_KINDS: Final = {"+": "added", "-": "removed", "@": "place"}


@dataclass(frozen=True, slots=True)
class Row:
    """One revision."""

    listed: ListedRevision
    changes: Sequence[str]
    more: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a diff."""

    kind: str
    """`added`, `removed`, `place` or `same`."""
    text: str


class ConfigurationFacts:
    """Reads the revisions of a mesh for all viewers."""

    def __init__(self, mesh: Mesh) -> None:
        self._bucket = ConfigurationBucket(mesh.connection, mesh.namespace)
        self.revisions = Shared[list[Revision] | None](self._read)
        """None: there is no bucket."""

    async def _read(self) -> list[Revision] | None:
        try:
            return await self._bucket.revisions()
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise

    def forget(self) -> None:
        """See `Facts`."""
        self.revisions.forget()

    async def end(self) -> None:
        """See `Facts`."""
        await self.revisions.end()


def change_in_words(change: Change) -> str:
    """One setting that changed, in a line."""
    vo = f" of {change.vo}" if change.vo else ""
    return f"{subject(change)} {change.setting}{vo}: {change.before or '-'} → {change.after or '-'}"


def row_of(listed: ListedRevision) -> Row:
    """One row of the history."""
    changes = listed.changes or []
    return Row(listed, [change_in_words(each) for each in changes[:MAX_CHANGES]], max(0, len(changes) - MAX_CHANGES))


def lines_of(diff: str) -> list[Line]:
    """The lines of a unified diff, without the two that name the texts."""
    return [Line(_LINE_KINDS.get(line[:1], "same"), line) for line in diff.splitlines()[2:]]


async def view(mesh: Mesh, query: QueryParams) -> View:
    """What the page shows: of which revision the text, and of which two the difference, is in the query."""
    kept = await mesh.facts(ConfigurationFacts).revisions.get()
    revisions = kept or []
    latest = in_force(revisions)
    chosen = _find(revisions, query.get("revision")) or (latest[0] if latest else None)
    before, after = _find(revisions, query.get("from")), _find(revisions, query.get("to"))
    if before is not None and after is not None:
        diff = diff_of_texts(before.text or "", after.text or "", "before", "after")
    text = "" if chosen is None or chosen.text is None else chosen.text
    return {
        "bucket": mesh.namespace.config_bucket,
        "missing": kept is None,
        "rows": [row_of(each) for each in reversed(list_revisions(revisions, mesh.registry))],
        "numbers": [each.number for each in reversed(revisions)],
        "in_force": None if latest is None else latest[0].number,
        "latest": revisions[-1].number if revisions else None,
        "shown": chosen,
        "text": text[:MAX_TEXT_CHARS],
        "cut": len(text) > MAX_TEXT_CHARS,
        "limits": _limits(mesh, chosen),
        "before": before,
        "after": after,
        "lines": lines_of(diff) if before is not None and after is not None else None,
    }


def _find(revisions: Sequence[Revision], text: str | None) -> Revision | None:
    number = sequence_of(text or "")
    return next((each for each in revisions if each.number == number), None)


def _limits(mesh: Mesh, revision: Revision | None) -> list[tuple[str, str, str, str]] | None:
    """What each limit is on, for which VO, its kind, and itself; None: the text is not valid, or there is none."""
    if revision is None or revision.text is None:
        return None
    try:
        limits = limits_of(revision.parsed(), mesh.registry)
    except Exception:  # a text that was not checked may break the parser in any way
        return None
    return [
        (
            each.task or object_in_words(each.object),
            each.vo or "all VOs",
            str(each.kind),
            limit_in_words(each.limit if each.window_seconds is None else RateLimit(each.limit, each.window_seconds)),
        )
        for each in limits
    ]


PAGE = Page(
    name="configuration",
    path="/configuration",
    title="Configuration",
    parts=("history",),
    view=view,
    query=("revision", "from", "to"),
)
