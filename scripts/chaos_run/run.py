"""One run: sets up the mesh, submits tasks, disturbs it, and waits until it is drained."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import extension
import journal
import servers
from accounts import Accountant
from cancelling import Operator
from chaos_tasks import Ticks
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.wire.names import Namespace
from disturbances import Disturbances
from killers import Killers
from ledger import Ledger
from producer import Producer
from seat import Seat
from servers import Servers
from support.queues import set_ack_wait
from support.tcp_proxy import TcpProxy

NO_LEADER = "no leader for "
"""So begins the error of a submission that found no leader for as long as it waited."""
BEGIN_SECONDS = 60.0
"""The schedule has run for the first time this long after workers and schedulers were started."""


@dataclass(frozen=True)
class Plan:
    """The parameters of a run."""

    seed: int
    tasks: int
    groups: int
    children: int
    cancel: int
    cluster: bool
    """Whether the mesh stands on three servers, and every stream has three replicas."""
    workers: int
    schedulers: int
    """With any, a task runs each second."""
    slots: int
    size: str
    ack_wait: float
    """How long a lease lasts without a heartbeat, in seconds."""
    kill_workers: int
    kill_server: int
    restart_server: int
    every: float | None
    """A server is killed at this interval, in seconds; None: at random moments."""
    stop_workers: int
    cut: int
    seconds: float
    """The time within which all tasks are submitted and every disturbance begins."""
    deadline: float
    """How long the mesh may take to drain after the last disturbance, in seconds."""
    max_late: float | None
    """How late an urgent task may begin, in seconds without those of elections; None: no limit."""


@dataclass
class Report:
    """The result of a run."""

    ledger: Ledger
    disturbances: Disturbances
    unanswered: int
    started: float
    """In seconds of CLOCK_BOOTTIME."""
    seconds: float
    drained_after: float | None
    """Seconds after the last disturbance; None if it was not drained by the deadline."""
    problems: list[str]
    """Processes that ended unexpectedly, or did not end."""

    @property
    def is_fine(self) -> bool:
        """Whether every task is accounted for and every process ended as expected."""
        return self.ledger.balanced and not self.problems and self.drained_after is not None


async def carry_out(plan: Plan, folder: Path) -> Report:
    """Carry out a plan; all processes that it starts have ended when it returns."""
    started = boottime()
    (folder / "journals").mkdir()
    extension.install(folder)
    disturbances = Disturbances(plan.ack_wait)
    async with AsyncExitStack() as stack:
        names = Namespace(extension.NAMESPACE)
        mesh = await stack.enter_async_context(servers.started(plan.cluster, names, plan.size, disturbances))
        broker = await stack.enter_async_context(
            JetStreamBroker.connect(mesh.url, name="diracx-chaos", registry=extension.registry(plan.size))
        )
        await set_ack_wait(broker.connection, broker.namespace, plan.ack_wait)
        log = stack.enter_context((folder / "submitted.log").open("w"))
        choose = random.Random(f"{plan.seed} tasks")
        producer = Producer(broker, plan.tasks, (plan.groups, plan.children), plan.seconds, choose, log)
        operator = Operator(broker, producer, plan.cancel, plan.children, random.Random(f"{plan.seed} cancelled"))
        crew = await stack.enter_async_context(working(plan, folder, mesh.url, disturbances))
        async with scheduling(plan, folder, mesh.url, disturbances, crew.problems):
            if plan.schedulers:
                await first_occurrence(folder / "journals")
            async with asyncio.TaskGroup() as group:
                group.create_task(producer.run(), name="producer")
                group.create_task(operator.run(plan.seconds), name="operator")
                group.create_task(disturb(plan, mesh, crew, disturbances), name="killers")
            await mesh.settle()
            calm = boottime()
        drained = await wait_until_drained(broker, calm + plan.deadline)
        drained_after = boottime() - calm if drained else None
        dead = {letter.id for letter in await DeadLetterReader(broker.connection, broker.namespace).all() if letter.id}
        queued = await waiting(broker) or 0
    (folder / "disturbances.log").write_text(f"{disturbances}\n")
    accountant = Accountant(
        journal.read(folder / "journals"),
        disturbances,
        dead,
        queued,
        operator.cancelled,
        calm if plan.schedulers else None,
    )
    ledger = accountant.account(producer.submitted)
    problems = crew.problems + complaints(plan, ledger, producer)
    return Report(ledger, disturbances, len(producer.errors), started, boottime() - started, drained_after, problems)


def complaints(plan: Plan, ledger: Ledger, producer: Producer) -> list[str]:
    """What a cluster promises besides, and was not so."""
    found = []
    if plan.cluster:
        # Where leaders are killed faster than they are elected, there may be none for as long as a submission waits.
        excused = NO_LEADER if plan.every is not None else ()
        found += [f"submission with an error: {line}" for line in producer.errors if not line.startswith(excused)]
        found += [f"failed for no fault of its own: {line}" for line in ledger.failures]
    worst = ledger.late_urgent.worst
    if plan.max_late is not None and worst is not None and worst.with_leaders > plan.max_late:
        found.append(
            f"{worst.task_id} began {worst.seconds:.1f} s late, {worst.with_leaders:.1f} s of them with all leaders; "
            f"{plan.max_late:g} s are allowed"
        )
    return found


@dataclass(frozen=True)
class Crew:
    """The workers of a run, and their proxies if connections are to be cut."""

    seats: list[Seat]
    proxies: list[TcpProxy]
    problems: list[str]
    """Filled when the workers have ended."""


@asynccontextmanager
async def working(plan: Plan, folder: Path, url: str, disturbances: Disturbances) -> AsyncIterator[Crew]:
    """Keep all workers running during the block; they stop gracefully at its end."""
    arguments = ["worker", "--worker-size", plan.size, "--max-concurrent-tasks", str(plan.slots), "--grace", "20"]
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(TcpProxy(url)) for _ in range(plan.workers if plan.cut else 0)]
        urls = [proxy.url for proxy in proxies] or [url] * plan.workers
        seats = [
            Seat(
                arguments,
                extension.environment(folder, own_url, plan.size),
                folder / f"worker-{place}.log",
                disturbances,
            )
            for place, own_url in enumerate(urls)
        ]
        crew = Crew(seats, proxies, [])
        async with kept(seats, crew.problems):
            yield crew


@asynccontextmanager
async def scheduling(
    plan: Plan, folder: Path, url: str, disturbances: Disturbances, problems: list[str]
) -> AsyncIterator[None]:
    """Keep the schedulers running during the block."""
    environment = extension.environment(folder, url, plan.size)
    logs = (folder / f"scheduler-{place}.log" for place in range(plan.schedulers))
    async with kept([Seat(["scheduler"], environment, log, disturbances) for log in logs], problems):
        yield


def has_run(kind: str, journals: Path) -> bool:
    """Whether a task of this kind has begun in any process."""
    return any(f" {kind} " in path.read_text("ascii") for path in journals.glob("*.journal"))


async def first_occurrence(journals: Path) -> None:
    """Wait until the schedule runs, so that each of its occurrences from then on is accounted for.

    Raises:
        RuntimeError: It did not begin in time.
    """
    deadline = boottime() + BEGIN_SECONDS
    while not await asyncio.to_thread(has_run, Ticks.__name__, journals):
        if boottime() > deadline:
            raise RuntimeError(f"the schedule has not begun after {BEGIN_SECONDS:g} s; see the logs with --keep")
        await asyncio.sleep(0.1)


@asynccontextmanager
async def kept(seats: list[Seat], problems: list[str]) -> AsyncIterator[None]:
    """Keep the processes of all seats running during the block; they stop gracefully at its end."""
    keeping = [asyncio.create_task(seat.keep(), name="seat") for seat in seats]
    try:
        yield
    finally:
        await asyncio.gather(*(seat.close(task) for seat, task in zip(seats, keeping, strict=True)))
        problems.extend(problem for seat in seats for problem in seat.problems)


async def disturb(plan: Plan, mesh: Servers, crew: Crew, disturbances: Disturbances) -> None:
    """Carry out all disturbances."""
    choose = random.Random(f"{plan.seed} killers")
    killers = Killers(mesh, crew.seats, crew.proxies, disturbances, plan.seconds, choose, plan.every)
    await killers.run(
        workers=plan.kill_workers,
        server=plan.kill_server,
        restarts=plan.restart_server,
        stops=plan.stop_workers,
        cuts=plan.cut,
    )


async def wait_until_drained(broker: JetStreamBroker, deadline: float) -> bool:
    """Wait until no task is left, delayed ones included; return False if some are left at the deadline."""
    while await waiting(broker) != 0:
        if boottime() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True


async def waiting(broker: JetStreamBroker) -> int | None:
    """How many tasks are not settled or not due yet; None if the server does not answer."""
    names = broker.namespace
    try:
        later = await broker.connection.api(
            f"STREAM.INFO.{names.later_stream}", {"subjects_filter": f"{names.name}.delayed.>"}
        )
        tasks = await broker.connection.api(f"STREAM.INFO.{names.tasks_stream}")
    except ServerError:
        return None
    delayed = (later["state"].get("subjects") or {}).values()
    return sum(map(int, delayed)) + int(tasks["state"]["messages"])
