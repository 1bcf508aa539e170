"""`tests/gubbins`, copied and installed by pip as an author would: its tests, and its tasks on SQLite."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.command_line import CommandLine, OnTheServer
from support.installing import pip_install, run_pytest, run_python
from support.paths import DEMONSTRATION, GUBBINS

VARIABLE = "DIRACX_DB_URL_LOLLYGAGDB"
TASKS = ["lollygag:OwnerCleanupTask", "lollygag:OwnerReportTask", "lollygag:SyncOwnersTask"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source, with what pip made of it in `site`, and a database whose tables diracx-db has made."""
    folder = tmp_path_factory.mktemp("gubbins")
    shutil.copytree(GUBBINS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    pip_install(folder, folder / "site")
    environment = {**os.environ, "PYTHONPATH": str(folder / "site"), VARIABLE: url_of(folder)}
    run_python("-m", "diracx.db", "init-sql", command_line=CommandLine(environment, folder))
    return folder


@pytest.fixture
def gubbins(bare: CommandLine, copied: Path) -> CommandLine:
    """The command line with gubbins installed, and no server reachable."""
    bare.environment["PYTHONPATH"] = str(copied / "site")
    return bare


@pytest.fixture
def with_database(gubbins: CommandLine, copied: Path) -> CommandLine:
    """The same, with an empty database."""
    shutil.copy(copied / "lollygag.db", gubbins.folder)
    gubbins.environment[VARIABLE] = url_of(gubbins.folder)
    return gubbins


def url_of(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder}/lollygag.db"


def owners(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "lollygag.db")) as connection:
        return [name for (name,) in connection.execute("SELECT Name FROM Owners ORDER BY OwnerID")]


def test_its_own_tests_pass(gubbins: CommandLine, copied: Path) -> None:
    told = run_pytest(copied, gubbins)
    assert re.search(r"\d+ passed", told)
    assert not re.search(r"failed|skipped|error", told)


def test_its_tasks_are_installed(gubbins: CommandLine) -> None:
    listed = gubbins.json("tasks")
    assert [task["name"] for task in listed if task["name"].startswith("lollygag:")] == TASKS
    assert {task["distribution"] for task in listed} == {"gubbins-tasks"}


def test_a_task_is_called_without_a_server_and_its_row_stays(with_database: CommandLine) -> None:
    done = with_database("call", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    assert (done.returncode, done.stdout) == (0, "Result: 1\n"), done.stderr
    assert owners(with_database.folder) == ["alice"]


async def test_what_is_submitted_is_stored_by_a_worker(
    with_database: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer
) -> None:
    with_database.environment["DIRACX_TASKS_NATS_URL"] = server.url
    submitted = with_database("submit", "lollygag:SyncOwnersTask", "--kwargs", '{"owner_name": "bob"}')
    assert submitted.returncode == 0, submitted.stderr
    done = with_database("worker", "--worker-size", "small", "--burst")
    assert done.returncode == 0, done.stderr
    assert owners(with_database.folder) == ["bob"]
    assert await on_the_server.waiting() == 0
    assert await on_the_server.locks() == 0


def test_a_database_that_no_variable_names_is_told_with_the_task_before_anything_runs(gubbins: CommandLine) -> None:
    done = gubbins("call", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    assert done.returncode == 2
    assert done.stderr == (
        "error: lollygag:SyncOwnersTask needs LollygagDB: "
        "set DIRACX_DB_URL_LOLLYGAGDB, e.g. sqlite+aiosqlite:////path/lollygagdb.db\n"
    )


def test_a_database_without_tables_is_told_in_a_line_with_the_command_that_makes_them(gubbins: CommandLine) -> None:
    gubbins.environment[VARIABLE] = url_of(gubbins.folder)
    call = ("call", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    done, debugged = gubbins.each([call, (*call, "--log-level", "debug")])
    assert (done.returncode, done.stdout) == (1, "")
    told, would = [line for line in done.stderr.splitlines() if not line.startswith("an embedded server")]
    assert told == (
        "error: LollygagDB has no tables (no such table: Owners): run `python -m diracx.db init-sql`, with "
        "DIRACX_DB_URL_LOLLYGAGDB set as it is here"
    )
    # The rest of 5 s, so not longer than the line.
    assert re.fullmatch(r"failed; a worker would retry it in \S+ s", would)
    assert "Traceback" in debugged.stderr
    run_python("-m", "diracx.db", "init-sql", command_line=gubbins)
    assert gubbins(*call).stdout == "Result: 1\n"


@pytest.mark.slow
def test_the_demo_ends_with_all_as_expected(gubbins: CommandLine) -> None:
    told = run_python(str(DEMONSTRATION), command_line=gubbins)
    assert "All as expected: 1,000 stored, 1 recovered, 1 kept as a dead letter, 6 run by the scheduler" in told
    assert "10 children (10 succeeded), then census:AddUpOwnersTask" in " ".join(told.split())
    assert re.search(r"owners counted by a group +1,000 +1,000\n", told)
    assert "differs" not in told
