"""The journals of all worker processes, read back as executions."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class Execution:
    """One execution of one task."""

    task_id: str
    kind: str
    number: int
    pid: int
    begun: float
    end: Literal["done", "failed", "cancelled"] | None = None
    ended: float = math.inf
    attempt: int = -1
    """Of a failed execution: the `attempt` that its policy was given."""
    retry_at: float | None = None
    """Of a failed execution: the time of the retry; None if there is none."""
    lock: str | None = None
    """The key of its mutex; None: it holds none, or had not begun its work."""
    token: int = 0
    """The fencing token of its mutex."""


@dataclass
class Group:
    """One group of tasks with a callback."""

    children: int
    followed: list[str] = field(default_factory=list)
    """The counts of outcomes that its callback was given, once for each of its executions."""


@dataclass
class Journal:
    """The journals of all processes together."""

    executions: dict[str, list[Execution]]
    """By task id, in the order of their beginning."""
    children: dict[str, list[str]]
    """The ids of submitted children, by the id of their parent."""
    groups: dict[str, Group] = field(default_factory=dict)
    """The groups that were spawned, by their ids."""


def read(folder: Path) -> Journal:
    """Read all journals in a folder."""
    executions: defaultdict[str, list[Execution]] = defaultdict(list)
    children: defaultdict[str, list[str]] = defaultdict(list)
    groups: dict[str, Group] = {}
    followed: defaultdict[str, list[str]] = defaultdict(list)
    for path in folder.glob("*.journal"):
        by_number: dict[str, Execution] = {}
        for line in path.read_text(encoding="ascii").splitlines():
            event, task_id, kind, number, pid, execution, at, *more = line.split(" ")
            if event == "begin":
                by_number[execution] = Execution(task_id, kind, int(number), int(pid), float(at))
                executions[task_id].append(by_number[execution])
            elif event == "locked":
                by_number[execution].lock, by_number[execution].token = more[0], int(more[1])
            elif event == "submitted":
                children[task_id].append(more[0])
            elif event == "spawned":
                groups[more[0]] = Group(int(more[1]))
            elif event == "followed":
                followed[more[0]].append(more[1])
            else:
                _end(by_number[execution], event, float(at), more)
    for runs in executions.values():
        runs.sort(key=lambda run: run.begun)
    for group, counts in followed.items():
        groups.setdefault(group, Group(0)).followed = counts
    return Journal(dict(executions), dict(children), groups)


def _end(execution: Execution, event: str, at: float, more: list[str]) -> None:
    if event not in ("done", "failed", "cancelled"):
        raise ValueError(f"the journal of process {execution.pid} has an unknown event {event!r}")
    if execution.end not in (None, "cancelled") or (execution.end, event) == ("cancelled", "cancelled"):
        raise ValueError(f"the journal of process {execution.pid} ends an execution of {execution.task_id} twice")
    execution.end = event  # type: ignore[assignment]
    execution.ended = at
    if event == "failed":
        execution.attempt = int(more[0])
        execution.retry_at = None if more[1] == "-" else float(more[1])
