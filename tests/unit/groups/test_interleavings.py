"""Whatever is lost, repeated or contended: each child has one letter, and the callback is released once."""

from __future__ import annotations

import asyncio
import random
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.groups import completions
from diracx.tasks.plumbing.groups.records import LETTERS
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.wire.ending import Status
from support.group_store import MemoryGroupStore, completions_of, ending, group_of, lost


class Faults:
    """Loses answers and wins races before and after the steps of a store, and watches its letters."""

    def __init__(self, store: MemoryGroupStore, faults: list[str]) -> None:
        self._store, self._left = store, list(faults)
        self._first: dict[int, str] = {}
        store.before, store.after = self._before, self._after

    def _before(self) -> ServerError | None:
        if not self._left or self._left[-1] == "lost after":
            return None
        fault = self._left.pop()
        if fault == "conflict":
            raise RevisionConflictError("g")
        return lost() if fault == "lost before" else None

    def _after(self) -> ServerError | None:
        for index, letter in enumerate(self._store.letters):
            if letter != ".":
                assert self._first.setdefault(index, letter) == letter, "a letter has changed"
        assert self._store.releases == ("." not in self._store.letters)
        return lost() if self._left and self._left.pop() == "lost after" else None


@settings(max_examples=150)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    faults=st.lists(st.sampled_from(["", "lost before", "lost after", "conflict"]), max_size=16),
    processes=st.integers(1, 3),
)
def test_each_child_has_one_letter_and_the_callback_is_released_once_after_the_last(
    sizes: list[int], seed: int, faults: list[str], processes: int
) -> None:
    chance = random.Random(seed)
    said: dict[int, set[str]] = {}

    async def run() -> MemoryGroupStore:
        store = group_of(*sizes)
        Faults(store, faults)
        ours = [completions_of(store) for _ in range(processes)]
        deliveries = [*range(sum(sizes)), *(chance.randrange(sum(sizes)) for _ in range(4))]
        chance.shuffle(deliveries)

        async def deliver(index: int) -> None:
            status = chance.choice(list(Status))
            said.setdefault(index, set()).add(LETTERS[status])
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            await chance.choice(ours).record(f"g:{index}", ending(status), keeps_value=True)

        async with asyncio.TaskGroup() as together:
            for index in deliveries:
                together.create_task(deliver(index))
        return store

    with (
        patch.object(completions, "FIRST_PAUSE_SECONDS", 0.0),
        patch.object(completions, "UNANSWERED_PAUSE_SECONDS", 0.0),
    ):
        store = asyncio.run(run())
    assert all(letter in said[index] for index, letter in enumerate(store.letters))
    assert store.releases == 1
    failed = [index for index, letter in enumerate(store.letters) if letter != "s"]
    assert sorted(store.stored_outcomes) == failed
