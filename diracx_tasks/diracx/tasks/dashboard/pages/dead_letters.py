"""The dead letters: grouped by task and error, the latest of them, and one with its errors."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import QueryParams

from diracx.tasks.dashboard import words
from diracx.tasks.dashboard.actions import RefusedError
from diracx.tasks.dashboard.letters import FILTER, PERIODS, DeadLetterFacts, filter_of, values_of
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages import Page, View

MAX_GROUPS: Final = 50


def sequence_of(text: str) -> int | None:
    """A sequence that somebody typed or sent; None: it is none."""
    return int(text) if text.isascii() and text.isdecimal() and 0 < len(text) < 20 else None


async def list_view(mesh: Mesh, query: QueryParams) -> View:
    """What the list shows. The rows and groups are those of the filter."""
    facts = mesh.facts(DeadLetterFacts)
    filter_ = filter_of(query, mesh.connection.clock.now())
    before = sequence_of(query.get("before", ""))
    size = await facts.size()
    listing, grouping = await facts.listing(filter_, before), await facts.grouping(filter_)
    typed = {name: query.get(name) for name in FILTER if query.get(name)}
    since = query.get("since", "")
    return {
        "stream": mesh.namespace.dead_letters_stream,
        "size": size,
        "in_words": str(filter_),
        "filter": typed,
        "chosen": values_of(filter_) or [("everything", "1")],
        "periods": PERIODS if since in PERIODS else {**PERIODS, since: f"since {since}"},
        "grouping": grouping,
        "groups": grouping.groups[:MAX_GROUPS],
        "listing": listing,
        "before": before,
        "seen": 0 if size is None else size.last,
    }


async def one_view(mesh: Mesh, query: QueryParams) -> View:
    """One dead letter, the latest error first.

    Raises:
        RefusedError: `seq` is no sequence.
    """
    if not (seq := sequence_of(query.get("seq", ""))):  # there is none of number 0
        raise RefusedError("a dead letter is named by its sequence, a number")
    letter = await mesh.facts(DeadLetterFacts).reader.get(seq)
    if letter is None:
        return {"seq": seq, "letter": None}
    return {
        "seq": seq,
        "letter": letter,
        "args": words.pretty(letter.args),
        "labels": words.pretty(letter.labels),
        "errors": list(reversed(letter.errors)),
    }


PAGE = Page(
    name="dead_letters",
    path="/dead-letters",
    title="Dead letters",
    parts=("count", "groups"),
    view=list_view,
    query=(*FILTER, "before"),
)
ONE_PAGE = Page(
    name="dead_letter",
    path="/dead-letter",
    title="Dead letter",
    parts=("letter",),
    view=one_view,
    query=("seq",),
    in_navigation=False,
    within="dead_letters",
    every=10.0,
)
