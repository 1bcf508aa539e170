"""The list of revisions: what each one changed, and which one is in force."""

from __future__ import annotations

from datetime import UTC, datetime

from diracx.tasks.plumbing.overrides.follower import Revision
from diracx.tasks.plumbing.overrides.history import ListedRevision, diff_of_texts, list_revisions
from diracx.tasks.plumbing.registry import TaskRegistry

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def listed(*texts: str | None, first: int = 1) -> list[ListedRevision]:
    revisions = [Revision(first + place, text, NOON, None) for place, text in enumerate(texts)]
    return list_revisions(revisions, TaskRegistry())


def changed(revision: ListedRevision) -> list[tuple[str | None, str | None]] | None:
    return None if revision.changes is None else [(each.before, each.after) for each in revision.changes]


def test_each_is_compared_with_the_one_that_was_in_force_before_it() -> None:
    rows = listed("vos: [a]", "vos: 7", "vos: [b]", None, "vos: [b]")
    assert [changed(each) for each in rows] == [[(None, "a")], None, [("a", "b")], [("b", None)], [(None, "b")]]
    assert [each.same_as for each in rows] == [None, None, None, None, 3]
    assert [each.in_force for each in rows] == [False, False, False, False, True]
    invalid, removed = (each.problem or "" for each in rows if each.problem)
    assert invalid.startswith("it is not valid: vos: ")
    assert removed == "it was removed by hand"


def test_what_the_oldest_changed_is_known_of_the_first_revision_only() -> None:
    assert [changed(each) for each in listed("vos: 7", "vos: [a]")] == [None, [(None, "a")]]
    assert [changed(each) for each in listed("vos: 7", "vos: [a]", "vos: [b]", first=5)] == [None, None, [("a", "b")]]


def test_the_latest_valid_one_is_in_force() -> None:
    assert [each.in_force for each in listed("vos: [a]", "vos: [b]", "vos: 7", "[")] == [False, True, False, False]
    assert [each.in_force for each in listed("vos: [a]", None)] == [False, True]
    assert [each.in_force for each in listed("vos: 7")] == [False]
    assert listed() == []


def test_the_difference_of_two_texts_names_both() -> None:
    assert diff_of_texts("a: 1\n", "a: 2", "revision 1", "revision 2").splitlines() == [
        "--- revision 1",
        "+++ revision 2",
        "@@ -1 +1 @@",
        "-a: 1",
        "+a: 2",
    ]
    assert diff_of_texts("a: 1\n", "a: 1", "revision 1", "revision 2") == ""
