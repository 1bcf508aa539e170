"""The pages come true: their extensions are built, their commands are typed, their examples run.

`nats/README.md` is typed by `test_operators_page.py` and `test_server_configuration.py`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.installing import pip_install, run_pytest, run_python
from support.nats_command import find_nats
from support.pages import AUTHORS, NATS, OPERATORS, PAGES, README, Block, blocks, commands, examples, files, prose
from support.paths import CONSOLE_SCRIPT, TOP
from support.processes import DevProcess, free_port

DEFAULT_URL = "nats://127.0.0.1:4222"


@pytest.fixture(scope="module")
def own() -> Iterator[EmbeddedServer]:
    """A server for the namespace `diracx`."""
    with EmbeddedServer() as server:
        yield server


@dataclasses.dataclass
class Extension:
    """What a page builds, installed, at a command line."""

    page: Path
    folder: Path
    command_line: CommandLine

    def command(self, name: str) -> list[str]:
        return next(words for words in commands(self.page, "diracx-task-run") if words[0] == name)

    def calls(self) -> None:
        called = self.command_line(*self.command("call"))
        assert called.returncode == 0, called.stderr
        assert f"{called.stdout}```" in self.page.read_text("utf-8")

    def lists(self, task: str) -> None:
        listed = self.command_line(*self.command("tasks"))
        assert (listed.returncode, listed.stderr) == (0, "")
        assert task in listed.stdout

    async def submits_to_dev(self, task: str) -> None:
        dev = DevProcess(self.command_line, *self.command("dev")[1:], "--port", str(free_port()))
        await dev.ready()
        submitted = self.command_line(*self.command("submit"), DIRACX_TASKS_NATS_URL=dev.url)
        assert submitted.returncode == 0, submitted.stderr
        assert re.fullmatch(r"[0-9a-f]{32}\n", submitted.stdout)
        await wait_until(lambda: f"done: {task}" in dev.log, description="the task is done", timeout=30)
        for words in commands(self.page, "diracx-task-run"):
            if "--wait" in words:
                waited = self.command_line(*words, DIRACX_TASKS_NATS_URL=dev.url)
                assert waited.returncode == 0, waited.stderr
                assert f"{waited.stdout}```" in self.page.read_text("utf-8")
        dev.process.send_signal(signal.SIGINT)
        assert await dev.ended() == 0


Written = Callable[[Path], Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The extension of a page as a folder, with what pip made of it in `site`; made once."""
    made: dict[Path, Path] = {}

    def write(page: Path) -> Path:
        if page not in made:
            folder = made[page] = tmp_path_factory.mktemp(page.stem)
            for name, text in files(page).items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(text, encoding="utf-8")
            pip_install(folder, folder / "site")
        return made[page]

    return write


@pytest.fixture
def archive(bare: CommandLine, written: Written) -> Extension:
    folder = written(README)
    bare.environment["PYTHONPATH"] = str(folder / "site")
    return Extension(README, folder, bare)


@pytest.fixture
def acme(bare: CommandLine, written: Written) -> Extension:
    """With its database as the page exports it, in a folder of the test's own."""
    folder = written(AUTHORS)
    ((assignment,),) = commands(AUTHORS, "export")
    variable, _, url = assignment.partition("=")
    assert url.endswith("/$PWD/owners.db")
    bare.environment |= {"PYTHONPATH": str(folder / "site"), variable: url.replace("$PWD", str(bare.folder))}
    return Extension(AUTHORS, folder, bare)


def owners(acme: Extension) -> set[str]:
    with closing(sqlite3.connect(acme.command_line.folder / "owners.db")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM Owners")}


def make_tables(acme: Extension) -> None:
    (arguments,) = commands(AUTHORS, "python")
    run_python(*arguments, command_line=acme.command_line)


async def test_the_extension_of_the_readme_is_listed_called_and_run_in_dev(archive: Extension) -> None:
    assert set(files(README)) == {"archive/tasks.py", "pyproject.toml"}
    archive.lists("archive:ArchiveJobTask")
    archive.calls()
    await archive.submits_to_dev("archive:ArchiveJobTask")


def test_the_tests_of_the_authors_page_pass(acme: Extension) -> None:
    assert len(files(AUTHORS)) == 6
    assert commands(AUTHORS, "pytest") == [[]]
    assert "2 passed" in run_pytest(acme.folder, acme.command_line)


@pytest.mark.slow
async def test_the_extension_of_the_authors_page_is_listed_called_and_run_in_dev(acme: Extension) -> None:
    acme.lists("acme:SyncOwnersTask")
    make_tables(acme)
    acme.calls()
    await acme.submits_to_dev("acme:SyncOwnersTask")
    assert owners(acme) == {"alice", "bob"}


@pytest.mark.nats_command
def test_a_message_of_the_nats_command_is_a_task(acme: Extension, own: EmbeddedServer) -> None:
    make_tables(acme)
    burst = ("worker", "--worker-size", "small", "--burst", "--namespace", "diracx", "--nats-url", own.url)
    assert acme.command_line(*burst).returncode == 0  # creates the streams
    (arguments,) = commands(AUTHORS, "nats")
    nats = find_nats()
    assert nats is not None
    subprocess.run([nats, *arguments], env={**os.environ, "NATS_URL": own.url}, check=True, timeout=60)
    assert acme.command_line(*burst).returncode == 0
    assert "dave" in owners(acme)


@pytest.mark.parametrize("example", examples(), ids=str)
def test_an_example_runs(example: Block, acme: Extension, own: EmbeddedServer) -> None:
    if "owners_db" in example.text:
        make_tables(acme)
    script = acme.command_line.folder / "example.py"
    script.write_text(example.text.replace(DEFAULT_URL, own.url), encoding="utf-8")
    run_python(str(script), command_line=acme.command_line)


def test_the_configuration_of_the_page_is_accepted(acme: Extension, own: EmbeddedServer) -> None:
    (name, text), *others = files(OPERATORS).items()
    assert not others
    (acme.command_line.folder / name).write_text(text, encoding="utf-8")
    typed = [words for words in commands(OPERATORS, "diracx-task-run") if words[0] == "config"]
    of_the_mesh = ("--nats-url", own.url, "--namespace", "diracx")
    found = acme.command_line.each([*command, *of_the_mesh] for command in (["setup"], *typed))
    assert [done.returncode for done in found] == [0] * len(found), found
    shown = "".join(done.stdout for done in found)
    assert [words[1] for words in typed] == ["diff", "set", "show", "history"]
    assert f"\n{text}# --- From `config show`" in shown


PARSER = """
import json, sys, click
from diracx.tasks.cli.app import app

def find(words, whole):
    name, command, parent = "", app, None
    while isinstance(command, click.Group) and words:
        parent = command.context_class(command, info_name="", parent=parent, resilient_parsing=not whole)
        name, command, words = command.resolve_command(parent, words)
    return name, command, words, parent

def leaves(group, path=()):
    for name, command in group.commands.items():
        yield from leaves(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]

problems = []
for words, whole in json.load(sys.stdin):
    try:
        name, command, rest, parent = find(list(words), whole)
        if whole:
            command.make_context(name, rest, parent=parent)
        known = {"--help"}.union(*(each.opts for each in command.params))
        problems += [f"{words}: {word}" for word in rest if word.startswith("--") and word not in known]
    except click.ClickException as error:
        problems.append(f"{words}: {error.format_message()}")
json.dump({"problems": problems, "commands": sorted(" ".join(path) for path in leaves(app))}, sys.stdout)
"""


def parsed(command_line: CommandLine, typed: list[tuple[list[str], bool]]) -> dict[str, list[str]]:
    """What the command line makes of these arguments: whole ones, or a mere mention of a command and options."""
    (command_line.folder / "mesh.yaml").touch()
    done = subprocess.run(
        [CONSOLE_SCRIPT.with_name("python"), "-c", PARSER],
        input=json.dumps(typed),
        cwd=command_line.folder,
        env=command_line.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_every_command_of_ours_is_one(bare: CommandLine) -> None:
    typed = [(words, True) for page in PAGES if page != NATS for words in commands(page, "diracx-task-run")]
    mentioned = [
        (shlex.split(" ".join(code.split())), False)
        for page in PAGES
        for code in re.findall(r"`diracx-task-run ([a-z][^`]*)`", prose(page))
    ]
    assert len(typed) >= 20
    assert not parsed(bare, [*typed, *mentioned])["problems"]


def test_the_table_of_commands_has_every_command_with_its_options(bare: CommandLine) -> None:
    table = prose(OPERATORS).partition("\n## Commands\n")[2].partition("\n\nAll take ")[0].partition("|---|")[2]
    rows = re.findall(r"^\| (`[^|]*`) \|[^|]+\|(.*)\|$", table, re.M)
    listed = [
        (re.sub(r" *[A-Z].*", "", name).split(), option)
        for names, options in rows
        for name in re.findall(r"`([a-z][^`]*)`", names)
        for option in [re.findall(r"`(--[a-z-]+)", options)]
    ]
    mentioned = [([*name, *options], False) for name, options in listed]
    found = parsed(bare, mentioned)
    assert not found["problems"]
    assert sorted(" ".join(name) for name, _ in listed) == found["commands"]


@pytest.mark.parametrize("command", sorted({c for p in PAGES for b in blocks(p) for c in b.commands if c[0] in ".s"}))
def test_a_script_of_the_pages_is_there(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == ".":
        assert arguments == [".venv/bin/activate"]
        return
    # A page may stand in a folder beside this project.
    assert os.access(TOP / program.removeprefix("../diracx-tasks/"), os.X_OK)
    if program == "scripts/bench":
        run_python(str(TOP / "scripts" / "benchmarks"), *arguments, "--help")
    assert all((TOP / path).exists() for path in arguments if path.startswith("tests/"))


@pytest.mark.parametrize("page", [README, AUTHORS], ids=str)
def test_what_is_installed_has_its_extras(page: Path) -> None:
    ours = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    theirs = tomllib.loads(files(page)["pyproject.toml"])["project"].get("optional-dependencies", {})
    (arguments,) = commands(page, "pip")
    assert arguments[0] == "install"
    for path, extra in re.findall(r"([^ ]+)\[(\w+)\]", " ".join(arguments)):
        assert extra in (theirs if path == "." else ours)


def test_the_shell_takes_the_script_of_the_completion(bare: CommandLine) -> None:
    ((script,),) = commands(OPERATORS, "eval")
    path = f"{CONSOLE_SCRIPT.parent}:{os.environ['PATH']}"
    shell = ["bash", "-ec", f'eval "{script}"; complete -p diracx-task-run']
    subprocess.run(shell, env=bare.environment | {"PATH": path}, check=True, capture_output=True, timeout=60)
