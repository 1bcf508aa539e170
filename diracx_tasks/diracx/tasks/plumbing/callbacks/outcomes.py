"""The outcomes of the children of a group, for the callback that runs after them.

    @dataclasses.dataclass
    class SummariseTask(BaseTask):
        async def execute(self, outcomes: GroupOutcomes) -> None:
            counts = await outcomes.counts()
            async for outcome in outcomes:
                if outcome.status != "succeeded":
                    ...

They are read from the server when they are asked for, 1,000 children at a time, so any number fits. A callback that is
retried or replayed reads them again; they are kept for a day after the time to live of the group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from diracx.tasks.plumbing.exceptions import UnretryableError
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.plumbing.wire.ending import OutcomeError, Status

MISSING: Final = "missing"
"""The status of a child that had not ended when the time to live of its group was over."""
PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOutcome:
    """How one child of a group has ended."""

    index: int
    """Its position among the children that were spawned, from 0."""
    id: str = ""
    """The id of the task."""
    task: str = ""
    """The name of the task, `<category>:<ClassName>`."""
    status: str
    """`succeeded`, `failed`, `expired`, `cancelled`; or `missing`: it had not ended when the time was over."""
    value: Any = None
    """What JSON makes of the value that it returned, if the child keeps its result; else None."""
    error: OutcomeError | None = None
    """Why it has failed, expired or was cancelled: `type` and `message`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeCounts:
    """The number of children of a group, and of each status."""

    children: int
    succeeded: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    missing: int = 0


class OutcomesSource(Protocol):
    """Where the outcomes of one group are read."""

    async def counts(self) -> OutcomeCounts:
        """How many children have ended how."""

    async def page(self, first: int, limit: int) -> list[ChildOutcome]:
        """The outcomes of up to `limit` children, from the index `first` on; empty at the end."""


class GroupOutcomes:
    """The outcomes of the children of one group, injected by type into the `execute()` of its callback.

    Args:
        group_id: The id of the group, as `spawn_with_callback` returned it.
        source: Where they are read. Tests use `GroupOutcomes.of`.
    """

    def __init__(self, group_id: str, source: OutcomesSource) -> None:
        self.group_id = group_id
        """The id of the group, as `spawn_with_callback` returned it."""
        self._source = source

    @classmethod
    def of(cls, outcomes: Iterable[ChildOutcome], group_id: str = "group") -> GroupOutcomes:
        """These outcomes, for the tests of a callback: no server is asked.

            outcomes = GroupOutcomes.of([ChildOutcome(index=0, status="succeeded", value=3)])
            await SummariseTask().execute(outcomes)

        Args:
            outcomes: In the order of their indexes. One without an id gets that of a child of this group.
        """
        return cls(group_id, _Given([replace(each, id=each.id or f"{group_id}-{each.index}") for each in outcomes]))

    async def counts(self) -> OutcomeCounts:
        """How many children have ended how. Costs less than to look at each outcome.

        Raises:
            UnretryableError: The records of the group are gone, or cannot be read.
            ServerError: No answer, or a refusal.
        """
        return await self._source.counts()

    async def page(self, first: int = 0, limit: int = PAGE) -> list[ChildOutcome]:
        """The outcomes of up to `limit` children, from the index `first` on; empty at the end.

        Raises:
            ValueError: `first` is negative, or `limit` less than 1.
            UnretryableError, ServerError: As `counts`.
        """
        if first < 0 or limit < 1:
            raise ValueError(f"there is no page of {limit} outcomes from the index {first} on; count from 0")
        return await self._source.page(first, limit)

    async def __aiter__(self) -> AsyncIterator[ChildOutcome]:
        """All outcomes by their index, of which 1,000 are read at a time."""
        first = 0
        while page := await self.page(first):
            for outcome in page:
                yield outcome
            first += len(page)


class _Given:
    """An `OutcomesSource` of given outcomes."""

    def __init__(self, outcomes: list[ChildOutcome]) -> None:
        self._outcomes = outcomes

    async def counts(self) -> OutcomeCounts:
        return counted(len(self._outcomes), Counter(each.status for each in self._outcomes))

    async def page(self, first: int, limit: int) -> list[ChildOutcome]:
        return self._outcomes[first : first + limit]


def counted(children: int, statuses: Counter[str]) -> OutcomeCounts:
    """The counts of a group with so many children; those that have no status are missing."""
    ended = {str(status): statuses[status] for status in Status}
    return OutcomeCounts(children=children, missing=children - sum(ended.values()), **ended)


current_outcomes: ContextVar[GroupOutcomes | None] = ContextVar("diracx_tasks_current_outcomes", default=None)
"""The outcomes of the group whose callback executes in this context; None: it is the callback of no group."""


async def group_outcomes() -> GroupOutcomes:
    """Return the outcomes for the callback that executes in this context. The injector calls it for parameters of that
    type.

    Raises:
        UnretryableError: The task is the callback of no group.
    """
    if (outcomes := current_outcomes.get()) is None:
        raise UnretryableError(
            f"the task {current_task_id.get() or 'that executes here'} asks for GroupOutcomes, and is the callback of "
            "no group: give it to spawn_with_callback(), or pass GroupOutcomes.of([...]) to execute() in a test"
        )
    return outcomes
