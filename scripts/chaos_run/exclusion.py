"""Checks the locks of a run: under one key, executions follow one another, and their fencing tokens rise."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator

from disturbances import Disturbances
from journal import Execution, Journal


def held(journal: Journal) -> dict[str, list[Execution]]:
    """The executions that held a mutex, by its key, in the order of their beginning."""
    found: defaultdict[str, list[Execution]] = defaultdict(list)
    for run in itertools.chain.from_iterable(journal.executions.values()):
        if run.lock is not None:
            found[run.lock].append(run)
    for runs in found.values():
        runs.sort(key=lambda run: run.begun)
    return dict(found)


def problems(journal: Journal, disturbances: Disturbances) -> list[str]:
    """A line for each pair of executions that held a mutex at once, and for each token that does not rise."""
    return [problem for key, runs in held(journal).items() for problem in _wrong(key, runs, disturbances)]


def _wrong(key: str, runs: list[Execution], disturbances: Disturbances) -> Iterator[str]:
    for before, after in itertools.pairwise(runs):
        if after.token <= before.token:
            yield f"lock {key}: {_who(after)} has token {after.token}, and {_who(before)} had {before.token} before it"
        ended = _left(before, disturbances)
        if after.begun < ended and not _slept_through(before, after, disturbances):
            yield f"lock {key}: {_who(after)} began while {_who(before)} held it, until {ended:.3f}"


def _left(run: Execution, disturbances: Disturbances) -> float:
    """When an execution no longer did anything: its end, or the death of its process."""
    kill = disturbances.worker_kills.get(run.pid)
    return min(run.ended, kill.ended if kill is not None else math.inf)


def _slept_through(before: Execution, after: Execution, disturbances: Disturbances) -> bool:
    """Whether the earlier one was stopped as its lock went over, and has learned of it: it must not count as done."""
    return before.end != "done" and disturbances.stop_within(before.pid, after.begun, after.begun)


def _who(run: Execution) -> str:
    return f"{run.kind} {run.task_id} in worker {run.pid} from {run.begun:.3f}"
