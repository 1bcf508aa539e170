"""The README's "task in one page", built from its own code blocks and tried with its own commands."""

from __future__ import annotations

import re
import shlex
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.installing import pip_install, run_pytest, run_python
from support.processes import DevProcess, free_port

README = Path(__file__).parents[2] / "README.md"
FILES = {
    "acme/tasks.py",
    "acme/lock_types.py",
    "acme/depends.py",
    "acme/db.py",
    "pyproject.toml",
    "tests/test_tasks.py",
}


def page() -> str:
    found = re.search(r"^## A task in one page$(.*?)^### What a task can say$", README.read_text(), re.M | re.S)
    assert found, "the README has no section 'A task in one page'"
    return found[1]


def files() -> dict[str, str]:
    """A paragraph that begins with a path in backticks, and the block after it."""
    blocks = re.findall(r"^`([\w/]+\.\w+)`(?:(?!```).)*?^```\w+\n(.*?)^```$", page(), re.M | re.S)
    return dict(blocks)


def commands(program: str) -> list[list[str]]:
    """The arguments of each call of a program in the console blocks."""
    return [shlex.split(line) for line in re.findall(rf"^\$ {re.escape(program)}\b *(.*)$", page(), re.M)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension, with what pip made of it in `site`."""
    folder = tmp_path_factory.mktemp("acme")
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    pip_install(folder, folder / "site")
    return folder


@pytest.fixture
def acme(bare: CommandLine, written: Path) -> CommandLine:
    """The command line with the extension installed, and its database as the README exports it, in a folder of ours."""
    ((assignment,),) = commands("export")
    variable, _, url = assignment.partition("=")
    database = url.rpartition("/")[2]
    bare.environment |= {
        "PYTHONPATH": str(written / "site"),
        variable: f"{url.removesuffix(f'/tmp/{database}')}{bare.folder}/{database}",
    }
    return bare


def the_command(name: str) -> list[str]:
    (arguments,) = [arguments for arguments in commands("diracx-task-run") if arguments[0] == name]
    return arguments


def test_every_file_of_the_page_is_found() -> None:
    assert set(files()) == FILES


def test_its_test_passes(acme: CommandLine, written: Path) -> None:
    assert commands("pytest") == [[]]
    assert "2 passed" in run_pytest(written, acme)


async def test_its_commands_list_and_call_the_task_and_run_it_in_dev(acme: CommandLine) -> None:
    listed = acme(*the_command("tasks"))
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "acme:SyncOwnersTask" in listed.stdout
    (make_tables,) = commands("python")
    run_python(*make_tables, command_line=acme)
    called = acme(*the_command("call"))
    assert called.returncode == 0, called.stderr
    assert f"{called.stdout}```" in page()
    dev = DevProcess(acme, *the_command("dev")[1:], "--port", str(free_port()))
    await dev.ready()
    acme.environment["DIRACX_TASKS_NATS_URL"] = dev.url
    submitted = acme(*the_command("submit"))
    assert submitted.returncode == 0, submitted.stderr
    await wait_until(lambda: "done: acme:SyncOwnersTask" in dev.log, description="the task is done", timeout=30)
    dev.process.send_signal(signal.SIGINT)
    assert await dev.ended() == 0
    with closing(sqlite3.connect(acme.folder / "owners.db")) as connection:
        assert connection.execute("SELECT name FROM Owners").fetchall() == [("alice",), ("bob",)]
