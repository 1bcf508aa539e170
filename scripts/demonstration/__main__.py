"""The demo: a server, a worker process and a scheduler of its own run 1,000 tasks, two that fail, a group with a
callback, and periodic ones.

All its processes end with it, and it removes the one temporary folder that it writes to. It exits with 0 only if the
counts at the end are as expected.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mesh_process
from counts import Count, read_counts, rows_of
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import TaskError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from group import run_census
from gubbins.tasks.lollygag import SyncOwnersTask
from gubbins.tasks.trouble import FailsAlwaysTask, FailsTwiceTask
from mesh_process import MeshProcess
from narration import Narration
from periodic import run_periodic_tasks

OWNERS = 1_000
WORKER = "diracx-task-run worker --worker-size small"
DEAD_LETTERS = "diracx-task-run dlq list"
MAKE_TABLES = "python -m diracx.db init-sql"
DATABASE = "DIRACX_DB_URL_LOLLYGAGDB"
TIMEOUT_SECONDS = 90.0
# What to try next, and the commands.
NEXT_STEPS = {
    "once: the demo's environment, and a database that stays": (
        f". {Path(sys.prefix).name}/bin/activate",
        f"export {DATABASE}=sqlite+aiosqlite:///$PWD/{Path(sys.prefix).name}/lollygag.db",
        MAKE_TABLES,
    ),
    "run one task here; no server is needed": ("diracx-task-run call lollygag:SyncOwnersTask --args '[\"alice\"]'",),
    "a server and workers, with one log; Ctrl-C ends all": ("diracx-task-run dev",),
    "meanwhile, in another terminal with the same environment: hand a task to a worker, and wait for its result": (
        "diracx-task-run submit --wait lollygag:SyncOwnersTask --args '[\"bob\"]'",
    ),
    "a task of your own: begin with a copy, or with README.md, A task in one page": (
        "cp -r tests/gubbins ../my-extension",
    ),
}


def main() -> int:
    """Run the demo and return its exit code."""
    for name in [name for name in os.environ if name.startswith("DIRACX_")]:
        del os.environ[name]
    try:
        with tempfile.TemporaryDirectory(prefix="diracx-tasks-demo-") as folder:
            return asyncio.run(demonstrate(Path(folder), Narration()))
    except (TaskError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


async def demonstrate(folder: Path, tell: Narration) -> int:
    """Run and explain all steps; return the exit code."""
    this_task = asyncio.current_task()
    assert this_task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this_task.cancel)
    os.environ[DATABASE] = f"sqlite+aiosqlite:///{folder / 'lollygag.db'}"
    tell.title(f"diracx-tasks: {OWNERS:,} tasks through NATS JetStream into a database")
    tell.step(
        "The reference extension, tests/gubbins, has tasks and a database. Its tables are created once, in SQLite:"
    )
    tell.command(MAKE_TABLES)
    await asyncio.to_thread(mesh_process.run, MAKE_TABLES)
    async with EmbeddedServer() as server, JetStreamBroker.connect(server.url, name="diracx-demo") as broker:
        os.environ["DIRACX_TASKS_NATS_URL"] = server.url
        tell.step(
            f"The demo has started its own nats-server on {server.url}. Its streams and buckets keep all state: "
            "tasks, retries, locks and dead letters."
        )
        owners = read_owners(folder / "owners.txt")
        return await submit_and_work(broker, owners, folder, tell)


async def submit_and_work(broker: JetStreamBroker, owners: list[str], folder: Path, tell: Narration) -> int:
    """Submit the tasks, run them, and count the results; return the exit code."""
    tell.step(
        f"A file lists {len(owners):,} owners. For each, a SyncOwnersTask is submitted, which stores the owner under a "
        "lock of that owner. A FailsTwiceTask, which requests two retries, and a FailsAlwaysTask, whose retries run "
        "out, are submitted too."
    )
    started = time.monotonic()
    submitted = await submit(broker, owners, folder)
    tell.lines(f"{submitted:,} tasks are stored after {time.monotonic() - started:.2f} s")
    tell.step(
        "A worker runs up to 100 of them at a time, each in a transaction that commits when the task has succeeded:"
    )
    tell.command(WORKER)
    async with MeshProcess(WORKER, folder / "worker.log") as worker:
        with tell.progress(submitted) as progress:
            seconds = await wait_until_drained(broker, worker, submitted, progress.show)
        tell.lines(f"done after {seconds:.1f} s, including the start of the worker and the delays of retries")
        counted = await run_census(broker, len(owners), tell)
        worker_exit = await worker.stop()
    tell.step("The results, read from the database and from JetStream:")
    counts = [*await read_counts(broker, owners, folder, worker_exit), counted]
    tell.table([["", "expected", "found"], *rows_of(counts)])
    tell.step("The task whose retries ran out is kept as a dead letter, with its arguments and errors:")
    tell.command(DEAD_LETTERS)
    await asyncio.to_thread(mesh_process.run, DEAD_LETTERS, shown=True)
    counts.append(await run_periodic_tasks(broker, folder, tell))
    return conclude(counts, worker, tell)


def read_owners(file: Path) -> list[str]:
    """Write the file of owners, and read the names in it."""
    file.write_text("".join(f"owner-{number:04}\n" for number in range(1, OWNERS + 1)), encoding="utf-8")
    return file.read_text(encoding="utf-8").splitlines()


async def submit(broker: JetStreamBroker, owners: list[str], folder: Path) -> int:
    """Submit a task for each owner, and the two that fail; return how many."""
    await FailsTwiceTask(str(folder / "tally")).schedule()
    await FailsAlwaysTask("there is no such owner").schedule()
    ids = await broker.schedule_many(map(SyncOwnersTask, owners))
    return len(ids) + 2


async def wait_until_drained(
    broker: JetStreamBroker, worker: MeshProcess, submitted: int, show: Callable[[int], None]
) -> float:
    """Wait until the queue is empty, and show the progress; return the seconds it took.

    Raises:
        RuntimeError: The worker ended, or the time is over. The message has the end of the log of the worker.
    """
    started = time.monotonic()
    while waiting := await messages(broker):
        show(submitted - waiting)
        if worker.ended:
            raise RuntimeError(f"the worker ended by itself\n{worker.end_of_log()}")
        if time.monotonic() - started > TIMEOUT_SECONDS:
            raise RuntimeError(f"{waiting} tasks are left after {TIMEOUT_SECONDS:.0f} s\n{worker.end_of_log()}")
        await asyncio.sleep(0.1)
    show(submitted)
    return time.monotonic() - started


async def messages(broker: JetStreamBroker) -> int:
    """How many tasks are not settled."""
    info = await broker.connection.api(f"STREAM.INFO.{broker.namespace.tasks_stream}")
    return int(info["state"]["messages"])


def conclude(counts: list[Count], worker: MeshProcess, tell: Narration) -> int:
    """Show the verdict; return 0 if all counts are as expected."""
    if all(count.as_expected for count in counts):
        tell.result(
            f"All as expected: {OWNERS:,} stored, 1 recovered, 1 kept as a dead letter, "
            f"{counts[-1].found} run by the scheduler, none lost.",
            good=True,
        )
        tell.next_steps(NEXT_STEPS)
        return 0
    tell.result("NOT as expected. The end of the worker's log:", good=False)
    tell.lines(worker.end_of_log())
    return 1


if __name__ == "__main__":
    sys.exit(main())
