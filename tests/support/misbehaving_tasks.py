"""The extension `misbehaving_tasks` at work: tasks that misbehave beside tasks that do not, and what became of each."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.distributions import install_extension, task_points
from support.misbehaving_cases import SUCCEEDS, Case
from support.processes import LoggedProcess

PACKAGE = "misbehaving_tasks"
CATEGORY = "misbehaving"
TASKS = (
    *("Unruly", "Timed", "TimedOnce", "Untold", "Guarded", "RetriedYesterday", "LocksRaise", "LocksAreNone"),
    *("ClosingRaises", "OpeningRaises", "PolicyFails", "FailsAtLength", "LeavesThread", "Neighbour", "Blocks"),
    *("BlocksFor", "Periodic", "Scripted", "ScriptedTimed", "ScriptedGuarded", "ScriptedUntold"),
)
SETTLED_SECONDS: Final = 30.0
NEIGHBOURS: Final = 4
LOG_LINES: Final = 30


def install(command_line: CommandLine, url: str) -> None:
    """Install the extension where processes of the command line find it, and let them find the server."""
    install_extension(command_line.folder / "site", PACKAGE, task_points(CATEGORY, f"{PACKAGE}.tasks", TASKS))
    command_line.environment |= {"MISBEHAVING_FOLDER": str(command_line.folder), "DIRACX_TASKS_NATS_URL": url}


@dataclass
class Workplace:
    """Where the tasks of one size are submitted, and what became of them is read."""

    command_line: CommandLine
    on_the_server: OnTheServer
    size: Size
    sequences: dict[str, int] = field(default_factory=dict)
    """Of the submitted tasks, by id."""

    def __post_init__(self) -> None:
        self.command_line.environment["MISBEHAVING_SIZE"] = self.size.value

    def worker(self, *options: str) -> LoggedProcess:
        """Start a worker of this size; the fixture of the command line kills it if the test does not stop it."""
        return LoggedProcess(
            self.command_line, "worker", "--worker-size", self.size.value, *options, MISBEHAVING_SIZE=self.size.value
        )

    async def submit(self, task: str, task_id: str, body: Any = None) -> int:
        """Publish a task; return its sequence."""
        subject = self.on_the_server.names.task_subject(Priority.NORMAL, self.size)
        encoded = body if isinstance(body, bytes) else msgspec.json.encode(body or {})
        headers = {"Task-Name": f"{CATEGORY}:{task}", "Task-Id": task_id}
        self.sequences[task_id] = (await publish(self.on_the_server.connection, subject, encoded, headers)).seq
        return self.sequences[task_id]

    async def neighbours(self, *names: str) -> None:
        """Submit neighbours, and wait until all of them run. They end once the file of their first word exists."""
        for name in names:
            await self.submit("Neighbour", name, {"name": name})
        for name in names:
            await self.command_line.wait_for_line(f"begin {name}")

    async def settled(self, remaining: int = 0, seconds: float = SETTLED_SECONDS) -> None:
        """Wait until all tasks but so many are settled."""

        async def few_enough() -> bool:
            return await self.on_the_server.waiting() <= remaining

        await self.wait_for(few_enough, f"no more than {remaining} tasks are left", seconds)

    async def wait_for(self, fact: Callable[[], Awaitable[bool]], description: str, seconds: float) -> None:
        """Wait until a fact is true; an error names the tasks that are not settled, and quotes the logs."""
        try:
            await wait_until(fact, description=description, timeout=seconds)
        except AssertionError as error:
            left = ", ".join(await self._left())
            raise AssertionError(f"{error}; these are: {left}; the workers said:\n{self._said()}") from None

    def _said(self) -> str:
        """The latest lines of each worker."""
        logs = sorted(self.command_line.folder.glob("worker-*.log"))
        return "\n".join(line for log in logs for line in log.read_text().splitlines()[-LOG_LINES:])

    async def _left(self) -> list[str]:
        stream, left = self.on_the_server.names.tasks_stream, []
        for task_id, sequence in self.sequences.items():
            with contextlib.suppress(ServerError):
                await self.on_the_server.connection.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
                left.append(task_id)
        return left

    async def record(self, task_id: str) -> AttemptRecord | None:
        """The attempt record of a task; None if there is none."""
        bucket = Bucket(self.on_the_server.connection, self.on_the_server.names.attempts_bucket)
        entry = await bucket.read(str(self.sequences[task_id]))
        return None if entry is None else msgspec.json.decode(entry.value, type=AttemptRecord)

    def dead_letters(self) -> dict[str, Any]:
        """The dead letters, by the id of the task."""
        return {letter["id"]: letter for letter in self.command_line.json("dlq", "list")}


def judge(case: Case, letter: dict[str, Any] | None, journal: Sequence[str]) -> str | None:
    """What is wrong with the end of a case; None if it is right.

    Args:
        letter: Its dead letter, as `dlq list` shows it.
        journal: The lines of all executions.
    """
    begun, ended = (journal.count(f"{event} {case.id}") for event in ("begin", "end"))
    if letter is None:
        if SUCCEEDS not in case.ends:
            return f"has no dead letter: begun {begun} times, ended {ended} times"
        return None if (begun, ended) == (1, 1) else f"begun {begun} times, ended {ended} times"
    types = [error["type"] for error in letter["errors"]]
    if not set(types) <= set(case.ends):
        return f"failed with {types}, and may end with {case.ends}: {letter['reason']}"
    if len(types) != case.failures or letter["attempts"] != case.failures:
        return f"failed {letter['attempts']} times with {types} and not {case.failures} times: {letter['reason']}"
    if begun not in (0, case.failures):  # 0: it failed before or in its dependencies
        return f"failed {case.failures} times and was begun {begun} times"
    return None if all(error["traceback"] for error in letter["errors"]) else "has lost a traceback"


async def charges(workplace: Workplace, task_ids: Iterable[str]) -> dict[str, AttemptRecord]:
    """The records of tasks in flight that count a failure or a crash: such a task was charged for what others did."""
    found = {}
    for task_id in task_ids:
        record = await workplace.record(task_id)
        # An execution that goes on is one that has begun and not ended.
        if record is not None and (record.failed or record.crashes > 1):
            found[task_id] = record
    return found


class Seat:
    """Keeps one worker running: a process that has ended is replaced, as a supervisor would."""

    def __init__(self, workplace: Workplace, *options: str) -> None:
        self._workplace = workplace
        self._options = options
        self.ended: list[tuple[int, LoggedProcess]] = []
        """Exit codes and processes of the workers that ended by themselves, in order."""
        self._earlier_log = ""
        self.worker = workplace.worker(*options)

    def tend(self) -> None:
        """Replace the worker if it has ended by itself."""
        if (code := self.worker.process.poll()) is not None:
            self.ended.append((code, self.worker))
            self.replace()

    def replace(self) -> None:
        """Start another worker where the last one has ended."""
        self._earlier_log += self.worker.log
        self.worker = self._workplace.worker(*self._options)

    @property
    def log(self) -> str:
        """Of all its workers."""
        return self._earlier_log + self.worker.log

    async def settled(self, remaining: int = 0, seconds: float = SETTLED_SECONDS) -> None:
        """Wait until all tasks but so many are settled, and keep a worker running meanwhile."""

        async def few_enough() -> bool:
            self.tend()
            return await self._workplace.on_the_server.waiting() <= remaining

        await self._workplace.wait_for(few_enough, f"no more than {remaining} tasks are left", seconds)
