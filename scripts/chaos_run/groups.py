"""Checks the groups of a run: each callback runs once, after the last child, and is given the outcome of each child."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from chaos_tasks import Follows
from diracx.tasks.plumbing.groups.records import callback_id, child_id, group_id
from journal import Execution, Group, Journal


def group_of(parent: str) -> str:
    """The id of the group that a parent of this id spawns."""
    return group_id(parent, 0)


def members(group: str, children: int) -> Iterator[str]:
    """The ids of the children of a group, and of its callback."""
    yield from (child_id(group, index) for index in range(children))
    yield callback_id(group)


def problems(journal: Journal) -> list[str]:
    """A line for each group that has not ended as promised."""
    return [
        f"group {group}: {problem}"
        for group, spawned in journal.groups.items()
        for problem in _wrong(journal, group, spawned)
    ]


def _wrong(journal: Journal, group: str, spawned: Group) -> Iterator[str]:
    callback = [run for run in journal.executions.get(callback_id(group), []) if run.kind == Follows.__name__]
    if not spawned.followed:
        yield f"its callback was given no outcomes; it began {len(callback)} times"
        return
    for counts in set(spawned.followed):
        found = Counter(
            {status: int(count) for status, _, count in (each.partition("=") for each in counts.split(","))}
        )
        if found.total() != spawned.children or found["missing"]:
            yield f"its callback was given {counts} of {spawned.children} children"
    ended = max(_first_end(journal.executions.get(child_id(group, index), [])) for index in range(spawned.children))
    if callback[0].begun < ended:
        yield f"its callback began at {callback[0].begun:.3f}, before the last child had ended at {ended:.3f}"


def _first_end(executions: list[Execution]) -> float:
    """When a child had ended for the first time. For one that was cancelled without an end: its first known step, since
    a worker that was stopped takes its own long after the group has ended."""
    final = (run.ended for run in executions if run.end == "done" or (run.end == "failed" and run.retry_at is None))
    return min(final, default=min((run.ended for run in executions if run.end is not None), default=0.0))
