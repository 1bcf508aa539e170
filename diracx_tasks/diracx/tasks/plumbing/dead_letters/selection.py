"""The dead letters that an operator means: by sequence, or by task, reason, error and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.wire.times import readable_time

CLOCKS_APART: Final = timedelta(days=1)
"""The stream is read back so far beyond `since`: `died` is the time of a worker, whose clock may be wrong."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters an operator means; a part that is None lets all of them through."""

    task: str | None = None
    reason: str | None = None
    """A part of the reason; upper and lower case are the same."""
    since: datetime | None = None
    error: str | None = None
    """The type of the last error, see `DeadLetter.error_type`."""

    def __bool__(self) -> bool:
        return (self.task, self.reason, self.since, self.error) != (None, None, None, None)

    def __str__(self) -> str:
        of_task = "" if self.task is None else f" of {self.task}"
        because = "" if self.reason is None else f" with the reason {self.reason!r}"
        since = "" if self.since is None else f" since {readable_time(self.since)}"
        error = "" if self.error is None else f" that ended with {self.error}"
        return f"{of_task}{error}{because}{since}"

    @property
    def stored_since(self) -> datetime | None:
        """Dead letters that were stored earlier need not be read; None: all have to be."""
        if self.since is None or self.since.year == 1:
            return None
        return self.since - CLOCKS_APART

    def selects(self, letter: DeadLetter) -> bool:
        """Whether the operator means this one."""
        return (
            (self.task is None or letter.task == self.task)
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
            and (self.since is None or letter.died >= self.since)
            and (self.error is None or letter.error_type == self.error)
        )


class Selection:
    """The dead letters that an operator names.

    Args:
        seqs: Their sequences; empty: those that the filter lets through.
        filter_: Not looked at if sequences are given. An empty one lets all of them through.
    """

    def __init__(self, seqs: Sequence[int], filter_: Filter) -> None:
        self.seqs = dict.fromkeys(seqs)
        self._filter = filter_
        self._missing = dict.fromkeys(seqs)

    def selects(self, letter: DeadLetter) -> bool:
        """Whether the operator names this one, which is then not missing."""
        if not self.seqs:
            return self._filter.selects(letter)
        if letter.seq not in self.seqs:
            return False
        self._missing.pop(letter.seq, None)
        return True

    @property
    def missing(self) -> list[int]:
        """The named sequences that `selects` has not come across."""
        return list(self._missing)
