"""`diracx-task-run scheduler` and the commands that control it, as processes, with the reference extension."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.distributions import install_metadata
from support.paths import CONSOLE_SCRIPT, GUBBINS
from support.scheduling import Arrived, SchedulingMesh, more_than_once

CLEANUP = "lollygag:OwnerCleanupTask"
REPORT = "lollygag:OwnerReportTask"


class Programs:
    """Runs the console script in one environment; what it started is ended with the test."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, *arguments: str, stdin: str | None = None, code: int = 0) -> str:
        """Run to the end; return both outputs."""
        done = subprocess.run(
            [CONSOLE_SCRIPT, *arguments],
            env=self._environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, done.stdout
        return done.stdout.strip()

    def each(self, *commands: tuple[str, ...]) -> list[subprocess.CompletedProcess[str]]:
        """Run commands in one process, since the import of the extension takes a second."""
        return CommandLine(self._environment, self.folder).each(commands)

    def leave_extension_out(self) -> None:
        del self._environment["PYTHONPATH"]

    def make_tables(self) -> None:
        """As whoever installs DiracX does, once."""
        init = [sys.executable, "-m", "diracx.db", "init-sql"]
        subprocess.run(init, env=self._environment, check=True, capture_output=True, timeout=60)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"{len(self._started)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen([CONSOLE_SCRIPT, *arguments], env=self._environment, stdout=file, stderr=file)
        self._started.append(process)
        return process

    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def end_all(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def programs_for(folder: Path, url: str, namespace: str) -> Iterator[Programs]:
    site = folder / "site"
    project = tomllib.loads((GUBBINS / "pyproject.toml").read_text())["project"]
    install_metadata(site, "gubbins-tasks", project["entry-points"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DIRACX_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(site), str(GUBBINS / "src")]),
        "DIRACX_TASKS_NATS_URL": url,
        "DIRACX_TASKS_NAMESPACE": namespace,
        "DIRACX_DB_URL_LOLLYGAGDB": f"sqlite+aiosqlite:///{folder / 'lollygag.db'}",
        "COLUMNS": "200",
    }
    programs = Programs(folder, environment)
    try:
        yield programs
    finally:
        programs.end_all()


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[SchedulingMesh]:
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        yield mesh
        await mesh.remove()


@pytest.fixture
def programs(server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[Programs]:
    with programs_for(tmp_path, server.url, namespace) as programs:
        yield programs


@pytest.fixture
def bare(programs: Programs) -> Programs:
    """Without the extension, whose import takes a second for each command."""
    programs.leave_extension_out()
    return programs


async def leader(mesh: SchedulingMesh) -> int | None:
    """The process that leads."""
    bucket = Bucket(mesh.connection, mesh.namespace.locks_bucket)
    entry = await bucket.read("leader.task.scheduler")
    return None if entry is None else int(json.loads(entry.value)["worker"].split("-")[-3])


@pytest.mark.slow
async def test_every_occurrence_comes_once_though_the_leader_is_killed_twice_and_old_ones_give_way(
    mesh: SchedulingMesh, programs: Programs
) -> None:
    await mesh.configuration.write(f"vos: []\ntasks: {{'{CLEANUP}': {{schedule: {{interval: 1}}}}}}")
    processes = {process.pid: process for process in (programs.start("scheduler", "--takeover", "5") for _ in range(3))}
    await wait_until(lambda: programs.logs().count("tasks known") == 3, description="all run", timeout=60)
    await wait_until(lambda: _leads(mesh, processes.keys()), description="one leads")
    begun = datetime.now(UTC)
    for _ in range(2):
        victim = await leader(mesh)
        assert victim is not None
        processes.pop(victim).send_signal(signal.SIGKILL)
        await wait_until(lambda: _leads(mesh, processes.keys()), description="another one leads", timeout=15)

    async def arrived_for_20_s() -> bool:
        return bool(await mesh.waiting()) and (await mesh.arrived())[-1].due > begun + timedelta(seconds=20)

    await wait_until(arrived_for_20_s, description="20 s have passed", timeout=40)
    arrived = await mesh.arrived()
    assert not more_than_once(arrived)
    dues = sorted(each.due for each in arrived)
    assert all(b - a == timedelta(seconds=1) for a, b in itertools.pairwise(dues)), "one is missing"

    programs.start("worker", "--worker-size", "medium")
    dropped = f"dropped {CLEANUP} (message 1): expired at"
    await wait_until(
        lambda: dropped in programs.logs(), description="the first one gave way, and it is told", timeout=60
    )


async def _leads(mesh: SchedulingMesh, processes: Any) -> bool:
    return await leader(mesh) in processes


async def test_the_tasks_of_the_extension_run_for_each_vo(mesh: SchedulingMesh, programs: Programs) -> None:
    programs.make_tables()
    scheduler = programs.start("scheduler", "--vo", "lhcb", "--vo", "atlas")
    await wait_until(lambda: _held(mesh, 3), description="the tasks are on their own schedules", timeout=60)
    # Due in a moment, and then not for a day, so that nothing expires however slowly a worker starts.
    due = datetime.now(UTC) + timedelta(seconds=4)
    rule = f"{{rrule: 'DTSTART:{due:%Y%m%dT%H%M%SZ} RRULE:FREQ=DAILY'}}"
    await mesh.configuration.write(f"tasks: {{'{CLEANUP}': {{schedule: {rule}}}, '{REPORT}': {{schedule: {rule}}}}}")
    await wait_until(lambda: _waiting(mesh, 3), description="one occurrence of each", timeout=20)
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(10) == 0
    found = {(each.headers["Task-Name"], each.body) for each in await mesh.arrived()}
    assert found == {(CLEANUP, b"{}"), (REPORT, b'{"vo":"lhcb"}'), (REPORT, b'{"vo":"atlas"}')}
    worker = programs.start("worker", "--worker-size", "medium", "--burst", "--log-level", "debug")
    assert worker.wait(60) == 0
    assert programs.logs().count(f"done: {CLEANUP}") == 1
    assert programs.logs().count(f"done: {REPORT}") == 2


async def _waiting(mesh: SchedulingMesh, count: int) -> bool:
    return await mesh.waiting() >= count


async def test_schedules_are_listed_with_the_next_occurrence_or_the_reason_for_none(
    mesh: SchedulingMesh, programs: Programs
) -> None:
    await mesh.configuration.write(f"vos: [lhcb, my vo.org]\ntasks: {{'{CLEANUP}': {{enabled: false}}}}")
    before = programs.json("schedule", "list")
    assert {each["why_not"] for each in before} == {"disabled by the configuration", "no scheduler has taken it up yet"}
    scheduler = programs.start("scheduler")
    await wait_until(lambda: _held(mesh, 2), description="the reports are scheduled", timeout=60)
    listed, table = programs.each(("schedule", "list", "--json"), ("schedule", "list"))
    cleanup, first, second = json.loads(listed.stdout)
    assert cleanup == {
        "task": CLEANUP,
        "vo": None,
        "schedule": "every 3600 s",
        "enabled": False,
        "last": None,
        "next": None,
        "why_not": "disabled by the configuration",
        "entry": None,
        "args": {},
        "ran": None,
    }
    assert [first["vo"], second["vo"]] == ["lhcb", "my vo.org"]
    assert first["schedule"] == "cron 0 6 * * * (UTC)"
    assert first["next"].endswith("T06:00:00Z")
    assert first["why_not"] is None
    assert "disabled by the configuration" in table.stdout
    assert "my vo.org" in table.stdout
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(10) == 0


async def _held(mesh: SchedulingMesh, count: int) -> bool:
    return len(await mesh.held()) >= count


async def test_a_periodic_task_can_be_run_once_now(mesh: SchedulingMesh, programs: Programs) -> None:
    no_vo, not_periodic, done = programs.each(
        ("schedule", "run", REPORT),
        ("schedule", "run", "lollygag:SyncOwnersTask"),
        ("schedule", "run", REPORT, "--vo", "lhcb"),
    )
    assert [each.returncode for each in (no_vo, not_periodic, done)] == [2, 2, 0]
    assert "say for which with --vo" in no_vo.stderr
    assert "hand it to the workers with `submit`" in not_periodic.stderr
    (arrived,) = await mesh.arrived()
    assert (arrived.id, arrived.body) == (done.stdout.strip(), b'{"vo":"lhcb"}')


@pytest.mark.usefixtures("mesh")
def test_a_delayed_task_is_cancelled_once(programs: Programs) -> None:
    identity = programs.run("submit", "lollygag:SyncOwnersTask", "--args", '["alice"]', "--delay", "3600")
    assert programs.run("cancel", identity) == f"cancelled {identity}: it was to run later, and is withdrawn"
    assert f"no message of {identity} is in a queue or runs: " in programs.run("cancel", identity, code=1)


@pytest.mark.usefixtures("mesh")
def test_the_configuration_is_shown_as_it_was_written_and_a_bad_one_is_refused(bare: Programs) -> None:
    assert "no configuration is set" in bare.run("config", "show")
    text = "# ours\nvos: [lhcb]\ntasks: {x:Y: {enabled: false}}"
    assert "warning: tasks.x:Y: no task of that name is installed here" in bare.run("config", "set", "-", stdin=text)
    refused = bare.run("config", "set", "-", stdin="tasks: {x:Y: {enabld: false}}", code=2)
    assert "tasks.x:Y.enabld: unknown key; did you mean enabled?" in refused
    assert bare.json("config", "show")["text"] == text


DIRACX_LAYOUT = """
vos: [lhcb, atlas]
common:
  OwnerReportTask: {periodic: {schedule: "0 7 * * *"}}
  OwnerCleanupTask: {enabled: false}
vo-overrides:
  atlas:
    OwnerReportTask: {periodic: {schedule: "0 8 * * *"}}
"""


async def test_a_file_in_the_layout_of_diracx_is_followed_for_two_vos(mesh: SchedulingMesh, programs: Programs) -> None:
    programs.run("config", "set", "-", stdin=DIRACX_LAYOUT)
    programs.start("scheduler")

    async def following(**wanted: str) -> bool:
        """Whether the server holds an occurrence of the reports at these times of the day, by VO, and no other."""
        stored = await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.periodic.")
        held = {(each.headers["Task-Name"], each.body, f"{each.due:%H:%M}") for each in map(Arrived, stored)}
        return held == {(REPORT, b'{"vo":"%s"}' % vo.encode(), time) for vo, time in wanted.items()}

    await wait_until(lambda: following(lhcb="07:00", atlas="08:00"), description="each VO has its schedule", timeout=60)
    programs.run("config", "set", "-", stdin=DIRACX_LAYOUT.replace("0 8", "0 9"))
    await wait_until(lambda: following(lhcb="07:00", atlas="09:00"), description="the new one", timeout=30)


def test_without_a_mesh_the_error_names_the_remedy(bare: Programs) -> None:
    for command in (("schedule", "list"), ("config", "show"), ("cancel", "x")):
        assert "create it with `diracx-task-run setup`" in bare.run(*command, code=69)


def test_a_takeover_that_is_too_short_is_refused(bare: Programs) -> None:
    assert "a takeover takes 5 s or more" in bare.run("scheduler", "--takeover", "1", code=2)
